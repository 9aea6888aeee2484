"""No argument of a function of _cpu_ops ends the process: what does not fit raises."""

import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from support import built, hostile  # noqa: F401 - before the modules that it may replace
from support.hostile import OBJECTS, Case
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.dlpack import to_dlpack

from recap_fast.generate.layout import plan_weights
from recap_fast.generate.model_spec import RopeSpec, TextSpec, VisionSpec
from recap_fast.generate.ops.cpp import kernels

# Letters: R rows, D width, H query heads, K key/value heads, E head width, T positions of a slot, V vocabulary.

R, D, H, K, E, T, V = 3, 8, 4, 2, 4, 9, 7
SLOTS, LAYERS, SIDE, PATCH = 3, 2, 6, 3
VISION = VisionSpec(
    hidden_size=6,
    intermediate_size=10,
    num_layers=LAYERS,
    num_heads=2,
    image_size=SIDE,
    patch_size=PATCH,
    activation="quick_gelu",
    norm_eps=1e-5,
)
TEXT = TextSpec(
    hidden_size=D,
    intermediate_size=11,
    num_layers=LAYERS,
    num_heads=H,
    num_kv_heads=K,
    head_dim=E,
    vocab_size=V,
    max_positions=T,
    norm_eps=1e-5,
    tied_head=False,
    rope=RopeSpec(theta=1e4),
    qkv_bias=True,
    qk_norm=True,
)


def fake(tensor: Tensor) -> Tensor:
    with FakeTensorMode():
        return torch.empty(tensor.shape, dtype=tensor.dtype)


def with_storage(tensor: Tensor, size_bytes: int) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(size_bytes)
    return tensor


def misaligned(tensor: Tensor) -> Tensor:
    memory = bytearray(tensor.nbytes + 1)
    return torch.frombuffer(memory, dtype=tensor.dtype, offset=1, count=tensor.numel()).view(tensor.shape)


TENSORS: dict[str, Callable[[Tensor], Any]] = {
    **{str(d): partial(Tensor.to, dtype=d) for d in (torch.float64, torch.float16, torch.int16, torch.bool)},
    "complex": lambda t: t.to(torch.complex64),
    "another dtype": lambda t: t.to(torch.int8 if t.dtype != torch.int8 else torch.float32),
    "one dimension more": lambda t: t[None],
    "no dimension": lambda t: t.flatten()[0].clone(),
    "many dimensions": lambda t: t.view(*t.shape, *[1] * 9),
    "one row more": lambda t: torch.cat([t, t[:1]]),
    "no rows": lambda t: t[:0],
    "one column less": lambda t: t[..., :-1].contiguous(),
    "one column more": lambda t: torch.cat([t, t[..., :1]], -1),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t.flatten()[:1].expand(t.numel()).view(t.shape) if t.ndim == 1 else t[:1].expand_as(t),
    "on no device": lambda t: t.to("meta"),
    "sparse": Tensor.to_sparse,
    "fake": fake,
    "freed": lambda t: with_storage(t, 0),
    "partly freed": lambda t: with_storage(t, t.nbytes - 1),
    "misaligned": lambda t: misaligned(t) if t.itemsize > 1 else None,
    "numpy": lambda t: t.float().numpy(),
    "a capsule": to_dlpack,
}
INDICES = {"negative": -1, "one too large": max(SLOTS, T), "huge": 2**62, "most negative": -(2**63)}
PROMPTS = {
    "negative count": (-1, 2, 2),
    "negative start": (1, -1, 2),
    "negative length": (1, 2, -1),
    "too many": (2, 2, 2),
    "too long": (1, 2, 4),
    "beyond the cache": (1, T - 1, 2),
    "huge": (2**62, 2**62, 2**62),
    "beyond int64": (1, 2**63, 2),
    "two numbers": (1, 2),
    "four numbers": (1, 2, 2, 2),
    "strings": ("1", "2", "2"),
    "None": None,
    "int": 5,
}
STRINGS = {"None": None, "int": 5, "nothing": "/nowhere/lib.so", "surrogate": "\ud800", "list": ["x"]}


def others(argument: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Labels and hostile values for an argument."""
    if isinstance(value, Tensor):
        yield from OBJECTS.items()
        yield from ((label, change(value)) for label, change in TENSORS.items())
        if value.dtype == torch.int64:
            yield from ((f"{label} in a row", torch.full_like(value, index)) for label, index in INDICES.items())
    elif argument == "weights":
        yield from {"None": None, "empty": {}, "list": list(value), "of numbers": dict.fromkeys(value, 5)}.items()
        for name, weight in value.items():
            yield f"without {name}", {n: w for n, w in value.items() if n != name}
            yield from ((f"{name}, {label}", {**value, name: other}) for label, other in others(name, weight))
    elif argument == "prompts":
        yield from PROMPTS.items()
    elif argument == "images":
        numbers, end = value
        yield from {"None": None, "empty": (), "numbers alone": numbers}.items()
        yield from ((f"numbers: {label}", (other, end)) for label, other in others("numbers", numbers))
        yield from ((f"end: {label}", (numbers, other)) for label, other in hostile.INTEGERS.items())
    elif argument in ("library", "level"):
        yield from STRINGS.items()
    else:
        yield from hostile.usual(value).items()
        if argument == "num_threads":
            yield "too many", 1025


def floats(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)


def places(num_rows: int = R) -> dict[str, Tensor]:
    return {"slots": torch.arange(num_rows) % SLOTS, "positions": torch.arange(num_rows) % (T - 1)}


SHAPES = {tensor.name: tensor.shape for tensor in plan_weights(VISION, TEXT) if tensor.name != "text.embed.weight"}
SHAPES |= {"text.cos": (T, E), "text.sin": (T, E), "vision.patch.bias": (6,), "vision.levels": (3, 256)}


def llama_arguments() -> dict[str, Any]:
    weights = {name: floats(*shape) for name, shape in SHAPES.items() if name.startswith("text.")}
    numbers = {"num_layers": LAYERS, "num_heads": H, "num_kv_heads": K, "eps": 1e-5, "num_threads": 2}
    return {**numbers, "weights": weights}


def tower_arguments() -> dict[str, Any]:
    weights = {name: floats(*shape) for name, shape in SHAPES.items() if not name.startswith("text.")}
    sizes = {"image_size": SIDE, "patch_size": PATCH, "num_heads": 2, "num_layers": LAYERS}
    return {**sizes, "eps": 1e-5, "activation": "quick_gelu", "num_dropped": 1, "weights": weights, "num_threads": 2}


def forward_arguments() -> dict[str, Any]:
    """A prompt of two rows and a caption."""
    return {
        "x": floats(R, D),
        "slots": torch.tensor([1, 1, 0]),
        "positions": torch.tensor([2, 3, 5]),
        "prompts": (1, 2, 2),
        "read": torch.tensor([1, 2]),
        "cache": torch.zeros(LAYERS, 2, SLOTS, K, T, E),
        "logits": torch.zeros(2, V),
        "num_threads": 2,
        "images": (torch.zeros(SLOTS, dtype=torch.int64), 2),
    }


def encode_arguments() -> dict[str, Any]:
    return {
        "pixels": torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8),
        "tokens": torch.zeros(2, VISION.num_image_tokens, D),
        "num_threads": 2,
    }


LLAMA, TOWER = kernels.Llama(**llama_arguments()), kernels.Tower(**tower_arguments())
ROWS = {"out": torch.zeros(R, D, dtype=torch.int8), "scale": torch.zeros(R, 1), "num_threads": 2}
CACHE = {"cache": torch.zeros(2, SLOTS, K, T, E), "num_threads": 2}
ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "use_threads_of": lambda: {"library": f"{torch.__path__[0]}/lib/libtorch_cpu.so"},
    "kernel_levels": dict,
    "use_kernels": lambda: {"level": kernels.kernel_levels()[0]},
    "add_rms_norm": lambda: {"x": floats(R, D), "delta": floats(R, D), "weight": floats(D), "eps": 1e-5, **ROWS},
    "swiglu": lambda: {"gate_up": floats(R, 2 * D), **ROWS},
    "quick_gelu": lambda: {"x": floats(R, D), **ROWS},
    "gelu_tanh": lambda: {"x": floats(R, D), **ROWS},
    "quantize_rows": lambda: {"x": floats(R, D), **ROWS},
    "dequantize": lambda: {
        "sums": torch.ones(R, D, dtype=torch.int32),
        "row_scale": floats(R, 1),
        "channel_scale": floats(D),
        "bias": floats(D),
        "out": floats(R, D),
        "num_threads": 2,
    },
    "rope_store": lambda: {
        "qkv": floats(R, (H + 2 * K) * E),
        "cos": floats(T, E),
        "sin": floats(T, E),
        "query_norm": floats(E),
        "key_norm": floats(E),
        "eps": 1e-5,
        "out": floats(R, H, E),
        **places(),
        **CACHE,
    },
    "decode_attention": lambda: {"queries": floats(R, H, E), "out": floats(R, H * E), **places(), **CACHE},
    "Llama.__init__": llama_arguments,
    "Llama.forward": lambda: {"self": LLAMA, **forward_arguments()},
    "Tower.__init__": tower_arguments,
    "Tower.encode": lambda: {"self": TOWER, **encode_arguments()},
}


def from_threads(action: Callable[[], object]) -> None:
    threads = [threading.Thread(target=lambda: [action() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def indices_that_are_written_to(name: str) -> object:
    """`out` lies where `positions` lie."""
    arguments = ARGUMENTS[name]()
    memory = torch.zeros(64, dtype=torch.int64)
    out = arguments["out"]
    out = memory.view(torch.float32)[: out.numel()].view_as(out)
    return getattr(kernels, name)(**arguments | {"positions": memory[:R], "out": out})


def all_cases() -> Iterator[Case]:
    yield from hostile.cases(kernels, ARGUMENTS, others)
    yield Case("Llama.__init__", "again", lambda: LLAMA.__init__(**llama_arguments()))
    yield Case("Llama.forward", "by threads", lambda: from_threads(lambda: LLAMA.forward(**forward_arguments())))
    yield Case("Tower.encode", "by threads", lambda: from_threads(lambda: TOWER.encode(**encode_arguments())))
    for name in ("rope_store", "decode_attention"):
        yield Case(name, "indices that are written to", partial(indices_that_are_written_to, name))
    wide = {"queries": floats(1, 1 << 16, 1), "cache": torch.zeros(2, 1, 1, 1 << 13, 1), "out": floats(1, 1 << 16)}
    yield Case("decode_attention", "too wide", lambda: kernels.decode_attention(**wide, **places(1), num_threads=2))


ACCEPTED = {
    ("add_rms_norm", "delta: None"),
    ("dequantize", "bias: None"),
    *{("rope_store", f"{name}_norm: None") for name in ("query", "key")},
    *{("Llama.__init__", f"weights: without {n}") for n in SHAPES if re.search("text.*(qkv.bias|[qk]_norm)", n)},
    *{("Llama.forward", f"images: {case}") for case in ("None", "end: zero")},
    ("Llama.forward", "without images"),
    *{("Llama.forward", f"images: numbers: {n} in a row") for n in INDICES},  # any number names an image
    ("Llama.__init__", "weights: text.head.weight, one row more"),  # another vocabulary
    ("Llama.__init__", "again"),  # changes nothing
    ("Tower.__init__", "num_layers: zero"),
    ("Tower.__init__", "num_dropped: zero"),
    *{("Tower.__init__", f"weights: without {n}") for n in SHAPES if re.fullmatch("[^t](?!.*norm).*bias", n)},
    *{(name, "by threads") for name in ("Llama.forward", "Tower.encode")},
    *{(name, "indices that are written to") for name in ("rope_store", "decode_attention")},
}
"""What is valid after all, or useless and harmless."""


def test_nothing_hostile_is_accepted_and_nothing_crashes() -> None:
    hostile.check(__file__, kernels, ACCEPTED)


if __name__ == "__main__":
    hostile.run(all_cases())
