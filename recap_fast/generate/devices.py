"""Which GPU an engine will run on, by the name that a user gives the device."""


def gpu_number(device: str) -> int | None:
    """The number of the GPU that an engine on `device` will run on; None for a CPU and for what it will refuse."""
    import torch

    if device == "cpu":
        return None
    try:
        found = torch.device("cuda" if device == "auto" else device)
    except RuntimeError:
        return None
    return (found.index or 0) if found.type == "cuda" and torch.cuda.is_available() else None
