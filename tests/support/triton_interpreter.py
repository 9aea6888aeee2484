"""The Triton operations in a process of their own, in which Triton interprets its kernels on the CPU.

The interpreter is chosen by an environment variable before Triton is imported, and then for the whole process: this
one keeps the compiler.
"""

import io
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

TORCH_TYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8e4nv": torch.float8_e4m3fn,
}


class Interpreted:
    """A module of operations, `recap_fast.generate.ops.triton`, as its functions are in that process."""

    def __enter__(self) -> Self:
        spawn = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, mp_context=spawn, initializer=_interpret)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            result, after = _unpack(self._process.submit(_call, name, _pack(args)).result())
            for mine, its in zip(args, after, strict=True):
                if isinstance(mine, torch.Tensor):  # some are written to
                    mine.copy_(its)
            return result

        return call


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


def _interpret() -> None:
    """Runs in the other process, first. Puts right what the interpreter does otherwise than a GPU.

    It truncates float32 to bfloat16, carries wrongly where rounding to 8 bits overflows the fraction, and multiplies
    matrices of bfloat16 as if their bits were integers.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    interpreter._convert_float = _convert
    interpreter.InterpreterBuilder.create_dot = _dot


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
