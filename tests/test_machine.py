import json
import subprocess
import sys

import pytest

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


PEAKS = """
import numpy as np
from recap_fast import machine
machine.reset_peak_memory()
print(machine.peak_memory()["rss"])
block = np.ones(256 << 20, np.uint8)
print(machine.peak_memory()["rss"])
del block
print(machine.peak_memory()["rss"])
machine.reset_peak_memory()
print(machine.peak_memory()["rss"])
"""


def test_peak_memory_counts_from_the_reset_on():
    """A process of its own: where an engine was opened before, malloc keeps what is freed."""
    done = subprocess.run([sys.executable, "-c", PEAKS], check=True, capture_output=True, text=True)
    before, during, after, reset = (int(line) >> 20 for line in done.stdout.split())
    assert during - before > 128, "the system may take other pages back meanwhile"
    assert after > during - 64, "a peak stays"
    assert reset < during - 128


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


def test_a_repository_that_recap_fast_is_installed_in_is_not_its_own(tmp_path, monkeypatch):
    package = tmp_path / ".venv" / "recap_fast"
    package.mkdir(parents=True)
    for command in (["init"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, capture_output=True)
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    assert machine.find_commit() is None


@pytest.mark.parametrize(
    ("source", "commit"),
    [
        (
            {"url": "https://x.org/r.git", "vcs_info": {"commit_id": "0123456789abcdef" * 2}},
            "0123456789ab",
        ),
        ({"url": "file:///r", "dir_info": {}}, None),
        (None, None),
    ],
)
def test_the_commit_that_a_package_was_installed_from(source, commit, tmp_path, monkeypatch):
    package, about = tmp_path / "recap_fast", tmp_path / "recap_fast-1.0.dist-info"
    package.mkdir()
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: recap-fast\nVersion: 1.0\n")
    if source is not None:
        (about / "direct_url.json").write_text(json.dumps(source))
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.syspath_prepend(tmp_path)
    assert machine.find_commit() == commit


def test_a_process_knows_when_it_began():
    code = "import time; before = time.monotonic(); time.sleep(0.2)\nfrom recap_fast.machine import process_started\n"
    code += "assert process_started() <= before, (process_started(), before)\nassert process_started() > before - 600"
    subprocess.run([sys.executable, "-c", code], check=True)
