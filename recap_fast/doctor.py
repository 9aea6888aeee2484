"""`recap-fast doctor`: what this machine can do, in a line each, and what to install for the rest.

Nothing here fails because of what it looks at: a package that does not load is a finding.
"""

import importlib
import importlib.metadata
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recap_fast.cpus import usable_cpus, usable_memory
from recap_fast.machine import cpu_model, describe_versions
from recap_fast.text import counted, message_of

GIB = 1 << 30
REQUIRED = {
    "numpy": "numpy",
    "torch": "torch",
    "pyarrow": "pyarrow",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "fsspec": "fsspec",
}
"""What nothing runs without: modules, and what pip calls them."""
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
"""There where an NVIDIA driver is loaded."""
COMMANDS = {
    "report": ("report", ("duckdb", "jinja2", "matplotlib")),
    "score": ("score", ("transformers",)),
    "score --kind rating": ("rating", ("openai",)),
    "Hub": ("hub", ("huggingface_hub",)),
}
"""Commands that need an extra: its name, and the modules that it brings."""
CUDA_TORCH = "torch --index-url https://download.pytorch.org/whl/cu130"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report."""

    name: str
    text: str
    install: Mapping[str, str] = field(default_factory=dict)
    """What `pip install` would add to it: packages, and what for."""
    is_fatal: bool = False
    """Whether no engine can run because of it."""


def examine() -> list[Finding]:
    """All findings, in the order of the report. Takes a few seconds: it imports torch and, if it is there, DALI."""
    return [finding for look in LOOKS for finding in _found(look)]


def _found(look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except Exception as error:  # noqa: BLE001 - a broken package raises anything, and that is what is reported
        return [Finding(look.__name__.removeprefix("_"), f"not known: {message_of(error)}")]


def _versions() -> Iterator[Finding]:
    found = describe_versions()
    names = ("recap-fast", "python", "torch")
    yield Finding("versions", ", ".join(f"{name} {found[name]}" for name in names if name in found))


def _packages() -> Iterator[Finding]:
    for module, package in REQUIRED.items():
        if error := _failure(importlib.import_module, module):
            missing = {} if _version(package) else {package: "all of recap-fast"}
            yield Finding(package, f"does not load: {error}", missing, is_fatal=True)


def _processor() -> Iterator[Finding]:
    name, cores = re.sub(r"\((R|TM)\)| CPU| @ .*", "", cpu_model()), usable_cpus()
    usable = counted(int(cores), "core") if cores == int(cores) else f"{cores:.1f} cores"
    yield Finding("processor", f"{name}, {usable}, {usable_memory() / GIB:.0f} GiB of memory")


def _gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        if not NVIDIA_DRIVER.is_file():
            yield Finding("GPU", "none: engines run on the CPU")
        elif torch.version.cuda is None:
            yield Finding("GPU", f"not used: torch {torch.__version__} is built for CPUs", {CUDA_TORCH: "the GPU"})
        else:
            yield Finding("GPU", f"not used: its driver{_driver()} is too old for torch's CUDA {torch.version.cuda}")
        return
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        memory = f"{about.total_memory / GIB:.0f} GiB"
        driver = f", driver{_driver()}" if _driver() else ""
        yield Finding(f"GPU {i}", f"{about.name}, {memory}, capability {about.major}.{about.minor}{driver}")


def _driver() -> str:
    """The version of NVIDIA's driver, with a space before it; nothing where it cannot be told."""
    text = NVIDIA_DRIVER.read_text(encoding="utf-8") if NVIDIA_DRIVER.is_file() else ""
    version = re.search(r"Module.*?(\s\d+\.[\d.]+)", text)
    return version[1] if version else ""


def _precisions() -> Iterator[Finding]:
    from recap_fast.generate.device import find_hardware, resolve_device

    hardware = find_hardware(resolve_device("auto"))
    fast = [precision for precision in hardware.precisions() if precision not in hardware.slow]
    slow = f"; slow: {', '.join(sorted(hardware.slow))}" if hardware.slow else ""
    yield Finding("precisions", ", ".join(fast) + slow)


def _kernels() -> Iterator[Finding]:
    import torch

    for module in ("recap_fast.arrow_core", "recap_fast.generate.ops.cpp"):
        if error := _failure(importlib.import_module, module):
            yield Finding("C++", f"does not load: {error}", is_fatal=True)
            return
    parts = ["C++ for the CPU"]
    if torch.cuda.is_available() and _failure(importlib.import_module, "recap_fast._cuda_ops") is None:
        parts.append("CUDA C++ for GPUs")
    if version := _version("triton"):
        parts.append(f"Triton {version}")
    yield Finding("kernels", ", ".join(parts))


def _decoders() -> Iterator[Finding]:
    from recap_fast.decode.decoder import DALI_PACKAGE

    pillow = f"Pillow {_version('pillow')}"
    error = _failure(importlib.import_module, "nvidia.dali")
    if error is None:
        yield Finding("decoders", f"{pillow}, DALI {_version(DALI_PACKAGE)} (used on GPUs)")
    elif _version(DALI_PACKAGE):
        yield Finding("decoders", f"{pillow}; DALI does not load: {error}")
    else:
        yield Finding("decoders", f"{pillow}; no DALI, which decodes on GPUs", {DALI_PACKAGE: "decoding on GPUs"})


def _formats() -> Iterator[Finding]:
    from recap_fast.decode.codecs import EXTRA_PLUGINS

    lacking = {name: plugin.package for name, plugin in EXTRA_PLUGINS.items() if _failure(plugin.load)}
    found = ", ".join(["JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP", *(n for n in EXTRA_PLUGINS if n not in lacking)])
    yield Finding("images", found + _without(lacking), _by_package(lacking))


def _addresses() -> Iterator[Finding]:
    from recap_fast.shards.remote.access import PACKAGES

    schemes = ("s3", "gs", "az", "https", "hf")
    lacking = {f"{s}://": PACKAGES[s][1] for s in schemes if _failure(importlib.import_module, PACKAGES[s][0])}
    found = ", ".join(["local files", *(url for s in schemes if (url := f"{s}://") not in lacking)])
    yield Finding("inputs", found + _without(lacking), _by_package(lacking))


def _commands() -> Iterator[Finding]:
    def is_there(modules: tuple[str, ...]) -> bool:
        return all(importlib.util.find_spec(module) for module in modules)  # loading them takes seconds

    lacking = {name: f"'recap-fast[{extra}]'" for name, (extra, modules) in COMMANDS.items() if not is_there(modules)}
    found = ", ".join(["export", *(name for name in COMMANDS if name not in lacking)])
    yield Finding("captions", found + _without(lacking), _by_package(lacking))


def _room() -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    yield Finding("room", f"{shutil.disk_usage(folder).free / GIB:.0f} GiB free in {folder}, for remote inputs")


LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _versions,
    _packages,
    _processor,
    _gpus,
    _precisions,
    _kernels,
    _decoders,
    _formats,
    _addresses,
    _commands,
    _room,
)


def _by_package(lacking: Mapping[str, str]) -> dict[str, str]:
    """What each package is for."""
    return {package: ", ".join(what for what in lacking if lacking[what] == package) for package in lacking.values()}


def _without(lacking: dict[str, str]) -> str:
    return f"; not {', '.join(lacking)}" if lacking else ""


def _failure(load: Callable[..., Any], *args: Any) -> str | None:
    """What loading something raises; None if it loads."""
    try:
        load(*args)
    except Exception as error:  # noqa: BLE001 - a broken package raises anything, and that is what is reported
        return message_of(error)
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
