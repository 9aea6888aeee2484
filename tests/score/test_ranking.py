"""Scores are about meaning: with the demo's CLIP the right caption of a drawn scene beats one with one wrong thing."""

from pathlib import Path

import changes
import numpy as np
import pytest
import scenes
import torch

from recap_fast.score.clip import ClipScorer
from recap_fast.score.clip_folder import ClipFolder
from recap_fast.score.scorer import Pair

FOLDER = Path(scenes.__file__).parent / "recap-tiny-clip"
KINDS = ("color", "count", "place")
NUM_PAIRS = 1000


@pytest.mark.slow
def test_the_right_caption_ranks_above_a_wrong_one_in_at_least_90_of_100_pairs():
    rng = np.random.default_rng(20261127)
    pairs = []
    for index in range(NUM_PAIRS):
        scene = scenes.random_scene(rng)
        wrong = scenes.caption(changes.change(scene, KINDS[index % len(KINDS)], rng))
        pairs.append(Pair("drawn", index, scenes.jpeg(scene), scenes.caption(scene), wrong))
    scorer = ClipScorer(ClipFolder.open(FOLDER), "cosine", torch.device("cpu"))
    right = dict.fromkeys(KINDS, 0)
    for score in scorer.score(pairs):
        assert not score.notes
        right[KINDS[score.index % len(KINDS)]] += score.re > score.org
    scorer.close()
    assert all(count >= 0.9 * NUM_PAIRS // len(KINDS) for count in right.values()), right
