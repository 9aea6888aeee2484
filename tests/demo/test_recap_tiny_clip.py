"""The demo's CLIP as it ships: scores of scenes that it has not seen say whether the caption is right."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch
from changes import change, misword
from clip_examples import preprocess
from make_shards import ALT_TEXTS
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from recap_fast.score.clip import ClipScorer
from recap_fast.score.clip_folder import ClipFolder
from recap_fast.score.scorer import Pair

FOLDER = Path(__file__).parents[2] / "demo/recap-tiny-clip"
NUM_SCENES = 40


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(2**21)
    return [scenes.random_scene(rng) for _ in range(NUM_SCENES)]


def share_right(drawn, wrong):
    """How often the caption of a scene has a higher score than a wrong text, by `recap-fast score`."""
    texts = zip(drawn, wrong, strict=True)
    pairs = [Pair("s", i, scenes.jpeg(s), scenes.caption(s), text) for i, (s, text) in enumerate(texts)]
    scorer = ClipScorer(ClipFolder.open(FOLDER), "cosine", torch.device("cpu"), batch_size=20)
    try:
        scores = list(scorer.score(pairs))
    finally:
        scorer.close()
    assert not any(score.notes for score in scores), "none was cut or could not be decoded"
    return sum(score.re > score.org for score in scores) / len(drawn)


def test_it_ships_small_and_with_its_accuracy():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) <= 16e6
    accuracy = json.loads((FOLDER / "accuracy.json").read_text())
    assert accuracy["pairs"] == 1000
    assert min(accuracy[kind] for kind in ("accuracy", "color", "count", "place")) >= 0.97


@pytest.mark.parametrize("kind", ["color", "count", "place"])
def test_the_right_caption_beats_one_with_a_wrong(kind, drawn):
    rng = np.random.default_rng(1)
    assert share_right(drawn, [scenes.caption(change(scene, kind, rng)) for scene in drawn]) >= 0.9


def test_the_right_caption_beats_one_with_a_wrong_word(drawn):
    rng = np.random.default_rng(2)
    assert share_right(drawn, [misword(scenes.caption(scene), rng) for scene in drawn]) >= 0.9


def test_the_right_caption_beats_alt_texts(drawn):
    things = [scene.things[0] for scene in drawn]
    texts = [ALT_TEXTS[i % len(ALT_TEXTS)] for i in range(len(drawn))]
    filled = [a.format(color=t.color, shape=t.shape, number=1234) for a, t in zip(texts, things, strict=True)]
    assert share_right(drawn, filled) >= 0.9


def test_transformers_takes_the_whole_folder(drawn):
    model = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32)
    texts = AutoTokenizer.from_pretrained(FOLDER)([scenes.caption(s) for s in drawn], padding=True, return_tensors="pt")
    assert (texts["input_ids"] == model.config.text_config.eos_token_id).any(1).all()
    assert texts["input_ids"].shape[1] <= model.config.text_config.max_position_embeddings
    images = [Image.open(io.BytesIO(scenes.jpeg(s))) for s in drawn]
    pixels = AutoImageProcessor.from_pretrained(FOLDER, backend="pil")(images, return_tensors="pt")["pixel_values"]
    trained = torch.from_numpy(np.stack([preprocess(scenes.jpeg(s)) for s in drawn]))
    mean, std = torch.tensor([OPENAI_CLIP_MEAN, OPENAI_CLIP_STD])[:, :, None, None]
    assert torch.allclose(pixels, (trained / 255 - mean) / std, atol=1e-6)
    with torch.no_grad():
        found = model(pixel_values=pixels, **texts).logits_per_image.argmax(1)
    assert (found == torch.arange(len(drawn))).float().mean() >= 0.9
