"""How many processors and how much memory this process may use, of the machine's or its control group's; its waits."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def default_decode_threads() -> int:
    """Half of the processors that this process may use: the others are for the engine, the reader and the writer."""
    return max(1, int(usable_cpus()) // 2)


def usable_cpus(root: Path = Path("/")) -> float:
    """A container may be given fewer processors than it sees, and parts of one. `root` has `proc` and `sys`."""
    return min([float(len(os.sched_getaffinity(0))), *_quotas(root)])


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes. A container may be given less memory than it sees. `root` has `proc` and `sys`."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_memory_limits(root)])


def shorten_waits() -> None:
    """Lets OpenMP's threads sleep after some tens of microseconds of waiting, unless the environment says how to wait.

    libgomp, which torch brings, reads this once, when it is loaded; by default it spins for milliseconds. Beside a busy
    process a core that is time of the very thread that is waited for. With this, int8 and bfloat16 engines make 1.5 to
    2 times as many captions there, and as many as before alone.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _quotas(root: Path) -> Iterator[float]:
    """The processors that each control group around this process may use, where there is a limit."""
    for folder in _control_groups(root, "cpu"):
        yield from _read_quota(folder)


def _memory_limits(root: Path) -> Iterator[int]:
    """The bytes that each control group around this process may use, where there is a limit."""
    for folder in _control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
                yield int((folder / name).read_text(encoding="ascii"))


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups around this process, of version 2 or 1.

    A container often sees its own group as the root, under the path that the group has outside: so every folder from
    that path up to the root counts where it is there.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:  # 0::/PATH, or NUMBER:cpu,cpuacct:/PATH
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        groups = PurePosixPath(path.lstrip("/"))
        for folder in (groups, *groups.parents):
            yield root / "sys/fs/cgroup" / controllers / folder


def _read_quota(folder: Path) -> Iterator[float]:
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            if float(quota) > 0:
                yield float(quota) / float(period)
        except (OSError, ValueError):  # no such group, or "max"
            continue
