"""Attention by torch's backends, and of a step by the engine's kernels; then all other operations."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from recap_fast.generate.ops import Prompts, Rows, plain
from recap_fast.generate.ops.select import select_ops
from suite import ops as ops_part
from suite.probe import Probe
from suite.setting import largest, seconds_of

FP8 = torch.float8_e4m3fn
BACKENDS = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION)
CASES = {
    "prompts": (8, 32, 8, 603, 128, True),
    "images": (8, 16, 16, 577, 64, False),
    "prefix": (1, 32, 8, 5, 128, True),
    "small prompts": (2, 4, 2, 85, 16, True),
    "small images": (2, 3, 3, 17, 16, False),
    "small prompts, heads of 128": (4, 4, 1, 85, 128, True),
    "demo prompts": (8, 6, 2, 65, 32, True),
    "demo images": (8, 6, 6, 37, 32, False),
    "one key": (1, 4, 2, 1, 16, True),
}
"""Images, query heads, key heads, positions, head width, and whether it is causal; on a CPU the small ones run."""
BAR = 5e-2
"""Largest difference from float32, of results around 1."""
IMAGES, LENGTH, PREFIX, SLOTS, POSITIONS = 8, 600, 5, 448, 734


def sdpa(probe: Probe, found: dict[str, Any]) -> None:
    """Each backend at each shape: what it refuses, how far it is from float32, microseconds; in a graph, too."""
    cases = CASES if probe.is_gpu else {name: case for name, case in CASES.items() if "small" in name}
    for name, (n, heads, kv_heads, positions, width, causal) in cases.items():
        q, k, v = (
            torch.randn(n, h, positions, width, device=probe.device, dtype=torch.bfloat16)
            for h in (heads, kv_heads, kv_heads)
        )
        run = functools.partial(F.scaled_dot_product_attention, q, k, v, is_causal=causal, enable_gqa=heads != kv_heads)
        with sdpa_kernel([SDPBackend.MATH]):
            expected = F.scaled_dot_product_attention(
                q.float(), k.float(), v.float(), is_causal=causal, enable_gqa=heads != kv_heads
            )
        row = found[name] = {backend.name: _measure(probe, backend, run, expected) for backend in BACKENDS}
        refused = [backend.partition("_")[0] for backend, result in row.items() if "refused" in result]
        worst = largest([result[kind] for result in row.values() for kind in result if kind.startswith("error")])
        what = f"attention, {name}" + (f"; refused by {', '.join(refused)}" if refused else "")
        probe.add(what, f"error {worst:.3f}", f"< {BAR}", worst < BAR)


def _measure(probe: Probe, backend: SDPBackend, run: Callable[[], Tensor], expected: Tensor) -> dict[str, Any]:
    try:
        with sdpa_kernel([backend]):
            start = time.perf_counter()
            given = run()
            if probe.is_gpu:
                torch.cuda.synchronize()
            first = time.perf_counter() - start
            in_graph = _capture(run) if probe.is_gpu else given
            return {
                "microseconds": 1e6 * seconds_of(run, probe.setting.device, calls=20),
                "error": float((given.float() - expected).abs().max()),
                "error in a graph": float((in_graph.float() - expected).abs().max()),
                "first_s": first,
            }
    except RuntimeError as error:
        return {"refused": str(error)[:200]}


def _capture(run: Callable[[], Tensor]) -> Tensor:
    """The result of a CUDA graph that was replayed once."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = run()
    graph.replay()
    torch.cuda.synchronize()
    return result


def prefill(probe: Probe, found: dict[str, Any]) -> None:
    """Times a layer's attention: of a whole step by the engine's kernels and torch's, and of its single rows alone."""
    text, real = probe.setting.shape.text, probe.setting.is_real
    images, length, slots, positions = (IMAGES, LENGTH, SLOTS, POSITIONS) if real else (2, 20, 6, 48)
    heads, width = text.num_heads, text.head_dim
    chosen = torch.arange(images, device=probe.device)
    q = torch.randn(images * length + slots, heads, width, device=probe.device, dtype=torch.bfloat16)
    end = torch.full((slots,), positions - 2, device=probe.device)
    fast = select_ops(probe.device, torch.bfloat16)
    rows = Rows(
        torch.cat([chosen.repeat_interleave(length), torch.arange(slots, device=probe.device)]),
        torch.cat([torch.arange(PREFIX, PREFIX + length, device=probe.device).repeat(images), end]),
    )
    for dtype in (torch.bfloat16, FP8):
        shape = (2, slots + 1, text.num_kv_heads, positions, width)
        cache = torch.randn(shape, device=probe.device, dtype=torch.bfloat16).to(dtype)
        bound = None if dtype == torch.bfloat16 else 10.0
        for name, op, prompts in (
            ("our kernels", fast, Prompts(images, PREFIX, length)),
            ("torch", plain, Prompts(images, PREFIX, length)),
            ("single rows alone", fast, None),
        ):
            attend = functools.partial(op.attention, q, cache, rows, prompts, bound)
            if prompts is None:
                attend = functools.partial(
                    op.attention, q[-slots:], cache, Rows(*(i[-slots:] for i in rows)), None, bound
                )
            micros = found[f"{dtype}, {name}"] = 1e6 * seconds_of(attend, probe.setting.device)
            probe.add(f"a layer's attention, {dtype} cache, {name}".replace("torch.", ""), f"{micros:,.0f} us")


def ops(probe: Probe, found: dict[str, Any]) -> None:
    """The suite's own part: every operation beside plain torch."""
    part = ops_part.run(probe.setting)
    missed = found["missed"] = [line.what for line in part.lines if line.met is False]
    probe.add(f"operations beside plain torch: {len(part.lines)}, missed", f"{len(missed)}", "0", not missed)
