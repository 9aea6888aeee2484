"""Decode attention in CUDA C++: on the CPU, on a GPU, and compiled for GPUs that are not here."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import cuda_on_cpu, operations, sass, tolerance
from support.operations import random
from support.tolerance import Inexact, assert_within, exact
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from recap_fast.generate.device import WITHOUT
from recap_fast.generate.ops import Activation, Quantized, Rows, cuda

# Letters: B rows, H query heads, K key/value heads, T positions of a slot, E head width.

CACHES = [torch.bfloat16, torch.float8_e4m3fn]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> cuda_on_cpu.Kernels:
    return cuda_on_cpu.Kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(params=DEVICES)
def ops(request: pytest.FixtureRequest, on_cpu: cuda_on_cpu.Kernels, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`Ops.attention` of single rows, for tensors of the CPU."""
    if request.param == "cpu":
        monkeypatch.setattr(cuda, "kernels", on_cpu)
        monkeypatch.setattr(cuda, "_stream", lambda device: 0)
    elif cuda.kernels is None:
        pytest.skip("recap_fast._cuda_ops is not there: it is built where nvcc is")
    elif torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card has no FP8: compute capability 8.9 is needed")

    def run(q: Tensor, cache: Tensor, rows: Rows, prompts: None = None, bound: float | None = None) -> Activation:
        q, cache, rows = q.to(request.param), cache.to(request.param), Rows(*(x.to(request.param) for x in rows))
        out = q.new_full((len(q), q.shape[1] * q.shape[2]), torch.nan).to(
            torch.bfloat16 if bound is None else torch.float8_e4m3fn
        )
        scale = None if bound is None else torch.full((len(q), 1), torch.nan, device=request.param)
        cuda.decode_attention(q, cache, rows, out, scale, bound)
        return out.cpu() if scale is None else Quantized(out.cpu(), scale.cpu())

    return SimpleNamespace(attention=run)


def expect(q: Tensor, cache: Tensor, rows: Rows) -> Inexact:
    """What none of these rows, which are not idle, may get far from: [B, H * E]."""
    keys, values = (exact(part[rows.slots]) for part in cache.float())
    visible = torch.arange(cache.shape[3]) <= rows.positions[:, None, None, None]
    weights = torch.float16 if cache.dtype == torch.float8_e4m3fn else torch.bfloat16
    grouped = q.unflatten(1, (cache.shape[2], -1))
    return tolerance.attention(exact(grouped), keys, values, visible, weights).map(lambda x: x.flatten(1))


@pytest.mark.parametrize("cached", CACHES)
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1), (8, 2), (8, 1)])
def test_grouped_heads(ops: Any, heads: int, kv_heads: int, width: int, cached: torch.dtype) -> None:
    operations.check_attention(ops, torch.bfloat16, heads, kv_heads, width, [0, 5, 29, 28], 30, cached)


@pytest.mark.parametrize("cached", CACHES)
@pytest.mark.parametrize("width", [64, 128])
def test_at_the_edges_of_tiles(ops: Any, width: int, cached: torch.dtype) -> None:
    positions = [0, 7, 8, 14, 15, 16, 17, 31, 62, 63, 64, 65, 79, 127, 128, 640, 698, 699]
    operations.check_attention(ops, torch.bfloat16, 4, 1, width, positions, 700, cached)


@pytest.mark.parametrize("cached", CACHES)
@pytest.mark.parametrize("positions", [[], [29, 29]], ids=["no rows", "idle rows alone"])
def test_nobody(ops: Any, positions: list[int], cached: torch.dtype) -> None:
    operations.check_attention(ops, torch.bfloat16, 4, 2, 64, positions, 30, cached)


@pytest.mark.parametrize("cached", CACHES)
@pytest.mark.parametrize("growing", [True, False], ids=["growing", "shrinking"])
def test_scores_far_apart(ops: Any, growing: bool, cached: torch.dtype) -> None:
    """Over its tiles a warp meets scores that are larger by hundreds, or smaller; the heads' differ in sign."""
    q, cache = random(1, 4, 128, dtype=torch.bfloat16), random(2, 1, 1, 300, 128, seed=1)
    cache[0] = q[0, 0].float() * torch.linspace(0, 10, 300)[:, None] + cache[0]
    q[:, 1] = -q[:, 0]
    cache = (cache if growing else cache.flip(3)).to(cached)
    rows = Rows(torch.tensor([0]), torch.tensor([298]))
    assert_within(ops.attention(q, cache, rows), expect(q, cache, rows).rounded(torch.bfloat16))


@pytest.mark.parametrize("cached", CACHES)
def test_what_a_row_gets_depends_on_its_slot_alone(ops: Any, cached: torch.dtype) -> None:
    q, cache = random(5, 8, 64, dtype=torch.bfloat16), random(2, 3, 2, 90, 64, seed=1).to(cached)
    rows = Rows(torch.tensor([2, 0, 2, 2, 1]), torch.tensor([70, 3, 88, 70, 89]))
    together = ops.attention(q, cache, rows)
    assert_within(together[:4], expect(q[:4], cache, Rows(*(x[:4] for x in rows))).rounded(torch.bfloat16))
    for i in range(5):
        alone = ops.attention(q[i : i + 1], cache, Rows(*(x[i : i + 1] for x in rows)))
        assert torch.equal(together[i], alone[0])


@pytest.mark.parametrize("cached", CACHES)
@pytest.mark.parametrize("width", [64, 128])
def test_in_8_bits(ops: Any, width: int, cached: torch.dtype) -> None:
    operations.check_attention(ops, torch.bfloat16, 6, 2, width, [0, 150, 199], 200, cached, is_bounded=True)


@pytest.mark.parametrize("cached", CACHES)
def test_the_kernel_is_compared_with_plain_torch(
    on_cpu: cuda_on_cpu.Kernels, cached: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = torch.device("cpu"), cached, 4, 2, 64
    monkeypatch.setattr(cuda, "kernels", on_cpu)
    monkeypatch.setattr(cuda, "_stream", lambda device: 0)
    assert cuda.distance.__wrapped__(*arguments) <= cuda.TOLERANCE
    for number, found in ((0.0, 1.0), (torch.nan, torch.nan)):
        monkeypatch.setattr(cuda, "decode_attention", lambda q, cache, rows, out, number=number: out.fill_(number))
        assert cuda.distance.__wrapped__(*arguments) == pytest.approx(found, nan_ok=True)

    def refuse(*_: Tensor) -> None:
        raise RuntimeError("decode_attention: no kernel image is available for execution on the device")

    monkeypatch.setattr(cuda, "decode_attention", refuse)
    assert cuda.distance.__wrapped__(*arguments) == float("inf")


@pytest.mark.parametrize(("distance", "expected"), [(0.01, True), (0.1, False), (torch.nan, False), (torch.inf, False)])
def test_a_kernel_that_is_wrong_is_not_used(distance: float, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "takes", lambda *_: True)
    monkeypatch.setattr(cuda, "distance", lambda *_: distance)
    assert cuda.supports(torch.zeros(1, 4, 64), torch.zeros(2, 1, 2, 9, 64)) == expected


needs_module = pytest.mark.skipif(
    cuda.kernels is None, reason="recap_fast._cuda_ops is not there: it is built where nvcc is"
)
ARGUMENTS = dict.fromkeys(("queries", "keys", "values", "slots", "positions", "out"), 1024) | {
    "quantized": None,
    "in_8_bits": False,
    "sizes": (2, 4, 2, 9, 64),
    "stream": 0,
}


@needs_module
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sizes": (-1, 4, 2, 9, 64)}, "rows < 0"),
        ({"sizes": (2, 4, 0, 9, 64)}, "num_kv_heads is not 1 to 65535"),
        ({"sizes": (2, 5, 2, 9, 64)}, "query heads cannot share the key/value heads evenly"),
        ({"sizes": (2, 18, 2, 9, 64)}, "more than 8 query heads share a key/value head"),
        ({"sizes": (2, 4, 2, 0, 64)}, "num_positions < 1"),
        ({"sizes": (2, 4, 2, 9, 80)}, "head_width is neither 64 nor 128"),
        ({"keys": 1032}, "keys is at no multiple of 16 bytes"),
        ({"out": 0}, "out is at no multiple of 16 bytes"),
        ({"slots": 1028}, "slots is at no multiple of 8 bytes"),
        ({"quantized": (1026, 1.0)}, "scale is at no multiple of 4 bytes"),
        ({"quantized": (1024, 0.0)}, "bound is no positive number"),
        ({"quantized": (1024, float("inf"))}, "bound is no positive number"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^decode_attention: {message}$"):
        cuda.kernels.decode_attention(**ARGUMENTS | changed)


@needs_module
def test_a_launch_without_a_card_raises() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(RuntimeError, match=r"^decode_attention: .*CUDA"):
        cuda.kernels.decode_attention(**ARGUMENTS)


@pytest.mark.parametrize(
    ("changed", "capability", "expected"),
    [
        ({}, (8, 9), True),
        ({}, (8, 6), False),
        ({"cached": torch.bfloat16}, (8, 0), True),
        ({"cached": torch.bfloat16}, (7, 5), False),
        ({"cached": torch.float32}, (9, 0), False),
        ({"dtype": torch.float16}, (9, 0), False),
        ({"width": 80}, (9, 0), False),
        ({"width": 64, "heads": 16}, (9, 0), True),
        ({"heads": 18}, (9, 0), False),
        ({"heads": 3}, (9, 0), False),
        ({"device": "cpu"}, (9, 0), False),
        ({"gap": 1}, (9, 0), False),
        ({"cache_gap": 1}, (9, 0), False),
    ],
)
def test_what_the_kernel_takes(
    changed: dict[str, Any], capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    given = {"device": "cuda", "dtype": torch.bfloat16, "cached": torch.float8_e4m3fn, "width": 128, "heads": 8}
    given |= {"gap": 0, "cache_gap": 0} | changed
    width = given["width"]
    with FakeTensorMode():
        q, cache = (
            torch.empty_strided(
                (*sizes, width),
                torch.empty(*sizes, width + given[gap], device="meta").stride(),
                dtype=given[dtype],
                device=given["device"],
            )
            for sizes, gap, dtype in (((3, given["heads"]), "gap", "dtype"), ((2, 4, 2, 9), "cache_gap", "cached"))
        )
        for module, is_there in ((object(), True), (None, False)):
            monkeypatch.setattr(cuda, "kernels", module)
            assert cuda.takes(q, cache) == (expected and is_there)
        monkeypatch.setattr(cuda, "kernels", object())
        monkeypatch.setenv(WITHOUT, "cuda-kernels")
        assert not cuda.takes(q, cache)


REGISTERS = 64 * 1024
"""Of a multiprocessor: CUDA C++ Programming Guide, table of technical specifications."""
THREADS = 128
BLOCKS = {("BFloat16", 64): 4, ("BFloat16", 128): 3, ("E4M3", 64): 4, ("E4M3", 128): 4}
"""Of a multiprocessor, at least."""
BYTES_ON_THEIR_WAY = 24 * 1024
"""What a multiprocessor has to wait for at a time: an H200's 4.8 TB/s for 700 ns, over 132 of them."""


@pytest.mark.skipif(sass.NVCC is None, reason="no nvcc here, which makes the machine code")
@pytest.mark.skipif(sass.CUOBJDUMP is None, reason="no cuobjdump here, which shows the machine code")
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_machine_code(capability: int, tmp_path: Path) -> None:
    """Numbers come from the cache in wide loads, many at a time, and touch no other memory on their way."""
    kernels = sass.compile_kernels("cuda/decode_attention.cu", capability, tmp_path)
    for (number, width), least_blocks in BLOCKS.items():
        (kernel,) = (kernel for name, kernel in kernels.items() if f"{number}ELi{width}E" in name)
        if number == "E4M3" and capability < 89:
            continue
        assert (kernel.stack, kernel.local) == (0, 0), "registers are spilled"
        loop = kernel.loop("HMMA")
        moves = [text.split()[0] for text in loop if re.match(r"LD|ST|ATOM|RED", text)]
        assert {move for move in moves if not re.fullmatch(r"LDG\.E\.\w+\.(64|128)\.CONSTANT", move)} == set()
        size = sum(int(move.split(".")[3]) for move in moves) // 8
        assert size == 2 * 16 * width * (1 if number == "E4M3" else 2) / 32, "a tile of 16 positions, once"
        blocks = REGISTERS // (kernel.registers * THREADS)
        assert blocks >= least_blocks
        assert blocks * THREADS * size >= BYTES_ON_THEIR_WAY
        assert len(loop) < 300
