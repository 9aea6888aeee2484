"""The scenes that recap-tiny is trained on: drawn shapes, and the caption that is the whole truth about each.

A scene is one to six objects on a plain background, each in its own cell of a 3 x 3 grid, so that places are never
in doubt; the two sizes are a factor of two apart, the colors are far from one another. `draw` makes the picture,
`caption` the sentence. The same scene always gives the same caption, so a caption can be checked word for word.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = {"small": 0.42, "large": 0.84}  # diameter, as a share of the cell's short side
COLORS = {
    "red": (214, 32, 40),
    "green": (36, 158, 58),
    "blue": (38, 70, 214),
    "yellow": (250, 214, 32),
    "purple": (146, 44, 176),
    "orange": (250, 128, 12),
}
BACKGROUNDS = {"white": (250, 250, 250), "black": (12, 12, 12), "gray": (132, 132, 132), "pink": (255, 188, 212)}
PLACES = (  # cell of the grid, row by row
    "top left corner",
    "top",
    "top right corner",
    "left",
    "center",
    "right",
    "bottom left corner",
    "bottom",
    "bottom right corner",
)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
ASPECTS = (1.0, 1.0, 4 / 3, 3 / 4)
MAX_OBJECTS = 6


@dataclass(frozen=True)
class Thing:
    """One drawn object. `place` is its cell of the 3 x 3 grid, counted row by row from 0."""

    shape: str
    color: str
    size: str
    place: int


@dataclass(frozen=True)
class Scene:
    """Objects in reading order on a background; sides in pixels, `seed` for the jitter of the drawing."""

    things: tuple[Thing, ...]
    background: str
    width: int
    height: int
    seed: int


def random_scene(rng: np.random.Generator) -> Scene:
    """Draws a scene: one to six objects, at distinct places, 160 to 400 pixels on the short side."""
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    places = sorted(int(p) for p in rng.permutation(len(PLACES))[:count])
    things = tuple(
        Thing(
            SHAPES[rng.integers(len(SHAPES))],
            tuple(COLORS)[rng.integers(len(COLORS))],
            tuple(SIZES)[rng.integers(len(SIZES))],
            place,
        )
        for place in places
    )
    short = int(rng.integers(160, 401))
    aspect = ASPECTS[rng.integers(len(ASPECTS))]
    width, height = (round(short * aspect), short) if aspect >= 1 else (short, round(short / aspect))
    background = tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    return Scene(things, background, width, height, int(rng.integers(2**31)))


def caption(scene: Scene) -> str:
    """The sentence for a scene: eight tokens and up for one object, over a hundred for six."""
    if len(scene.things) == 1:
        (thing,) = scene.things
        place = PLACES[thing.place].capitalize()
        return f"{place}: {thing.size} {thing.color} {thing.shape} on {scene.background}."
    sentences = [f"{NUMBERS[len(scene.things)].capitalize()} objects on a {scene.background} background."]
    for thing in scene.things:
        preposition = "On the" if PLACES[thing.place] in ("left", "right") else "At the"
        if PLACES[thing.place].endswith(("corner", "center")):
            preposition = "In the"
        there = f"there is a {thing.size} {thing.color} {thing.shape}."
        sentences.append(f"{preposition} {PLACES[thing.place]} {there}")
    if len(scene.things) > 2:
        sentences.append(_totals(scene.things))
    return " ".join(sentences)


def _totals(things: tuple[Thing, ...]) -> str:
    """'In total there are two crosses and one ring; one small and two large', and colors from four objects on."""
    shapes = [t.shape for t in things]
    lists = [_tally(shapes, SHAPES, plural=True), _tally([t.size for t in things], tuple(SIZES))]
    if len(things) > 3:
        lists.append(_tally([t.color for t in things], tuple(COLORS)))
    first = next(name for name in SHAPES if name in shapes)
    return f"In total there {'is' if shapes.count(first) == 1 else 'are'} {'; '.join(lists)}."


def _tally(values: list[str], order: tuple[str, ...], *, plural: bool = False) -> str:
    """Counts values in a fixed order: 'two crosses, one star and one ring'."""
    counts = [(values.count(name), name) for name in order if name in values]
    words = [f"{NUMBERS[n]} {_pluralize(name) if plural and n > 1 else name}" for n, name in counts]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _pluralize(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def draw(scene: Scene) -> Image.Image:
    """Draws the scene, antialiased, with a jitter of place, size and shade that never changes what its caption says."""
    rng = np.random.default_rng(scene.seed)
    scale = 2
    width, height = scene.width * scale, scene.height * scale
    image = Image.new("RGB", (width, height), _shade(BACKGROUNDS[scene.background], rng))
    canvas = ImageDraw.Draw(image)
    cell_w, cell_h = width / 3, height / 3
    for thing in scene.things:
        row, column = divmod(thing.place, 3)
        radius = 0.5 * SIZES[thing.size] * min(cell_w, cell_h) * rng.uniform(0.92, 1.08)
        slack_x, slack_y = 0.5 * cell_w - radius, 0.5 * cell_h - radius
        x = (column + 0.5) * cell_w + rng.uniform(-0.35, 0.35) * slack_x
        y = (row + 0.5) * cell_h + rng.uniform(-0.35, 0.35) * slack_y
        color, ground = _shade(COLORS[thing.color], rng), image.getpixel((int(x), int(y)))
        _draw_thing(canvas, thing.shape, x, y, radius, color, ground)
    return image.resize((scene.width, scene.height), Image.Resampling.BOX)


def _shade(color: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(np.clip(c + rng.integers(-6, 7), 0, 255)) for c in color)


def _draw_thing(canvas, shape, x, y, r, color, ground) -> None:
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        canvas.ellipse(box, fill=color)
    elif shape == "ring":
        canvas.ellipse(box, fill=color)
        canvas.ellipse((x - 0.5 * r, y - 0.5 * r, x + 0.5 * r, y + 0.5 * r), fill=ground)
    elif shape == "square":
        canvas.rectangle((x - 0.86 * r, y - 0.86 * r, x + 0.86 * r, y + 0.86 * r), fill=color)
    elif shape == "cross":
        canvas.rectangle((x - r, y - 0.3 * r, x + r, y + 0.3 * r), fill=color)
        canvas.rectangle((x - 0.3 * r, y - r, x + 0.3 * r, y + r), fill=color)
    else:
        corners = _polygon(x, y, (r, 0.0), 3) if shape == "triangle" else _polygon(x, y, (r, 0.42 * r), 5)
        canvas.polygon(corners, fill=color)


def _polygon(x: float, y: float, radii: tuple[float, float], points: int) -> list[tuple[float, float]]:
    """A regular polygon with its tip up, or a star where the inner radius is not 0."""
    outer, inner = radii
    turns = [(outer, 2 * i / (2 * points)) for i in range(points)]
    if inner:
        turns = [(outer if i % 2 == 0 else inner, i / (2 * points)) for i in range(2 * points)]
    return [(x + r * math.sin(2 * math.pi * t), y - r * math.cos(2 * math.pi * t)) for r, t in turns]


def jpeg(scene: Scene, quality: int = 90) -> bytes:
    """The drawn scene as JPEG bytes (4:2:0, as the web's images are)."""
    out = io.BytesIO()
    draw(scene).save(out, "JPEG", quality=quality)
    return out.getvalue()
