"""Decode attention by how its work is split: what the kernels' constants should be on this card."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from recap_fast.generate.ops import Rows, plain
from suite.probe import Probe
from suite.setting import ROOT, seconds_of

SLOTS, POSITIONS = 448, 734
KERNELS = ROOT / "recap_fast/generate/ops/triton_attention.py"
SPLITS = (192, 256, 384, 768)
CONFIGURATIONS = ((64, 4, 3), (64, 4, 2), (32, 4, 4), (128, 8, 2))
"""Positions of a tile, warps, stages."""


def splits(probe: Probe, found: dict[str, Any]) -> None:
    """Decode attention by positions a program, positions a tile, warps and stages; bfloat16 and FP8 caches."""
    if not probe.is_gpu:
        found["none"] = "kernels run on a card"
        return
    text = probe.setting.shape.text
    shape = (2, SLOTS, text.num_kv_heads, POSITIONS, text.head_dim)
    ends = torch.randint(620, 680, (SLOTS,), device=probe.device)
    rows = Rows(torch.arange(SLOTS, device=probe.device), ends)
    q = torch.randn(SLOTS, text.num_heads, text.head_dim, device=probe.device, dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        cache = torch.randn(shape, device=probe.device, dtype=torch.bfloat16).to(dtype)
        expected = plain.decode_attention(q, cache, rows).float()
        num_bytes = int((ends + 1).sum()) * 2 * text.num_kv_heads * text.head_dim * dtype.itemsize
        tried: dict[str, Any] = found.setdefault(str(dtype), {})
        for split in SPLITS:
            kernels = _kernels(split, probe.setting.work)
            for tile, warps, stages in CONFIGURATIONS:
                label = f"{split}/{tile}/{warps}/{stages}"
                if tile <= split:
                    with probe.trying(tried, label):
                        run = _decode(kernels, split, tile, warps, stages, q, cache, rows)
                        seconds = seconds_of(run, probe.setting.device)
                        error = float((run().float() - expected).abs().max() / expected.abs().max())
                        tried[label] = {"GB/s": num_bytes / seconds / 1e9, "error": error}
        best = max((label for label in tried if "GB/s" in tried[label]), key=lambda label: tried[label]["GB/s"])
        probe.add(
            f"decode attention, {dtype} cache: best {best}".replace("torch.", ""), f"{tried[best]['GB/s']:,.0f} GB/s"
        )


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
    num_rows, heads, width = q.shape
    kv_heads, positions = cache.shape[2:4]
    num_splits = -(-(positions - 1) // split)
    partial = torch.empty(num_rows, heads, num_splits, width, device=q.device)
    lse, out = partial.new_empty(num_rows, heads, num_splits), q.new_empty(num_rows, heads * width)

    def run() -> Tensor:
        kernels.decode_attention_kernel[num_rows, kv_heads, num_splits](
            q,
            *cache,
            rows,
            partial,
            lse,
            heads // kv_heads,
            positions,
            width,
            tl.float16 if cache.dtype.itemsize == 1 else tl.bfloat16,
            tile,
            num_warps=warps,
            num_stages=stages,
            enable_fp_fusion=True,
        )
        kernels.combine_kernel[num_rows, heads](
            partial,
            lse,
            rows,
            out,
            None,
            1.0,
            num_splits,
            positions,
            width,
            num_warps=1,
            num_stages=3,
            enable_fp_fusion=True,
        )
        return out

    return run
