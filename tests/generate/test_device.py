import pytest
import torch

from recap_fast.errors import ConfigError
from recap_fast.generate import device
from recap_fast.generate.device import (
    PRECISIONS,
    WITHOUT,
    Hardware,
    check_precision,
    disabled_kernels,
    find_hardware,
    free_memory,
    gpu_number,
    resolve_device,
)


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


RANK_2 = {"RANK": "10", "WORLD_SIZE": "16", "LOCAL_RANK": "2"}


@pytest.mark.parametrize(
    ("name", "num_gpus", "environ", "expected"),
    [
        ("auto", 8, RANK_2, "cuda:2"),
        ("cuda", 8, RANK_2, "cuda:2"),
        ("cuda:0", 8, RANK_2, "cuda:0"),
        ("cpu", 8, RANK_2, "cpu"),
        ("auto", 1, RANK_2, "cuda:0"),  # each has a CUDA_VISIBLE_DEVICES of its own
        ("auto", 0, RANK_2, "cpu"),
        ("auto", 8, {"SLURM_LOCALID": "3"}, "cuda:3"),
        ("auto", 1, {"SLURM_LOCALID": "3"}, "cuda:0"),
        ("auto", 8, {**RANK_2, "SLURM_LOCALID": "0"}, "cuda:2"),
        ("auto", 8, {"LOCAL_RANK": "2"}, "cuda:0"),
    ],
)
def test_processes_that_were_started_together_take_a_gpu_each(name, num_gpus, environ, expected, monkeypatch):
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert str(resolve_device(name)) == expected


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for variable, value in RANK_2.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="LOCAL_RANK is 2, and torch sees 2 GPUs: start at most 2 processes"):
        resolve_device("auto")


@pytest.mark.parametrize("name", ["cpu", "tpu", "cuda:99"])
def test_a_cpu_and_what_is_refused_have_no_gpu_number(name: str) -> None:
    assert gpu_number(name) is None


def test_the_environment_says_what_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WITHOUT, raising=False)
    assert disabled_kernels() == set()
    monkeypatch.setenv(WITHOUT, "row-wise-fp8, cuda-kernels,")
    assert disabled_kernels() == {"row-wise-fp8", "cuda-kernels"}
    monkeypatch.setenv(WITHOUT, "cudnn,row-wise-fp8")
    with pytest.raises(ConfigError, match=r"^RECAP_FAST_WITHOUT has unknown names: cudnn\. It takes cuda-kernels, "):
        disabled_kernels()


@pytest.mark.usefixtures("same_threads")
@pytest.mark.parametrize(("cpus", "text"), [(16.0, "6 threads"), (2.5, "3 threads"), (0.5, "1 thread")])
def test_an_engine_has_no_more_threads_than_processors(cpus: float, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(6)
    monkeypatch.setattr(device, "usable_cpus", lambda: cpus)
    assert device.device_name(torch.device("cpu")).endswith(f", {text}")


def card(name: str, major: int, minor: int) -> Hardware:
    return Hardware(device=torch.device("cuda"), name=name, capability=(major, minor))


V100, T4 = card("Tesla V100-SXM2-16GB", 7, 0), card("Tesla T4", 7, 5)
A100, L40S = card("NVIDIA A100-SXM4-40GB", 8, 0), card("NVIDIA L40S", 8, 9)
H100, B200 = card("NVIDIA H100 80GB HBM3", 9, 0), card("NVIDIA B200", 10, 0)


@pytest.mark.parametrize(
    ("hardware", "lacks"),
    [
        (V100, {"bfloat16", "int8", "fp8"}),
        (T4, {"bfloat16", "int8", "fp8"}),
        (A100, {"fp8"}),
        (L40S, set()),
        (H100, set()),
        (B200, set()),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_card_has_what_its_compute_capability_says(hardware, lacks):
    assert set(hardware.precisions()) == {*PRECISIONS} - lacks
    for precision in hardware.precisions():
        assert check_precision(precision, hardware) is None
    for precision in lacks:
        with pytest.raises(ConfigError, match=f"^precision {precision} needs compute capability"):
            check_precision(precision, hardware)


def test_the_refusal_names_the_card_and_what_it_has():
    with pytest.raises(ConfigError) as raised:
        check_precision("fp8", A100)
    assert str(raised.value) == (
        "precision fp8 needs compute capability 8.9, and NVIDIA A100-SXM4-40GB has 8.0: build the engine with another "
        "precision. It takes float32, bfloat16, float16, int8."
    )


def test_fp8_keys_and_values_need_fp8_too():
    assert check_precision("bfloat16", H100, "fp8") is None
    with pytest.raises(ConfigError) as raised:
        check_precision("int8", A100, "fp8")
    assert str(raised.value) == (
        "kv_precision fp8 needs compute capability 8.9, and NVIDIA A100-SXM4-40GB has 8.0: build the engine with "
        'kv_precision = "auto" in its recipe.'
    )


def test_a_cpu_takes_all_and_says_which_are_slow():
    slow = frozenset({"bfloat16", "fp8"})
    cpu = Hardware(device=torch.device("cpu"), name="this CPU", capability=None, slow=slow)
    assert cpu.precisions() == PRECISIONS
    assert check_precision("fp8", cpu) == "fp8 is emulated in float32 on a CPU; --precision int8 or float32 is faster."
    assert (
        check_precision("bfloat16", cpu)
        == "this CPU has no instructions for bfloat16; --precision int8 or float32 is faster."
    )
    assert check_precision("float32", cpu) is check_precision("int8", cpu) is None


def test_this_cpu_is_found():
    cpu = find_hardware(torch.device("cpu"))
    assert cpu.capability is None
    assert "fp8" in cpu.slow
    assert "float32" not in cpu.slow


@pytest.mark.needs_cuda
def test_this_card_is_found():
    found = find_hardware(torch.device("cuda"))
    assert found == card(torch.cuda.get_device_name(), *torch.cuda.get_device_capability())


def test_memory_that_torch_holds_in_reserve_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"card": 3, "reserve": 40}

    def empty() -> None:
        free["card"] += free.pop("reserve")

    monkeypatch.setattr(torch.cuda, "empty_cache", empty)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["card"], 80))
    assert free_memory(torch.device("cuda", 0)) == 43
