"""Scenes that differ from a given one in a single respect, and texts that are wrong about it: what a CLIP must tell.

A changed scene has a caption of its own that is consistent in itself: where an object turns red, the totals say so,
too. So no caption can be told from another by its form, only by looking at the picture.
"""

import dataclasses
import re

import numpy as np
import scenes
from scenes import Scene, Thing

ATTRIBUTES = {"color": tuple(scenes.COLORS), "shape": scenes.SHAPES, "size": tuple(scenes.SIZES)}
CHANGES = ("color", "count", "place", "shape", "size", "background")
WORDS = (*ATTRIBUTES.values(), tuple(scenes.BACKGROUNDS), scenes.NUMBERS[1:], ("top", "bottom"), ("left", "right"))
"""Words that may stand for one another."""


def change(scene: Scene, kind: str, rng: np.random.Generator) -> Scene:
    """Another scene that differs in one of CHANGES and has another caption.

    Half of the wrong colors, shapes, sizes and places come of two objects that swap theirs, so that the words of the
    caption are the same ones.
    """
    if kind == "count":
        return _recount(scene, rng)
    if kind == "background":
        return dataclasses.replace(scene, background=_other(scene.background, tuple(scenes.BACKGROUNDS), rng))
    pairs = _unlike(scene.things, kind)
    if pairs and rng.random() < 0.5:
        return _swap(scene, *pairs[rng.integers(len(pairs))], kind)
    free = [place for place in range(len(scenes.PLACES)) if place not in {t.place for t in scene.things}]
    number = int(rng.integers(len(scene.things)))
    thing = scene.things[number]
    value = _pick(free, rng) if kind == "place" else _other(getattr(thing, kind), ATTRIBUTES[kind], rng)
    return _with(scene, {number: dataclasses.replace(thing, **{kind: value})})


def misword(caption: str, rng: np.random.Generator) -> str:
    """The caption with one of its color, shape, size, number or place words put for another: it may contradict itself.

    A caption names a color, so there always is such a word.
    """
    found = [(m, words) for words in WORDS for m in re.finditer(rf"\b({'|'.join(words)})\b", caption, re.IGNORECASE)]
    match, words = found[rng.integers(len(found))]
    word = _other(match[0].lower(), words, rng)
    return caption[: match.start()] + (word.capitalize() if match[0][0].isupper() else word) + caption[match.end() :]


def shorten(scene: Scene, rng: np.random.Generator) -> str:
    """A text that says less than the caption: an object's name, as alt texts do, or the caption's first sentences."""
    sentences = scenes.caption(scene).split(". ")
    if len(sentences) > 1 and rng.random() < 0.5:
        return ". ".join(sentences[: rng.integers(1, len(sentences))]) + "."
    thing = _pick(scene.things, rng)
    return f"{thing.color} {thing.shape}"


def _recount(scene: Scene, rng: np.random.Generator) -> Scene:
    """One object fewer or more."""
    things = list(scene.things)
    fewer = len(things) == scenes.MAX_OBJECTS or (len(things) > 1 and rng.random() < 0.5)
    if fewer:
        del things[rng.integers(len(things))]
    else:
        free = sorted(set(range(len(scenes.PLACES))) - {t.place for t in things})
        things.append(Thing(*(_pick(ATTRIBUTES[name], rng) for name in ("shape", "color", "size")), _pick(free, rng)))
    return dataclasses.replace(scene, things=_in_reading_order(things))


def _unlike(things: tuple[Thing, ...], kind: str) -> list[tuple[int, int]]:
    """Pairs of objects that make another scene when they swap their `kind`."""
    pairs = [(i, j) for i in range(len(things)) for j in range(i)]
    if kind == "place":
        return [(i, j) for i, j in pairs if dataclasses.replace(things[i], place=things[j].place) != things[j]]
    return [(i, j) for i, j in pairs if getattr(things[i], kind) != getattr(things[j], kind)]


def _swap(scene: Scene, i: int, j: int, kind: str) -> Scene:
    a, b = scene.things[i], scene.things[j]
    swapped = {n: dataclasses.replace(t, **{kind: getattr(o, kind)}) for n, t, o in ((i, a, b), (j, b, a))}
    return _with(scene, swapped)


def _with(scene: Scene, things: dict[int, Thing]) -> Scene:
    return dataclasses.replace(scene, things=_in_reading_order([things.get(i, t) for i, t in enumerate(scene.things)]))


def _in_reading_order(things: list[Thing]) -> tuple[Thing, ...]:
    return tuple(sorted(things, key=lambda thing: thing.place))


def _other(value: str, values: tuple[str, ...], rng: np.random.Generator) -> str:
    return _pick([v for v in values if v != value], rng)


def _pick(values, rng: np.random.Generator):
    return values[int(rng.integers(len(values)))]
