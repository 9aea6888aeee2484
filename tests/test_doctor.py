"""`doctor`: what it says of a machine, of missing packages and of broken ones."""

import json
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
    lose(monkeypatch, "pillow_heif", "pillow_jxl", "aiohttp", "s3fs")
    assert find("images").install == {"pillow-heif": "HEIC", "pillow-jxl-plugin": "JPEG XL"}
    assert find("images").text.endswith("; not HEIC, JPEG XL")
    assert {"aiohttp", "s3fs"} <= set(find("inputs").install)
    output = CliRunner().invoke(cli, ["doctor"]).output
    assert "  pip install pillow-heif           # HEIC\n" in output


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


def test_gpus_by_name(monkeypatch):
    about = SimpleNamespace(name="NVIDIA H200", total_memory=140 << 30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: about)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (finding,) = doctor._gpus()
    assert finding == doctor.Finding("GPU 0", "NVIDIA H200, 140 GiB, compute capability 9.0, CUDA 13.0")
