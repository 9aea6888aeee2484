"""Scenes that differ in one thing, and texts that are wrong about one: they differ, and only in that."""

import numpy as np
import pytest
import scenes
from changes import CHANGES, change, misword, shorten

SCENES = [scenes.random_scene(np.random.default_rng(seed)) for seed in range(200)]


def parts(scene):
    """What each change may touch: all else must stay."""
    things = scene.things
    return {
        "color": sorted((t.shape, t.size, t.place) for t in things),
        "shape": sorted((t.color, t.size, t.place) for t in things),
        "size": sorted((t.shape, t.color, t.place) for t in things),
        "place": sorted((t.shape, t.color, t.size) for t in things),
    }


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_one_thing_and_makes_another_caption(kind):
    rng = np.random.default_rng(0)
    for scene in SCENES:
        changed = change(scene, kind, rng)
        assert scenes.caption(changed) != scenes.caption(scene)
        assert (changed.width, changed.height, changed.seed) == (scene.width, scene.height, scene.seed)
        assert [t.place for t in changed.things] == sorted({t.place for t in changed.things})
        assert (changed.background != scene.background) == (kind == "background")
        assert abs(len(changed.things) - len(scene.things)) == (kind == "count")
        if kind == "count":
            assert len(set(changed.things) & set(scene.things)) == min(len(changed.things), len(scene.things))
        elif kind == "background":
            assert changed.things == scene.things
        else:
            assert parts(changed)[kind] == parts(scene)[kind]
            assert len(set(scene.things) - set(changed.things)) <= 2


def test_one_word_is_another():
    rng = np.random.default_rng(0)
    for scene in SCENES:
        caption = scenes.caption(scene)
        words, wrong = caption.split(), misword(caption, rng).split()
        assert len(words) == len(wrong)
        assert sum(a != b for a, b in zip(words, wrong, strict=True)) == 1


def test_a_shorter_text_says_nothing_wrong():
    rng = np.random.default_rng(0)
    for scene in SCENES:
        text = shorten(scene, rng)
        assert text != scenes.caption(scene)
        assert scenes.caption(scene).startswith(text) or text in {f"{t.color} {t.shape}" for t in scene.things}
