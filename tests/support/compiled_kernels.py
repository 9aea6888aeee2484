"""Triton kernels compiled for GPUs that are not here, and what the code takes of a card."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes that a block may have, by compute capability: CUDA C++ Programming Guide, table of technical specifications."""
REGISTERS = {
    "add_rms_norm_kernel": 56,
    "combine_kernel": 40,
    "decode_attention_kernel": 128,
    "gelu_tanh_kernel": 40,
    "prefill_attention_kernel": 232,
    "quantize_kernel": 40,
    "quick_gelu_kernel": 40,
    "rope_store_kernel": 72,
    "swiglu_kernel": 128,
}
"""Of a thread, by kernel: the most that compute capability 8.0, 9.0 and 10.0 take, rounded up. More of them mean fewer
blocks on a multiprocessor, which has 65,536."""


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A kernel's code for a card."""

    name: str
    registers: int
    """Of a thread."""
    spilled: int
    """Bytes of a thread that found no place in registers."""
    shared_memory: int
    """Bytes of a block."""
    ptx: str


class _AbsentCard:
    """Stands for Triton's driver of a card of a compute capability."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> str:
        return f"absent sm_{self.capability}"

    def get_current_stream(self, device: str) -> int:
        return 0


@contextmanager
def absent_card(capability: int, folder: Path) -> Iterator[list[CompiledKernel]]:
    """Kernels that are launched in here are compiled for that card, and listed; `folder` is for their code."""
    import triton

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        code = run(kernel, *args, grid=grid, warmup=True, **options)
        file = folder / f"{len(compiled)}.cubin"
        file.write_bytes(code.asm["cubin"])
        compiled.append(_describe(kernel.__name__, file, code))

    run, compiled = triton.JITFunction.run, list[CompiledKernel]()
    with (
        mock.patch.dict("os.environ", TRITON_CACHE_DIR=str(folder)),
        mock.patch.object(triton.JITFunction, "run", compile_only),
        mock.patch.object(triton.runtime.driver, "_active", _AbsentCard(capability)),
    ):
        yield compiled


def _describe(name: str, cubin: Path, code: Any) -> CompiledKernel:
    import triton

    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return CompiledKernel(
        name=name,
        registers=found["REG"],
        spilled=found["STACK"] + found["LOCAL"],
        shared_memory=code.metadata.shared,
        ptx=code.asm["ptx"],
    )
