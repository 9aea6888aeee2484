"""Which device an engine runs on, by the name that `--device` gave."""

import math

import torch

from recap_fast.cpus import usable_cpus
from recap_fast.errors import ConfigError
from recap_fast.machine import cpu_model


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA device where there is one. Raises ConfigError for a device that is not there.

    A CUDA device has its index: `torch.cuda.set_device` takes none without.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: give auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: recap-fast runs on cpu and cuda.")
    if device.type == "cpu":
        return device
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices.")
    return torch.device("cuda", index)


def gpu_number(name: str) -> int | None:
    """The number of the GPU that an engine on this device runs on; None for a CPU and for what it will refuse."""
    try:
        return resolve_device(name).index
    except ConfigError:
        return None


def device_name(device: torch.device) -> str:
    """For people, and the key of what is known of a device: the card, or the processor with the threads it is given."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = num_cpu_threads()
    return f"{cpu_model()}, {count} thread{'s' if count > 1 else ''}"


def num_cpu_threads() -> int:
    """What an engine on the CPU may use: torch's threads, but no more than there are processors for them."""
    return min(torch.get_num_threads(), math.ceil(usable_cpus()))
