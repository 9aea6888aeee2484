"""The kernel of recap_fast/generate/ops/cuda.py on a CPU: compiled by the C++ compiler over cuda_on_cpu.cpp."""

import ctypes
import subprocess
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
SOURCE = Path(__file__).with_suffix(".cpp")


class DecodeAttention(ctypes.Structure):
    """That of csrc/cuda/decode_attention.hpp."""

    _fields_ = (
        ("in_8_bits", ctypes.c_bool),
        *((name, ctypes.c_int) for name in ("rows", "num_heads", "num_kv_heads", "num_positions", "head_width")),
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "values", "slots", "positions", "out", "scale")),
        ("bound", ctypes.c_float),
    )


class Kernels:
    """Stands for `recap_fast._cuda_ops`."""

    def __init__(self, folder: Path):
        library = folder / "kernels.so"
        options = ["-std=c++20", "-O1", "-shared", "-fPIC", f"-I{CSRC}"]
        subprocess.run(["c++", *options, "-o", library, SOURCE], check=True)
        self._run = ctypes.CDLL(str(library)).run
        self._run.restype = ctypes.c_bool

    def decode_attention(
        self,
        *,
        quantized: tuple[int, float] | None,
        in_8_bits: bool,
        sizes: tuple[int, int, int, int, int],
        stream: int,
        **addresses: int,
    ) -> None:
        assert stream == 0
        scale, bound = quantized or (None, 0.0)
        op = DecodeAttention(in_8_bits, *sizes, scale=scale, bound=bound, **addresses)
        assert self._run(ctypes.byref(op)), "lanes of a warp have parted, or read what they must not"
