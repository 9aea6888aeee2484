"""The Triton operations in a process of their own, in which Triton interprets its kernels on the CPU.

The interpreter is chosen by an environment variable before Triton is imported, and then for the whole process: this
one keeps the compiler.
"""

import functools
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

TORCH_TYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8e4nv": torch.float8_e4m3fn,
}


class Elsewhere:
    """Operations that run on copies of their arguments; what is written to these is copied back."""

    def __init__(self, run: Callable[[str, tuple[Any, ...]], tuple[Any, tuple[Any, ...]]]):
        """`run` takes an operation's name and arguments, and gives its result and the copies."""
        self._run = run

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            result, copies = self._run(name, args)
            for mine, its in zip(args, copies, strict=True):
                if isinstance(mine, torch.Tensor):
                    mine.copy_(its)
            return result

        return call


@contextmanager
def interpreted() -> Iterator[Elsewhere]:
    """Those of `recap_fast.generate.ops.triton`, in that process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=interpret) as process:
        yield Elsewhere(lambda name, args: _unpack(process.submit(_call, name, _pack(args)).result()))


def _call(name: str, arguments: bytes) -> bytes:
    """Runs in the other process."""
    from recap_fast.generate.ops import triton as ops

    args = _unpack(arguments)
    return _pack((getattr(ops, name)(*args), args))


def _pack(value: Any) -> bytes:
    """Not as tensors in shared memory, of which containers have little."""
    packed = io.BytesIO()
    torch.save(value, packed)
    return packed.getvalue()


def _unpack(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), weights_only=False)


def interpret() -> None:
    """Runs in the other process, first. Puts right what the interpreter does otherwise than a GPU.

    It truncates float32 to bfloat16, carries wrongly where rounding to 8 bits overflows the fraction, and multiplies
    matrices of bfloat16 as if their bits were integers. That of Triton 3.6 has no loops from number to number beside
    NumPy 2.5, which makes no integer of an array of one.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    interpreter._convert_float = _convert
    interpreter.InterpreterBuilder.create_dot = _dot
    interpreter._patch_lang_tensor = functools.partial(_patch_tensor, interpreter._patch_lang_tensor)


def _convert(data: NDArray[Any], source: Any, target: Any, rounding: Any) -> NDArray[Any]:
    """Bits of one floating type to bits of another, rounded to the nearest, ties to even."""
    del rounding
    bits = np.ascontiguousarray(data).view(f"int{source.primitive_bitwidth}")
    numbers = torch.from_numpy(bits).view(TORCH_TYPES[source.name]).to(TORCH_TYPES[target.name])
    width = target.primitive_bitwidth
    return numbers.view(getattr(torch, f"int{width}")).numpy().view(f"uint{width}").reshape(data.shape)


def _dot(builder: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
    from triton import language as tl

    del builder
    left, right = (_convert(x.data, x.dtype.scalar, tl.float32, None).view(np.float32) for x in (a, b))
    return type(d)(left @ right + d.data, d.dtype.scalar)


def _patch_tensor(patch: Callable[..., None], tensor: Any, *scope: Any) -> None:
    patch(tensor, *scope)
    tensor.__index__ = lambda number: int(number.handle.data.item())
