"""The demo engine as it ships: right about scenes it has not seen, and the same as transformers on its checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch
from support import pictures
from support.engines import caption_all
from transformers import LlavaForConditionalGeneration

from inputs.oracle import Pair
from recap_fast.build.engine_directory import build_engine
from recap_fast.decode.decoder import make_decoder
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.records import OK, Request

CHECKPOINT = Path(__file__).parents[2] / "demo/recap-tiny"
NUM_SCENES = 60


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("recap-tiny")
    build_engine("recap_tiny", CHECKPOINT, folder / "engine")
    model = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    return Pair(PreparedEngine.read(folder / "engine"), model)


@pytest.fixture(scope="module")
def drawn() -> list[scenes.Scene]:
    rng = np.random.default_rng(2**20)
    return [scenes.random_scene(rng) for _ in range(NUM_SCENES)]


def make_requests(pair: Pair, images: list[bytes], decoder: str) -> list[Request]:
    batch = make_decoder(decoder, pair.spec.preprocess).decode(images)
    assert {outcome.status for outcome in batch.outcomes} == {OK}
    text_ids, _ = pair.prompts.text_ids({})
    return [Request(i, pixels, text_ids, 128) for i, pixels in enumerate(batch.pixels)]


def texts(pair: Pair, requests: list[Request], **options: object) -> list[str]:
    done = caption_all(pair.open(**options), requests)
    assert all(c.finish_reason == "stop" for c in done.values()), "no loop, none cut at its limit"
    return pair.tokenizer.detokenize([done[i].token_ids for i in range(len(requests))])


def test_it_ships_small_and_with_its_accuracy() -> None:
    weights = [p.stat().st_size for p in CHECKPOINT.glob("*.safetensors")]
    assert sum(weights) <= 20e6
    accuracy = json.loads((CHECKPOINT / "accuracy.json").read_text())
    assert accuracy["scenes"] == 1000
    assert accuracy["exact"] >= 0.97


def test_captions_are_right(pair: Pair, drawn: list[scenes.Scene]) -> None:
    requests = make_requests(pair, [scenes.jpeg(s) for s in drawn], "pillow")
    captions = texts(pair, requests, loop_stop=True)
    right = sum(c == scenes.caption(s) for c, s in zip(captions, drawn, strict=True))
    assert right >= 0.9 * NUM_SCENES, f"{right} of {NUM_SCENES}"


def test_captions_equal_transformers(pair: Pair, drawn: list[scenes.Scene]) -> None:
    requests = make_requests(pair, [scenes.jpeg(s) for s in drawn[:12]], "pillow")
    done = caption_all(pair.open(num_slots=7, prefill_images=3), requests[::-1])
    lengths = set()
    for request in requests:
        assert done[request.id].token_ids.tolist() == pair.reference(request)
        lengths.add(done[request.id].num_tokens)
    assert min(lengths) < 15
    assert max(lengths) > 90


def test_dali_and_pillow_agree(pair: Pair, drawn: list[scenes.Scene]) -> None:
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    images = [scenes.jpeg(s) for s in drawn]
    by_pillow, by_dali = (texts(pair, make_requests(pair, images, name)) for name in ("pillow", "dali"))
    agreed = sum(a == b for a, b in zip(by_pillow, by_dali, strict=True))
    assert agreed >= 0.95 * NUM_SCENES, f"{agreed} of {NUM_SCENES}"


def test_it_answers_about_any_image(pair: Pair) -> None:
    images = [pictures.encode(pictures.noise(300, 200, seed), "PNG") for seed in range(3)]
    done = caption_all(pair.open(loop_stop=True), make_requests(pair, images, "pillow"))
    assert all(len(c.token_ids) for c in done.values())
