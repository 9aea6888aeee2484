"""What counts as a launch, and how many bytes it moves."""

import json

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton", reason="Triton is not installed: it exists for Linux only")

from launches import command
from launches.fake_card import DEVICE, fake_card, make_spec
from launches.recorder import Operation, Reach, Recorder
from recap_fast.generate.ops import triton

REACH = Reach(decode_positions=10, num_images=2, prompt_positions=30)


def recorded(compute):
    """What is noted of the function of two float32 tensors [4, 6] and int64 [3]."""
    recorder = Recorder(REACH)
    with fake_card(recorder.launch):
        matrix, index = torch.empty(4, 6, device=DEVICE), torch.zeros(3, dtype=torch.int64, device=DEVICE)
        with torch.inference_mode(), recorder:
            compute(matrix, index)
    return recorder.operations


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda x, i: x.view(24)[3:].reshape(3, 7).unbind(), []),
        (lambda x, i: torch.empty_like(x), []),
        (lambda x, i: x.t().reshape(24), [Operation("clone", 1, 192)]),
        (lambda x, i: x.to(torch.float32), []),
        (lambda x, i: x.to(torch.bfloat16), [Operation("_to_copy", 1, 96 + 48)]),
        (lambda x, i: F.pad(x, (2, 0)), [Operation("constant_pad_nd", 2, 128 + 96 + 96)]),
        (lambda x, i: torch.cat([x, x]), [Operation("cat", 1, 384)]),
        (lambda x, i: torch.cat([x] * 129), [Operation("cat", 2, 2 * 129 * 96)]),
        (lambda x, i: x[i], [Operation("index", 1, 2 * 72 + 24)]),
        (lambda x, i: F.embedding(i, x), [Operation("embedding", 1, 2 * 72 + 24)]),
        (lambda x, i: x.__setitem__(i, x[:3]), [Operation("index_put_", 1, 2 * (72 + 24))]),
        (lambda x, i: x.add_(x[:1].expand(4, 6)), [Operation("add_", 1, 96 + 24 + 96)]),
        (lambda x, i: F.linear(x, x, x[:, 0]), [Operation("addmm", 1, 96 + 96 + 16 + 64)]),
    ],
)
def test_an_operation(compute, expected):
    assert recorded(compute) == expected


def test_attention_lies_as_its_queries_do():
    def attend(x, _):
        q = x.view(1, 4, 2, 3).transpose(1, 2)
        F.scaled_dot_product_attention(q, q, q).transpose(1, 2).reshape(4, 6)

    assert recorded(attend) == [Operation("scaled_dot_product_attention", 1, 4 * 96)]


class Kernel:
    """Stands for a Triton kernel, of which a name is needed alone."""

    def __init__(self, name):
        self.__name__ = name


@pytest.mark.parametrize(
    ("name", "positions"),
    [("rope_store_kernel", 5), ("decode_attention_kernel", 5 * 10), ("prefill_kernel", 2 * 30), ("another", 8 * 16)],
)
def test_a_kernel_reads_no_more_of_the_cache_than_it_reaches(name, positions):
    recorder, width, heads = Recorder(REACH), 32, 4
    with fake_card(recorder.launch):
        recorder.cache = torch.empty(3, 2, 8, heads, 16, width, dtype=torch.bfloat16, device=DEVICE)
        keys, values = recorder.cache[1]
        recorder.launch(Kernel(name), (5, 1), (keys, values, torch.empty(7, device=DEVICE), None, 3))
    assert recorder.operations == [Operation(name, 1, 2 * positions * heads * width * 2 + 28)]


def test_a_norm_that_adds_writes_the_sum_as_well():
    recorder = Recorder(REACH)
    with fake_card(recorder.launch):
        x = torch.empty(4, 6, device=DEVICE)
        for delta in (None, x):
            recorder.launch(Kernel("add_rms_norm_kernel"), (4,), (x, triton._parts(delta), x))
    assert [operation.num_bytes for operation in recorder.operations] == [2 * 96, 4 * 96]


def test_a_step_has_a_product_for_each_weight():
    steps = command.count(make_spec("tiny", "bfloat16", "auto", num_slots=32, prefill_images=2), tokens=65)
    assert steps["decode"]["mm"].launches == 4 * 2 + 1
    assert steps["mixed"]["mm"].launches == 4 * 2 + 1 + 2, "the last layer's keys and values alone; patches"
    assert steps["mixed"]["total"].launches > 2 * steps["decode"]["total"].launches > 0
    for step in steps.values():
        assert step["total"].launches == sum(total.launches for name, total in step.items() if name != "total")


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    output = tmp_path / "new folder/found"
    arguments = ["--size", "tiny", "--num-slots", "32", "--prefill-images", "2", "--output", str(output)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    found = json.loads(output.with_suffix(".json").read_text())
    assert list(found["steps"]) == ["bfloat16", "fp8", "fp8, FP8 cache", "int8"]
    assert found["steps"]["fp8"]["mixed"]["_scaled_mm"]["launches"] == 9
    assert all(table in output.with_suffix(".md").read_text() for table in printed.split("\n\n")[1::2])
