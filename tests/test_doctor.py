"""`doctor`: what it says of a machine, of missing packages and of broken ones."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from recap_fast import doctor
from recap_fast.cli.main import cli


def find(name):
    return next(finding for finding in doctor.examine() if finding.name.startswith(name))


def lose(monkeypatch, *packages):
    """They are not installed, nor imported before."""
    for module in [m for m in sys.modules if m.partition(".")[0] in packages]:
        monkeypatch.delitem(sys.modules, module)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def test_it_fits_a_screen_and_says_what_is_there():
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 0
    lines = done.output.partition("\n\n")[0].splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 80
    assert f"torch {torch.__version__}" in lines[0]


def test_json_has_the_same():
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    found = [(entry["name"], entry["install"]) for entry in json.loads(done.output)]
    assert found == [(finding.name, finding.install) for finding in doctor.examine()]


def test_it_names_what_to_install(monkeypatch):
    lose(monkeypatch, "pillow_heif", "pillow_jxl", "aiohttp", "obstore")
    assert find("images").install == {"pillow-heif": "HEIC", "pillow-jxl-plugin": "JPEG XL"}
    assert find("images").text.endswith("; not HEIC, JPEG XL")
    assert find("inputs").install == {"'recap-fast[cloud]'": "s3://, gs://, az://", "aiohttp": "https://"}
    output = CliRunner().invoke(cli, ["doctor"]).output
    assert "  pip install pillow-heif           # HEIC\n" in output


def test_it_names_the_commands_that_need_an_extra(monkeypatch):
    lose(monkeypatch, "duckdb", "openai")
    assert find("captions").text == ("export, score, Hub; not report, score --kind rating")
    assert find("captions").install == {
        "'recap-fast[report]'": "report",
        "'recap-fast[rating]'": "score --kind rating",
    }


def test_a_broken_package_is_a_finding(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "nvidia.dali":
                raise RuntimeError("libcuda.so.1 is from another world")

    lose(monkeypatch, "nvidia.dali")
    monkeypatch.delitem(sys.modules, "nvidia.dali")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(doctor, "_version", lambda package: "1.0")
    assert find("decoders").text == "Pillow 1.0; DALI does not load: libcuda.so.1 is from another world"


def test_without_native_modules_nothing_runs(monkeypatch):
    lose(monkeypatch, "recap_fast.arrow_core")
    monkeypatch.setitem(sys.modules, "recap_fast.arrow_core", None)
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 1
    assert "C++ does not load" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("driver", "cuda", "text", "install"),
    [
        (False, None, "none: engines run on the CPU", {}),
        (True, None, "not used: torch 2.x is built for CPUs", {doctor.CUDA_TORCH: "the GPU"}),
        (True, "13.0", "not used: its driver is too old for torch's CUDA 13.0", {}),
    ],
)
def test_a_gpu_that_is_not_used(monkeypatch, tmp_path, driver, cuda, text, install):
    file = tmp_path / "version"
    if driver:
        file.touch()
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", file)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "__version__", "2.x")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert (find("GPU").text, find("GPU").install) == (text, install)


VERSION = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (root@host)\nGCC version: 12.2"
)


def test_gpus_by_name(monkeypatch, tmp_path):
    (tmp_path / "version").write_text(VERSION)
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path / "version")
    about = SimpleNamespace(name="NVIDIA H200", total_memory=140 << 30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: about)
    (finding,) = doctor._gpus()
    assert finding == doctor.Finding("GPU 0", "NVIDIA H200, 140 GiB, capability 9.0, driver 580.95.05")


@pytest.mark.parametrize("package", ["torch", "PIL", "pyarrow", "fsspec"])
def test_a_broken_package_that_everything_needs_ends_with_1(tmp_path, package):
    """In a process of its own: here they are loaded."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise OSError('it is of another world')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "recap_fast", "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    name = doctor.REQUIRED[package]
    assert f"{name:<12}does not load: it is of another world\n" in done.stdout
    assert "\nroom " in done.stdout


@pytest.mark.parametrize(
    ("model", "cpus", "text"),
    [
        ("Intel(R) Xeon(R) Platinum 8480CL CPU @ 2.00GHz", 224.0, "Intel Xeon Platinum 8480CL, 224 cores, 2000 GiB"),
        ("AMD EPYC 9654 96-Core Processor", 1.0, "AMD EPYC 9654 96-Core Processor, 1 core, 2000 GiB"),
        ("AMD EPYC", 2.5, "AMD EPYC, 2.5 cores, 2000 GiB"),
    ],
)
def test_the_processor_as_far_as_this_process_may_use_it(monkeypatch, model, cpus, text):
    monkeypatch.setattr(doctor, "cpu_model", lambda: model)
    monkeypatch.setattr(doctor, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(doctor, "usable_memory", lambda: 2000 << 30)
    assert find("processor").text == f"{text} of memory"
