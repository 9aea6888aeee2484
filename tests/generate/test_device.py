import pytest
import torch

from recap_fast.errors import ConfigError
from recap_fast.generate import device
from recap_fast.generate.device import gpu_number, resolve_device


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="--device tpu: give auto, cpu, cuda or cuda:N"):
        resolve_device("tpu")
    with pytest.raises(ConfigError, match="recap-fast runs on cpu and cuda"):
        resolve_device("mps")
    with pytest.raises(ConfigError, match=r"sees \d+ CUDA devices"):
        resolve_device("cuda:99")


@pytest.mark.parametrize(("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_a_cuda_device_has_its_index(name: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device(name) == torch.device("cuda", index)
    assert gpu_number(name) == index


@pytest.mark.parametrize("name", ["cpu", "tpu", "cuda:99"])
def test_a_cpu_and_what_is_refused_have_no_gpu_number(name: str) -> None:
    assert gpu_number(name) is None


@pytest.mark.usefixtures("same_threads")
@pytest.mark.parametrize(("cpus", "text"), [(16.0, "6 threads"), (2.5, "3 threads"), (0.5, "1 thread")])
def test_an_engine_has_no_more_threads_than_processors(cpus: float, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(6)
    monkeypatch.setattr(device, "usable_cpus", lambda: cpus)
    assert device.device_name(torch.device("cpu")).endswith(f", {text}")
