"""From an engine directory to weights on a device, in the precision that the device computes in."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recap_fast.errors import ConfigError
from recap_fast.generate.ops.linear import quantize_channels
from recap_fast.generate.spec import EngineSpec


def model_dtype(spec: EngineSpec, device: torch.device) -> torch.dtype:
    """What everything that is not in 8 bits is computed in.

    That is bfloat16 in 8-bit engines, or float32 on a CPU without instructions for bfloat16.
    """
    is_8_bits = spec.precision != spec.compute_precision
    if is_8_bits and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    dtype: torch.dtype = getattr(torch, spec.compute_precision)
    return dtype


def load_weights(path: Path, spec: EngineSpec, device: torch.device) -> dict[str, Tensor]:
    """All tensors of the engine's weight file, streamed to the device; on a CPU they stay memory-mapped where they can.

    On a CPU the layers of an int8 engine's vision tower are quantized here: there, unlike on a GPU, they are worth it.
    """
    dtype = model_dtype(spec, device)
    weights: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(name)
                weights[name] = tensor.to(dtype) if tensor.dtype == torch.bfloat16 else tensor
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): build the engine again.") from error
    if spec.precision == "int8" and device.type == "cpu":
        for name in [n for n in weights if n.startswith("vision.layers.") and weights[n].ndim == 2]:
            weights[name], weights[name.replace(".weight", ".scale")] = quantize_channels(weights[name], torch.int8)
    return weights
