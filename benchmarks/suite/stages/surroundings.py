"""What is around the engine: versions, tools, room, the native modules, the card."""

import contextlib
import importlib.metadata
import os
import shutil
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from inputs.card import SHARED_MEMORY, describe_card
from suite import build as native
from suite.probe import Probe

LIBRARIES = (
    "torch",
    "triton",
    "pyarrow",
    "pybind11",
    "numpy",
    "transformers",
    "tokenizers",
    "safetensors",
    "click",
    "fsspec",
    "pillow",
    "pytest",
    "cmake",
)
TOOLS = ("cmake", "g++", "gcc", "ninja", "nvcc", "nvidia-smi", "ncu", "git")
WAIT_S = 120.0
GIB = 1 << 30


def environment(probe: Probe, found: dict[str, Any]) -> None:
    """Versions, compilers, cores and room."""
    found["python"] = sys.version.split()[0]
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found["Python.h"] = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    found["tools"] = {tool: shutil.which(tool) for tool in TOOLS}
    found["cores"], found["libc"] = len(os.sched_getaffinity(0)), os.confstr("CS_GNU_LIBC_VERSION")
    for folder in (SHARED_MEMORY, Path(tempfile.gettempdir())):
        if folder.is_dir():
            found[f"GiB free in {folder}"] = round(shutil.disk_usage(folder).free / GIB, 1)
    found["card"] = describe_card()
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "triton", "pyarrow") if name in found)
    probe.add(f"python {found['python']}, {versions}", f"{found['cores']} cores")


def build(probe: Probe, found: dict[str, Any]) -> None:
    """Looks for native modules that load, and else builds them, while the card is looked at."""
    del found
    probe.modules = ThreadPoolExecutor(1, "build").submit(native.provide, probe.setting)


def modules(probe: Probe, found: dict[str, Any]) -> None:
    """Waits for the native modules."""
    if probe.modules is None:  # an earlier process was to get them
        found["from"] = native.provide(probe.setting)
    else:
        found["from"] = probe.modules.result(WAIT_S)
    found["CUDA kernels"] = native.cuda_kernels()
    probe.add("native modules", found["from"])
    probe.add("CUDA kernels", found["CUDA kernels"])


def card(probe: Probe, found: dict[str, Any]) -> None:
    """What torch says of the card, and that it computes."""
    import torch

    if not probe.is_gpu:
        found["none"] = True
        return
    properties = torch.cuda.get_device_properties(probe.device)
    found |= {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "cache_bytes": properties.L2_cache_size,
        "memory_bytes": torch.cuda.mem_get_info(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    total = float(torch.ones(1000, device=probe.device).sum())
    probe.add(f"{properties.name}: 1000 ones are", f"{total:.0f}", "1000", total == 1000)
