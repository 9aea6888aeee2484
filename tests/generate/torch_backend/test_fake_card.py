"""The step at the shapes of a real engine through torch's checks for a GPU, with tensors that have no numbers."""

import dataclasses
import re

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._pytree import tree_leaves

pytest.importorskip("triton", reason="Triton is not installed: it exists for Linux only")

from launches.fake_card import DEVICE, FakeStep, fake_card, make_spec
from launches.recorder import Reach, Recorder
from recap_fast.generate.device import WITHOUT

LARGEST_GRID = 2**31 - 1, 2**16 - 1, 2**16 - 1
"""Blocks in each direction: CUDA C++ Programming Guide, table of technical specifications."""


@pytest.mark.parametrize("size", ["tiny", "8b"])
@pytest.mark.parametrize(
    ("capability", "precision", "kv_precision"),
    [
        ((9, 0), "bfloat16", "auto"),
        ((9, 0), "fp8", "auto"),
        ((9, 0), "fp8", "fp8"),
        ((9, 0), "int8", "auto"),
        ((8, 0), "float16", "auto"),
        ((8, 9), "fp8", "fp8"),
    ],
)
def test_steps_pass_the_checks_of_a_card(capability, precision, kv_precision, size):
    """Shapes and types of every operation; nothing is read back; the kernels get what their signatures name."""
    launches = []
    recorder = Recorder(Reach(decode_positions=1, num_images=8, prompt_positions=1))
    spec = make_spec(size, precision, kv_precision, num_slots=448, prefill_images=8)
    with fake_card(lambda *launch: launches.append(launch), capability):
        step = FakeStep(spec)
        with recorder:
            tokens = [step.run(mixed=mixed) for mixed in (True, False)]
    assert [(x.shape, x.dtype, x.device) for x in tokens] == [((n,), torch.int64, DEVICE) for n in (456, 448)]
    products = [operation for operation in recorder.operations if operation.name in ("_scaled_mm", "_int_mm")]
    expected = 2 * 4 * spec.text.num_layers + 1  # of prompts the last layer has keys and values apart
    assert len(products) == (expected if precision in ("fp8", "int8") else 0)
    for kernel, grid, args in launches:
        assert len(args) == len(kernel.arg_names), kernel.__name__
        assert all(0 < side <= most for side, most in zip(grid, LARGEST_GRID, strict=False)), kernel.__name__
        assert all(x.is_contiguous() and x.device == DEVICE for x in tree_leaves(args) if isinstance(x, Tensor))


@pytest.mark.parametrize(("precision", "kv_precision"), [("bfloat16", "auto"), ("fp8", "fp8")])
def test_branches_copy_images_without_large_temporaries(precision, kv_precision):
    recorder = Recorder(Reach(decode_positions=1, num_images=8, prompt_positions=1))
    spec = make_spec("8b", precision, kv_precision, num_slots=448, prefill_images=8)
    with fake_card(lambda *_: None):
        step = FakeStep(spec)
        with recorder:
            tokens = step.branch()
    assert tokens.shape == (24 + 448,)
    copies = [operation for operation in recorder.operations if operation.name in ("index_select", "index_copy_")]
    assert [operation.name for operation in copies] == 2 * spec.text.num_layers * ["index_select", "index_copy_"]


@pytest.mark.parametrize("precision", ["bfloat16", "fp8", "int8"])
@pytest.mark.parametrize("capability", [(9, 0), (8, 9)])
@pytest.mark.parametrize("different", [{"qkv_bias": True}, {"qk_norm": True}])
def test_steps_of_qwen_launch_the_same_kernels(capability, precision, different):
    """Biases and norms take no pass of their own."""

    def launched(**changed):
        names = []
        spec = make_spec("tiny", precision, "auto", num_slots=448, prefill_images=8)
        spec = dataclasses.replace(spec, text=dataclasses.replace(spec.text, **changed))
        with fake_card(lambda kernel, *_: names.append(kernel.__name__), capability):
            step = FakeStep(spec)
            for mixed in (True, False):
                step.run(mixed=mixed)
        return names

    assert launched(**different) == launched() != []


@pytest.mark.parametrize(("head_dim", "is_taken"), [(64, True), (80, False), (96, False), (128, True)])
def test_widths_of_heads_that_the_cuda_kernel_does_not_take_are_said(head_dim, is_taken):
    spec = make_spec("tiny", "bfloat16", "auto", num_slots=8, prefill_images=2)
    with fake_card(lambda *_: None):
        step = FakeStep(dataclasses.replace(spec, text=dataclasses.replace(spec.text, head_dim=head_dim)))
        assert step.fallbacks == ([] if is_taken else ["decode attention not by the CUDA C++ kernel"])


@pytest.mark.parametrize("without", ["", "cuda-kernels"])
def test_single_rows_have_one_kernel_in_cuda_or_two_in_triton(without, monkeypatch):
    monkeypatch.setenv(WITHOUT, without)
    names = []
    spec = make_spec("8b", "fp8", "fp8", num_slots=448, prefill_images=8)
    with fake_card(lambda kernel, *_: names.append(kernel.__name__)):
        step = FakeStep(spec)
        names.clear()
        step.run(mixed=False)
    expected = ["decode_attention_kernel", "combine_kernel"] if without else ["decode_attention in CUDA C++"]
    layers = spec.text.num_layers
    assert [name for name in names if re.search("decode|combine", name)] == expected * layers
    assert step.fallbacks == (["decode attention not by the CUDA C++ kernel"] if without else [])


def fp8(*shape: int) -> Tensor:
    return torch.empty(shape, device=DEVICE).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(("width", "channels"), [(24, 32), (32, 24)])
def test_the_checks_know_the_products_of_fp8(width, channels):
    with fake_card(print):
        rows, weight = fp8(300, width), fp8(channels, width).t()
        scales = torch.ones(300, 1, device=DEVICE), torch.ones(1, channels, device=DEVICE)
        with pytest.raises(RuntimeError, match="divisible by 16"):
            torch._scaled_mm(rows, weight, *scales, out_dtype=torch.bfloat16)


def test_the_checks_know_what_waits_for_the_card():
    with fake_card(print), pytest.raises(DataDependentOutputException):
        int(torch.zeros(1, device=DEVICE))
