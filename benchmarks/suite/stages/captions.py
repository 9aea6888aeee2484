"""Captions through the engine beside those that are right: of tiny random models, and of the trained demo engine.

What is right is made on a CPU, by transformers and by the demo engine in float32. It lies in the file that the setting
names, where an earlier probe has left it; else it is made here, and left in `expected.json` of the work folder.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inputs import oracle
from inputs.workload import agreement
from recap_fast.generate.device import find_hardware, resolve_device
from recap_fast.generate.prepared import generate_all
from recap_fast.records import Request
from suite.demo import DemoEngine, draw
from suite.parity import MODELS
from suite.probe import Probe
from suite.setting import Setting

NUM_REQUESTS, NUM_TOKENS, NUM_SCENES = 12, 16, 48
SIZES = ((5, 2), (16, 4))
"""Slots and images of a prefill."""
LOW = ("bfloat16", "fp8", "int8")
BAR = 0.95
"""Of the demo engine's captions in float32, on whatever device."""
Captions = list[list[int]]


def tokens(probe: Probe, found: dict[str, Any]) -> None:
    """float32 token for token as transformers, in steps of fixed shape; lower precisions run."""
    import torch

    torch.set_float32_matmul_precision("highest")
    for name, shape in MODELS.items():
        pair = oracle.make_pair(probe.setting.work / f"tokens-{len(shape)}", **shape)
        requests = oracle.random_requests(pair, NUM_REQUESTS, max_new_tokens=NUM_TOKENS, fields=True)
        truth = _expected(probe, f"tokens, {name}", functools.partial(_reference, pair, requests))
        for slots, images in SIZES:
            with probe.trying(found, f"float32, {name}, {slots}/{images}"):
                done = _caption(probe, pair, requests, slots, images)
                equal = found[f"float32, {name}, {slots}/{images}"] = agreement(done, truth)
                share = equal["equal_captions"]
                probe.add(f"float32, {name}, {slots} slots: as transformers", f"{share:.0%}", "100%", share == 1)
        for precision in _lower(probe):
            with probe.trying(found, f"{precision}, {name}"):
                low = oracle.make_pair(
                    probe.setting.work / f"tokens-{len(shape)}-{precision}", precision=precision, **shape
                )
                equal = found[f"{precision}, {name}"] = agreement(_caption(probe, low, requests, 16, 4), truth)
                probe.add(f"{precision}, {name}: equal tokens of {NUM_TOKENS}", f"{equal['mean_equal_tokens']:.1f}")


def _reference(pair: oracle.Pair, requests: list[Request]) -> Captions:
    return [pair.reference(request, []) for request in requests]


def _caption(probe: Probe, pair: oracle.Pair, requests: list[Request], slots: int, images: int) -> Captions:
    engine = pair.open(
        device=probe.setting.device, stop_ids=[], num_slots=slots, prefill_images=images, fixed_shapes=True
    )
    done = sorted(generate_all(engine, requests), key=lambda completion: completion.id)
    engine.close()
    return [completion.token_ids.tolist() for completion in done]


def demo(probe: Probe, found: dict[str, Any]) -> None:
    """Captions of scenes in every precision."""
    images, on_cpu = draw(NUM_SCENES), dataclasses.replace(probe.setting, device="cpu")
    truth = _expected(probe, "demo", lambda: _caption_demo(on_cpu, "float32", images))
    for precision in ("float32", *_lower(probe)):
        with probe.trying(found, precision):
            equal = found[precision] = agreement(_caption_demo(probe.setting, precision, images), truth)
            share, is_exact = equal["equal_captions"], precision == "float32"
            bar = (f">= {BAR:.0%}", share >= BAR) if is_exact else ()
            probe.add(f"demo engine, {precision}: captions as on a CPU", f"{share:.1%}", *bar)


def _caption_demo(setting: Setting, precision: str, images: list[bytes]) -> Captions:
    engine = DemoEngine(setting, precision)
    return engine.caption(engine.decode(images))


def _lower(probe: Probe) -> tuple[str, ...]:
    """The lower precisions that the device has; on a CPU one shows that the stage runs."""
    has = find_hardware(resolve_device(probe.setting.device)).precisions()
    return tuple(precision for precision in LOW if precision in has)[: None if probe.is_gpu else 1]


def _expected(probe: Probe, name: str, make: Callable[[], Captions]) -> Captions:
    """The right captions of that name."""
    given = probe.setting.expected
    if given is not None:
        known: Captions = json.loads(Path(given).read_text(encoding="utf-8"))[name]
        return known
    file = probe.setting.work / "expected.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if name not in content:
        content[name] = make()
        file.write_text(json.dumps(content) + "\n", encoding="utf-8")
    found: Captions = content[name]
    return found
