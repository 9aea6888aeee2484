"""What a measurement was made on and with: processor, GPU, commit and versions, and how much memory it took.

Every figure that a benchmark writes carries these.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from recap_fast.version import __version__

LIBRARIES = ("torch", "tensorrt-llm", "transformers", "pyarrow", "pillow", "numpy", "nvidia-dali-cuda130")


def describe_machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in bytes, GPUs by name."""
    import torch

    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(),
    }


def describe_versions() -> dict[str, str]:
    """recap-fast, Python, and those of LIBRARIES that are installed."""
    versions = {"recap-fast": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def list_versions(backend: str, decoder: str) -> str:
    """Those that a run's rows depend on, in one line: of recap-fast, the engine's backend and the image decoders."""
    found = describe_versions()
    dali = ("nvidia-dali-cuda130",) if decoder == "dali" else ()
    return ", ".join(f"{name} {found[name]}" for name in ("recap-fast", backend, *dali, "pillow") if name in found)


def find_commit() -> str | None:
    """The commit of the git checkout that recap-fast runs from, '+' behind it where files differ.

    Outside of a checkout the one that it was installed from, if that was a git repository; else None.
    """
    folder = Path(__file__).parent
    try:
        _git(folder, "ls-files", "--error-unmatch", ":/recap_fast/__init__.py")  # else it is installed in another's
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", ":/recap_fast")
    except (OSError, subprocess.SubprocessError):
        return _installed_commit(folder)
    return commit + ("+" if changed else "")


def _installed_commit(folder: Path) -> str | None:
    """That of the repository that the package in `folder` was installed from, by PEP 610."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        package = importlib.metadata.distribution("recap-fast")
        if Path(str(package.locate_file(folder.name))) == folder:
            source = json.loads(package.read_text("direct_url.json") or "{}")
            commit: str = source.get("vcs_info", {}).get("commit_id", "")
            return commit[:12] or None
    return None


def reset_peak_memory() -> None:
    """Lets `peak_memory` count from now on, as far as the system can."""
    with contextlib.suppress(OSError):  # where this is no Linux, or forbids it, the peak is the whole process's
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM
    if (torch := _torch_with_cuda()) is not None:
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Bytes at most since `reset_peak_memory`: 'rss' of this process, 'cuda' as torch allocated it where it did."""
    peak = {"rss": _peak_rss()}
    if (torch := _torch_with_cuda()) is not None:
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def process_started() -> float:
    """When this process began, by time.monotonic(); now, where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks = int(fields[19])  # proc_pid_stat(5): field 22, since the machine was started
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        age = 0.0
    return time.monotonic() - max(0.0, age)


def _peak_rss() -> int:
    with contextlib.suppress(OSError):  # no Linux, or one whose kernel is emulated and says less
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _torch_with_cuda() -> Any:
    """torch, where it is loaded already and has used a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
