"""Right before fast: the engine on this device beside transformers, on models so small that every token is checked.

float32   random models (TF32 off), several slots and prefills, texts of every length, a stop id that occurs: equal ids
bfloat16  the same; where the first token differs, the one taken was all but the likeliest
8 bits    the trained demo engine, its own bfloat16 captions as text: how often it would have said the next token
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from inputs import oracle
from recap_fast.generate.device import find_hardware, resolve_device
from recap_fast.generate.prepared import generate_all
from recap_fast.records import Request
from suite.demo import DemoEngine, draw
from suite.setting import Findings, Setting

SIZES = ((1, 1), (3, 3), (5, 2), (16, 4), (64, 8))
"""Slots and images of a prefill."""
MODELS = {
    "heads of 16": {},
    "heads of 128": {"text": {"hidden_size": 512, "num_attention_heads": 4, "num_key_value_heads": 1}},
}
KINDS = {
    "SigLIP": {
        "vision": {
            "model_type": "siglip_vision_model",
            "hidden_size": 144,
            "intermediate_size": 266,
            "num_attention_heads": 2,
            "image_size": 30,
        },
        "llava": {"vision_feature_select_strategy": "full"},
        "preprocess": "stretch",
    },
    "Qwen3": {"text": {"model_type": "qwen3", "head_dim": 32}},
    **MODELS,
}
"""And more for this part alone, which come first. SigLIP has heads of 72, and a side that is no multiple of 8."""
LONGEST, LONGEST_TEXT = 24, 64
NEAR_TIE = 3e-2
"""Of the largest logit: a gap below it is a tie to bfloat16."""
AGREEMENT = 0.99
"""Of the demo engine's next tokens; they are as good as certain, so that a wrong scale would show at once."""


def run(setting: Setting) -> Findings:
    """All three."""
    torch.set_float32_matmul_precision("highest")
    found = setting.find("parity")
    sizes, num_images, num_scenes = (SIZES, 30, 120) if setting.is_real else (SIZES[1:3], 5, 2)
    for number, (name, shape) in enumerate(KINDS.items()):
        folder = setting.work / f"parity-{number}"
        pair = oracle.make_pair(folder, **shape).with_texts(LONGEST_TEXT)
        requests = oracle.random_requests(pair, num_images, max_new_tokens=LONGEST, fields=True)
        truth = [pair.reference(request, []) for request in requests]
        with found.trying(f"float32, {name}"):
            _float32(found, setting, name, pair, requests, truth, sizes)
        with found.trying(f"bfloat16, {name}"):
            rounded = oracle.make_pair(folder / "bfloat16", precision="bfloat16", **shape)
            _bfloat16(found, setting, name, rounded.with_texts(LONGEST_TEXT), requests, truth)
    with found.trying("8 bits, demo engine"):
        _eight_bits(found, setting, num_scenes)
    return found


def _open(setting: Setting, pair: oracle.Pair, slots: int, images: int, stop_ids: Sequence[int]) -> Any:
    return pair.open(
        device=setting.device,
        stop_ids=stop_ids,
        num_slots=slots,
        prefill_images=images,
        fixed_shapes=True,
    )


def _float32(
    found: Findings,
    setting: Setting,
    name: str,
    pair: oracle.Pair,
    requests: list[Request],
    truth: list[list[int]],
    sizes: Sequence[tuple[int, int]],
) -> None:
    stop = Counter(token for ids in truth for token in ids).most_common(1)[0][0]
    for stop_ids in ([], [stop]):
        expected = {i: _until(ids, stop_ids) for i, ids in enumerate(truth)}
        equal, gaps = [], []
        for slots, images in sizes:
            engine = _open(setting, pair, slots, images, stop_ids)
            done = {c.id: c for c in generate_all(engine, requests)}
            engine.close()
            equal.append(sum(done[i].token_ids.tolist() == ids for i, ids in expected.items()))
            if not stop_ids:
                gaps += [_gap(pair, r, expected[r.id], done[r.id].token_ids.tolist()) for r in requests]
        lengths = len({len(ids) for ids in expected.values()})
        what = f"float32, {name}: captions equal, {lengths} lengths"
        total = len(sizes) * len(requests)
        found.add(what, f"{sum(equal)} of {total}", "all", sum(equal) == total)
        if differing := [gap for gap in gaps if gap is not None]:  # a tie, or a fault
            found.add("   gap at the first other token", f"{max(differing):.1e}")


def _until(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    return next((ids[:i] for i, token in enumerate(ids) if token in stop_ids), ids)


def _bfloat16(
    found: Findings, setting: Setting, name: str, pair: oracle.Pair, requests: list[Request], truth: list[list[int]]
) -> None:
    engine = _open(setting, pair, 16, 4, [])
    done = {c.id: c for c in generate_all(engine, requests)}
    engine.close()
    gaps = [_gap(pair, r, truth[r.id], done[r.id].token_ids.tolist()) for r in requests]
    differing = [gap for gap in gaps if gap is not None]
    found.details[f"bfloat16, {name}: gaps at the first other token"] = differing
    same, widest = len(gaps) - len(differing), max(differing, default=0.0)
    what = f"bfloat16, {name}: {same} of {len(gaps)} equal, gap elsewhere"
    found.add(what, f"{widest:.4f}", f"< {NEAR_TIE}", widest < NEAR_TIE)


@torch.inference_mode()
def _gap(pair: oracle.Pair, request: Request, expected: list[int], given: list[int]) -> float | None:
    """By how much float32 prefers its own token to the first other one, over its largest logit; None if all agree."""
    place = next((i for i, (a, b) in enumerate(zip(expected, given, strict=True)) if a != b), None)
    if place is None:
        return None
    done = pair.model(**pair.inputs(request.pixels, request.text_ids), use_cache=True)
    if place:  # after the image, since a random model may well say its token
        done = pair.model(input_ids=torch.tensor([expected[:place]]), past_key_values=done.past_key_values)
    logits = done.logits[0, -1]
    return float((logits.max() - logits[given[place]]) / logits.abs().max())


def _eight_bits(found: Findings, setting: Setting, num_scenes: int) -> None:
    """The next token after every beginning of a caption, beside bfloat16's, which made the captions."""
    has = find_hardware(resolve_device(setting.device)).precisions()
    engines = {p: DemoEngine(setting, p) for p in ("bfloat16", "fp8", "int8") if p in has}
    pictures = engines["bfloat16"].decode(draw(num_scenes))
    captions = engines["bfloat16"].caption(pictures)
    for name, engine in engines.items():
        said = engine.next_tokens(pictures, captions)
        wanted = [token for ids in captions for token in ids]
        share = sum(a == b for a, b in zip(said, wanted, strict=True)) / len(wanted)
        found.details[f"{name}, demo engine"] = {"agreement": share, "tokens": len(wanted)}
        what = f"{name}, demo engine: next tokens as bfloat16's"
        found.add(what, f"{share:.3%}", f">= {AGREEMENT:.0%}", share >= AGREEMENT)
