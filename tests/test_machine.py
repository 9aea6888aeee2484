import subprocess

import numpy as np

import recap_fast
from recap_fast import machine


def test_machine_and_versions_are_named():
    found = machine.describe_machine()
    assert found["cores"] >= 1
    assert found["cpu"]
    assert found["memory_bytes"] > 1 << 28
    versions = machine.describe_versions()
    assert versions["recap-fast"] == recap_fast.__version__
    assert set(versions) >= {"python", "torch", "pyarrow"}


def test_peak_memory_counts_from_the_reset_on():
    machine.reset_peak_memory()
    before = machine.peak_memory()["rss"]
    block = np.ones(256 << 20, np.uint8)
    during = machine.peak_memory()["rss"]
    assert during - before > 128 << 20  # the system may take other pages back meanwhile
    del block
    assert machine.peak_memory()["rss"] > during - (64 << 20)  # a peak stays
    machine.reset_peak_memory()
    assert machine.peak_memory()["rss"] < during - (128 << 20)


def test_the_commit_says_whether_files_differ(tmp_path, monkeypatch):
    package = tmp_path / "recap_fast"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.find_commit() is None

    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = machine.find_commit()
    assert commit is not None
    assert len(commit) == 12
    (package / "new.py").write_text("")
    assert machine.find_commit() == commit + "+"
