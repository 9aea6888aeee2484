import os
import re
import subprocess
import sys

import pytest

from recap_fast import cpus


def make_root(folder, groups, files):
    """A root with the groups of this process and files below sys/fs/cgroup."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def sixteen_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


@pytest.mark.usefixtures("sixteen_cpus")
@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/\n", {"cpu.max": "3200000 100000\n"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 200000\n", "a/cpu.max": "400000 100000\n"}, 0.5),
        ("0::/seen/from/outside\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/../beside\n", {"cpu.max": "200000 100000\n"}, 2),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a\n0::/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "50000\n"},
            3,
        ),
        (
            "4:cpu,cpuacct:/docker/1f\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "700000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            7,
        ),
        ("4:cpuset:/\n", {"cpuset/cpu.max": "100000 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 16),
        ("0::/\n", {}, 16),
    ],
)
def test_the_least_quota_of_all_groups_counts(tmp_path, groups, files, expected):
    assert cpus.usable_cpus(make_root(tmp_path, groups, files)) == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "max\n"}, 1 << 36),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{1 << 33}\n"}, 1 << 33),
        ("5:memory:/a\n0::/\n", {"memory/memory.limit_in_bytes": f"{1 << 32}\n"}, 1 << 32),
        ("5:memory:/a\n0::/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1 << 36),
        ("4:cpu:/\n", {"cpu/memory.max": "7\n"}, 1 << 36),
    ],
)
def test_the_least_memory_of_all_groups_counts(tmp_path, monkeypatch, groups, files, expected):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1 << 12, "SC_PHYS_PAGES": 1 << 24}.get)
    assert cpus.usable_memory(make_root(tmp_path, groups, files)) == expected


@pytest.mark.usefixtures("sixteen_cpus")
def test_without_control_groups_the_processors_count(tmp_path):
    assert cpus.usable_cpus(tmp_path) == 16


@pytest.mark.parametrize(("usable", "threads"), [(0.5, 1), (1.0, 1), (3.5, 1), (4.0, 2), (16.0, 8)])
def test_half_of_the_processors_decode(monkeypatch, usable, threads):
    monkeypatch.setattr(cpus, "usable_cpus", lambda: usable)
    assert cpus.default_decode_threads() == threads


def waits(**settings):
    """What libgomp says of its waits in a process with these settings."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", "import recap_fast, torch"]
    environment = {**kept, "OMP_DISPLAY_ENV": "verbose", **settings}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    return re.search(r"GOMP_SPINCOUNT = '(\d+)'", shown)[1]


def test_threads_wait_briefly_unless_the_environment_says_otherwise():
    assert waits() == "2000"
    assert waits(GOMP_SPINCOUNT="7") == "7"
    assert waits(OMP_WAIT_POLICY="passive") == "0"
