"""How the work of attention and of SwiGLU is split: what the kernels' constants should be on this card."""

import functools
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from recap_fast.generate.ops import Prompts, Rows, Unscaled, cuda, plain
from suite.probe import Probe
from suite.setting import ROOT, largest, seconds_of

SLOTS, POSITIONS = 448, 734
CONTEXT = 620, 680
"""Positions of the rows of running captions, from and to."""
PROMPTS = Prompts(8, 5, 600)
MIXED_ROWS = 5248
FP8 = torch.float8_e4m3fn
KERNELS = ROOT / "recap_fast/generate/ops/triton_attention.py"
SPLITS = (192, 256, 384, 768)
ROW_CONFIGURATIONS = ((64, 4, 3), (64, 4, 2), (32, 4, 4), (128, 8, 2))
"""Positions of a tile, warps, stages."""
PREFILL_TILES = ((64, 64, 2, 168), (64, 32, 3), (64, 64, 3), (64, 64, 2), (32, 64, 3))
"""Queries of a program, positions of a tile, stages, registers of a thread; the engine's are the first two."""
SHARED_SCALES = (1, 2, 4)
"""Rows that share a reading of their channels' scales."""
SWIGLU = "SwiGLU of sums"
Trial = tuple[str, Callable[[], Tensor]]
BAR, FP8_BAR = 2e-2, 8e-2
"""Of the largest difference over the largest magnitude; of numbers in FP8, a step at the top of its range."""


def cuda_kernels(probe: Probe, found: dict[str, Any]) -> None:
    """Decode attention in CUDA C++ beside plain torch. If it is wrong, all later stages do without."""
    text, errors = probe.setting.shape.text, list[float]()
    q = torch.empty(1, text.num_heads, text.head_dim, device=probe.device, dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, FP8):
        cache = torch.empty(2, 1, text.num_kv_heads, 1, text.head_dim, device=probe.device, dtype=dtype)
        if cuda.takes(q, cache):
            shape = text.num_heads, text.num_kv_heads, text.head_dim
            errors.append(cuda.distance(probe.device, dtype, *shape))
    worst = largest(errors)
    found |= {"errors": errors, "is right": worst <= cuda.TOLERANCE}
    if errors:
        bar = f"<= {cuda.TOLERANCE}"
        probe.add("decode attention in CUDA C++", f"error {worst:.1e}", bar, worst <= cuda.TOLERANCE)


def splits(probe: Probe, found: dict[str, Any]) -> None:
    """Attention of single rows and of prompts, with bfloat16 and FP8 caches; SwiGLU of sums."""
    if not probe.is_gpu:
        found["none"] = "kernels run on a card"
        return
    text = probe.setting.shape.text
    for dtype in (torch.bfloat16, FP8):
        shape = (2, SLOTS, text.num_kv_heads, POSITIONS, text.head_dim)
        cache = torch.randn(shape, device=probe.device, dtype=torch.bfloat16).to(dtype)
        name = f"{dtype} cache".replace("torch.", "")
        _compare(probe, found, f"attention of rows, {name}", *_rows(probe, cache))
        _compare(probe, found, f"attention of prompts, {name}", *_prompts(probe, cache))
    _compare(probe, found, SWIGLU, *_swiglu(probe))


def _compare(
    probe: Probe, found: dict[str, Any], name: str, expected: Tensor, num_bytes: float, trials: Iterable[Trial]
) -> None:
    """Each trial's error and bytes a second. The wrong ones, and the best of the others, are rows of the table."""
    tried: dict[str, Any] = found.setdefault(name, {})
    for label, run in trials:
        with probe.trying(tried, label):
            seconds = seconds_of(run, probe.setting.device)
            error = float((run().float() - expected).abs().max() / expected.abs().max())
            tried[label] = {"GB/s": num_bytes / seconds / 1e9, "us": 1e6 * seconds, "error": error}
    bar = FP8_BAR if name == SWIGLU else BAR
    measured = {label: row for label, row in tried.items() if "us" in row}
    right = {label: row for label, row in measured.items() if row["error"] < bar}
    if wrong := [label for label in measured if label not in right]:
        probe.add(f"{name}, wrong: {', '.join(wrong)}", f"{len(wrong)}", "0", False)
    if right:
        best = min(right, key=lambda label: right[label]["us"])
        probe.add(f"{name}: best {best}, {right[best]['us']:,.0f} us", f"{right[best]['GB/s']:,.0f} GB/s")


def _rows(probe: Probe, cache: Tensor) -> tuple[Tensor, float, Iterable[Trial]]:
    text = probe.setting.shape.text
    ends = torch.randint(*CONTEXT, (SLOTS,), device=probe.device)
    rows = Rows(torch.arange(SLOTS, device=probe.device), ends)
    q = torch.randn(SLOTS, text.num_heads, text.head_dim, device=probe.device, dtype=torch.bfloat16)
    num_bytes = float((ends + 1).sum()) * 2 * text.num_kv_heads * text.head_dim * cache.itemsize

    def trials() -> Iterable[Trial]:
        if cuda.supports(q, cache):
            yield "CUDA C++", functools.partial(_decode_in_cuda, q, cache, rows)
        for split in SPLITS:
            kernels = _kernels(split, probe.setting.work)
            for tile, warps, stages in ROW_CONFIGURATIONS:
                if tile <= split:
                    run = _decode(kernels, split, tile, warps, stages, q, cache, rows)
                    yield f"{split}/{tile}/{warps}/{stages}", run

    return plain.decode_attention(q, cache, rows).float(), num_bytes, trials()


def _decode_in_cuda(q: Tensor, cache: Tensor, rows: Rows) -> Tensor:
    out = q.new_empty(len(q), q.shape[1] * q.shape[2])
    cuda.decode_attention(q, cache, rows, out)
    return out


def _kernels(split: int, folder: Path) -> ModuleType:
    """The engine's kernels with another number of positions a program."""
    source = KERNELS.read_text(encoding="utf-8")
    changed = source.replace("SPLIT = tl.constexpr(256)", f"SPLIT = tl.constexpr({split})")
    assert split == 256 or changed != source
    file = folder / f"kernels_{split}.py"
    file.write_text(changed, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _decode(
    kernels: ModuleType, split: int, tile: int, warps: int, stages: int, q: Tensor, cache: Tensor, rows: Rows
) -> Callable[[], Tensor]:
    """Both kernels, on buffers of their own."""
    from recap_fast.generate.ops.triton import dot_type

    num_rows, heads, width = q.shape
    kv_heads, positions = cache.shape[2:4]
    num_splits = -(-(positions - 1) // split)
    partial = torch.empty(num_rows, heads, num_splits, width, device=q.device)
    lse, out = partial.new_empty(num_rows, heads, num_splits), q.new_empty(num_rows, heads * width)
    shape = heads // kv_heads, positions, width, dot_type(q, cache)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}

    def run() -> Tensor:
        attend, combine = kernels.decode_attention_kernel, kernels.combine_kernel
        attend[num_rows, kv_heads, num_splits](q, *cache, rows, partial, lse, *shape, tile, **options)
        combine[num_rows, heads](
            partial, lse, rows, out, None, 1.0, num_splits, positions, width, **options | {"num_warps": 1}
        )
        return out

    return run


def _prompts(probe: Probe, cache: Tensor) -> tuple[Tensor, float, Iterable[Trial]]:
    """Their bytes are those of keys, values, queries and outputs; it is operations that take the time."""
    from recap_fast.generate.ops import triton

    text, (num, start, length) = probe.setting.shape.text, PROMPTS
    q = torch.randn(num * length, text.num_heads, text.head_dim, device=probe.device, dtype=torch.bfloat16)
    slots = torch.arange(num, device=probe.device).repeat_interleave(length)
    rows = Rows(slots, torch.arange(start, start + length, device=probe.device).repeat(num))

    def attend(tile: triton.PrefillTile) -> Tensor:
        with mock.patch.dict(triton.PREFILL_TILES, {cache.dtype.itemsize: tile}):
            out = triton.attention(q, cache, rows, PROMPTS)
        assert isinstance(out, Tensor)
        return out

    trials = [
        ("/".join(map(str, sizes)), functools.partial(attend, triton.PrefillTile(*sizes))) for sizes in PREFILL_TILES
    ]
    moved = num * (start + length) * 2 * text.num_kv_heads * text.head_dim * cache.itemsize + 2.0 * q.nbytes
    return plain.prefill_attention(q, cache, slots[::length], PROMPTS).float(), moved, trials


def _swiglu(probe: Probe) -> tuple[Tensor, float, Iterable[Trial]]:
    from recap_fast.generate.ops import triton

    inner = probe.setting.shape.text.intermediate_size
    sums = torch.randn(MIXED_ROWS, 2 * inner, device=probe.device, dtype=torch.bfloat16)
    scales = torch.rand(MIXED_ROWS, 1, device=probe.device), torch.rand(2 * inner, device=probe.device)
    product = Unscaled(sums, *scales, torch.bfloat16)

    def run(shared: int) -> Tensor:
        """Numbers in 8 bits, which are the same whoever shares."""
        with mock.patch.object(triton, "SHARED_SCALES", shared):
            return triton.swiglu(product, FP8).values

    trials = [(f"{shared} rows", functools.partial(run, shared)) for shared in SHARED_SCALES]
    return plain.swiglu(product, FP8).values.float(), MIXED_ROWS * inner * 5.0, trials
