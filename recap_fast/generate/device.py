"""Which device an engine runs on, by the name that `--device` gave, and which precisions it has.

What a device has is plain data, so that it can be tested for GPUs that are not here. Every device has float32 and
float16. A CPU computes in all precisions; where it lacks the instructions it is slow.
"""

import math
import os
import platform
from dataclasses import dataclass
from typing import get_args

import torch

from recap_fast.cpus import usable_cpus
from recap_fast.errors import ConfigError
from recap_fast.generate.spec import KVPrecision, Precision
from recap_fast.machine import cpu_model
from recap_fast.ranks import local_index

MIN_CAPABILITY: dict[Precision, tuple[int, int]] = {
    "bfloat16": (8, 0),  # matrix units of Ampere
    "int8": (8, 0),  # `torch._int_mm` has been there since Turing (7.5), but what is not in 8 bits is bfloat16
    "fp8": (8, 9),  # matrix units of Ada and Hopper
}
"""Of a GPU, for what not all have."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
WITHOUT = "RECAP_FAST_WITHOUT"
"""Environment variable: names of `OPTIONAL_KERNELS` that a GPU is not to use, separated by commas."""
OPTIONAL_KERNELS = "cuda-kernels", "cudnn-attention", "row-wise-fp8"
"""What others can replace: decode attention in CUDA C++ (replaced by Triton's), cuDNN's attention of images (by torch's
own), and FP8 products with a scale for each row (by products without, and scales applied where they are read)."""


def resolve_device(name: str) -> torch.device:
    """`auto` is `cuda` where there is a GPU, and `cuda` is this process's GPU: the first one, or where torchrun or srun
    started several processes that see several GPUs, the one of this process's position among those of the machine.

    Raises ConfigError for a device that is not there. A CUDA device has its index: `torch.cuda.set_device` takes none
    without.
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
    index = device.index if ":" in name else _own_gpu(torch.cuda.device_count())
    if index >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices.")
    return torch.device("cuda", index)


def _own_gpu(num_gpus: int) -> int:
    """The GPU of this process. Where it sees one only, such as by CUDA_VISIBLE_DEVICES, that is the one."""
    if num_gpus < 2:
        return 0
    name, index = local_index(os.environ)
    if index >= num_gpus:
        raise ConfigError(
            f"{name} is {index}, and torch sees {num_gpus} GPUs: start at most {num_gpus} processes on this machine, "
            "or give --device cuda:N."
        )
    return index


def disabled_kernels() -> frozenset[str]:
    """The `OPTIONAL_KERNELS` that the environment disables. Raises ConfigError for an unknown name."""
    names = frozenset(name.strip() for name in os.environ.get(WITHOUT, "").split(",")) - {""}
    if unknown := sorted(names.difference(OPTIONAL_KERNELS)):
        raise ConfigError(f"{WITHOUT} has unknown names: {', '.join(unknown)}. It takes {', '.join(OPTIONAL_KERNELS)}.")
    return names


def gpu_number(name: str) -> int | None:
    """The number of the GPU that an engine on this device runs on; None for a CPU and for what it will refuse."""
    try:
        return resolve_device(name).index
    except ConfigError:
        return None


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that nobody uses. What torch's allocator has in reserve is given back first, such as what
    an engine took that could not be opened."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def device_name(device: torch.device) -> str:
    """For people, and the key of what is known of a device: the card, or the processor with the threads it is given."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = num_cpu_threads()
    return f"{cpu_model()}, {count} thread{'s' if count > 1 else ''}"


def num_cpu_threads() -> int:
    """What an engine on the CPU may use: torch's threads, but no more than there are processors for them."""
    return min(torch.get_num_threads(), math.ceil(usable_cpus()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What matters here of a device."""

    device: torch.device
    name: str
    capability: tuple[int, int] | None
    """CUDA's compute capability; None for a CPU."""
    slow: frozenset[Precision] = frozenset()
    """What a CPU has no instructions for."""

    @property
    def sm(self) -> str:
        """The compute capability in words, such as '9.0'."""
        return ".".join(map(str, self.capability or ()))

    def precisions(self) -> tuple[Precision, ...]:
        if self.capability is None:
            return PRECISIONS
        return tuple(p for p in PRECISIONS if self.capability >= MIN_CAPABILITY.get(p, (0, 0)))


def find_hardware(device: torch.device) -> Hardware:
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        return Hardware(device=device, name=name, capability=capability)
    slow: set[Precision] = {"fp8"}
    if platform.machine() in ("x86_64", "AMD64"):
        has_amx = torch.cpu._is_amx_tile_supported()
        fast = {
            "bfloat16": has_amx or torch.cpu._is_avx512_bf16_supported(),
            "float16": torch.ops.mkldnn._is_mkldnn_fp16_supported(),
            "int8": has_amx or torch.cpu._is_vnni_supported(),
        }
        slow |= {precision for precision in PRECISIONS if not fast.get(precision, True)}
    return Hardware(device=device, name="this CPU", capability=None, slow=frozenset(slow))


def check_precision(precision: Precision, hardware: Hardware, kv_precision: KVPrecision = "auto") -> str | None:
    """Returns a note for people where the device has the precisions of an engine, but is slow in them; else None.

    Raises ConfigError for one that it lacks, with those that it has.
    """
    if hardware.capability is None:
        if precision not in hardware.slow:
            return None
        *others, last = (p for p in ("int8", "bfloat16", "float32") if p not in hardware.slow)
        faster = f"{', '.join(others)} or {last}" if others else last
        why = f"{hardware.name} has no instructions for {precision}"
        if precision == "fp8":
            why = "fp8 is emulated in float32 on a CPU"
        return f"{why}; --precision {faster} is faster."
    has = hardware.precisions()
    for key, wanted in (("precision", precision), ("kv_precision", kv_precision)):
        if wanted != "auto" and wanted not in has:
            needed = ".".join(map(str, MIN_CAPABILITY[wanted]))
            way = f"another precision. It takes {', '.join(has)}."
            if key == "kv_precision":
                way = 'kv_precision = "auto" in its recipe.'
            raise ConfigError(
                f"{key} {wanted} needs compute capability {needed}, and {hardware.name} has {hardware.sm}: build the "
                f"engine with {way}"
            )
    return None
