"""The step of an engine on a GPU that is not there: tensors with shapes, types and a device, and without numbers.

Torch checks shapes and types of every operation as it does on a GPU, `_scaled_mm` included. Our own kernels, in Triton
and in CUDA C++, are not launched: a callback gets their arguments instead. An operation that would read a number back
to the host fails.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from inputs.shapes import SHAPES, llava_llama3_8b
from recap_fast.generate.engine import Sampling
from recap_fast.generate.layout import plan_weights, stored_tensors
from recap_fast.generate.ops import Rows, cuda
from recap_fast.generate.ops import triton as triton_ops
from recap_fast.generate.spec import EngineSpec, KVPrecision, Limits, Precision
from recap_fast.generate.torch_backend import llama
from recap_fast.generate.torch_backend.step import Branching, Joining, Step

DEVICE = torch.device("cuda", 0)
HOPPER = (9, 0)
CUDA_KERNEL = SimpleNamespace(
    __name__="decode_attention in CUDA C++", arg_names=("q", "keys", "values", "rows", "out", "scale", "bound")
)
NUM_PREFIX, MAX_TEXT_TOKENS, MAX_NEW_TOKENS = 5, 24, 128
"""Llama 3's prompt, and the recipes' limit."""
CAPTIONS_PER_IMAGE = 4


def make_spec(
    size: str, precision: Precision, kv_precision: KVPrecision, num_slots: int, prefill_images: int
) -> EngineSpec:
    """The spec of an engine of a size of `SHAPES`."""
    limits = Limits(
        max_new_tokens=MAX_NEW_TOKENS,
        max_text_tokens=MAX_TEXT_TOKENS,
        num_slots=num_slots,
        prefill_images=prefill_images,
    )
    shape = SHAPES[size]
    return llava_llama3_8b(
        precision=precision, kv_precision=kv_precision, vision=shape.vision, text=shape.text, limits=limits
    )


@contextlib.contextmanager
def fake_card(
    on_launch: Callable[[Any, tuple[int, ...], tuple[Any, ...]], None], capability: tuple[int, int] = HOPPER
) -> Iterator[None]:
    """Makes new tensors fake; `on_launch` gets kernel, grid and arguments of each launch of a kernel of ours."""

    def launch(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], *_: Any, **__: Any) -> None:
        on_launch(kernel, grid, args)

    def attend(q: Tensor, cache: Tensor, rows: Rows, *target: Any) -> None:
        on_launch(CUDA_KERNEL, (len(q), cache.shape[2]), (q, *cache, rows, *target))

    with (
        _device_guard(),
        mock.patch.object(torch.cuda, "get_device_capability", return_value=capability),
        mock.patch.object(triton_ops, "_launch", launch),
        mock.patch.object(cuda, "kernels", cuda),
        mock.patch.object(cuda, "distance", return_value=0.0),
        mock.patch.object(cuda, "decode_attention", attend),
        mock.patch.object(llama, "bound_outputs", return_value=1.0),  # it reads numbers of the weights
        FakeTensorMode(),
    ):
        yield


class FakeStep:
    """An open engine's step, its weights and its inputs. Only for use within `fake_card`."""

    def __init__(self, spec: EngineSpec):
        plan = plan_weights(spec.vision, spec.text)
        weights = {
            stored.name: torch.empty(stored.shape, dtype=stored.dtype, device=DEVICE)
            for tensor in plan
            for stored in stored_tensors(tensor, spec.precision)
        }
        shape = spec.slot_shape(NUM_PREFIX)
        kv_dtype = torch.float8_e4m3fn if spec.kv_precision == "fp8" else getattr(torch, spec.compute_precision)
        self._step = Step(spec, weights, spec.limits.num_slots, shape.num_positions, kv_dtype, Sampling())
        self._step.write_prefix(range(NUM_PREFIX))

        limits, side = spec.limits, spec.vision.image_size
        self._joining = Joining(
            pixels=_zeros(limits.prefill_images, 3, side, side, dtype=torch.uint8),
            text_ids=_zeros(limits.prefill_images, limits.max_text_tokens),
            slots=_zeros(limits.prefill_images),
            last_rows=_zeros(limits.prefill_images),
        )
        branches = limits.prefill_images * (CAPTIONS_PER_IMAGE - 1)
        self._branching = Branching(
            text_ids=_zeros(branches, limits.max_text_tokens),
            slots=_zeros(branches),
            sources=_zeros(branches),
            last_rows=_zeros(branches),
        )
        self._running = Rows(_zeros(limits.num_slots), _zeros(limits.num_slots))

    @property
    def cache(self) -> Tensor:
        """Keys and values of all layers."""
        return self._step.cache.data

    @property
    def fallbacks(self) -> list[str]:
        """See `Step.fallbacks`."""
        return self._step.fallbacks

    def run(self, *, mixed: bool) -> Tensor:
        """A row for each slot, and with `mixed` the images before them, as the GPU's runner computes them."""
        return self._step.run(self._joining if mixed else None, self._running, None)

    def branch(self) -> Tensor:
        """The same with the other captions of a prefill's images before them."""
        return self._step.run(self._branching, self._running, None)


def _zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=DEVICE)


@contextlib.contextmanager
def _device_guard() -> Iterator[None]:
    """Gives a build of torch without CUDA what indexing makes a device current with: that of meta tensors, a no-op.

    In a build with CUDA that finds no card, `FakeTensorMode` does the same by itself.
    """
    if torch.backends.cuda.is_built():
        yield
        return
    cuda, meta = torch._C._autograd.DeviceType.CUDA.value, torch._C._autograd.DeviceType.Meta.value
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (meta + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    guards[cuda] = guards[meta]
    try:
        yield
    finally:
        guards[cuda] = None
