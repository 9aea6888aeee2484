"""Makes the picture of the README: scenes that the demo draws, beside the captions that its engine wrote.

python demo/picture.py ENGINE docs/images/demo.png
"""

import itertools
import sys
import textwrap
from pathlib import Path

import numpy as np
import scenes
from PIL import Image, ImageDraw, ImageFont

import recap_fast

SEED = 20
NUM_SCENES, MAX_THINGS = 3, 3
SIDE, GAP, WIDTH = 220, 36, 1600
TEXT_SIZE, CHARACTERS = 30, 86
PAPER, INK, FRAME = "#ffffff", "#1f2328", "#d0d7de"
"""On paper of its own, so that it reads on light and on dark pages."""


def draw(engine: Path) -> Image.Image:
    """The picture: a row for each scene, its caption to the right."""
    rng = np.random.default_rng(SEED)
    drawn = (scenes.random_scene(rng) for _ in itertools.count())
    small = (scene for scene in drawn if 1 < len(scene.things) <= MAX_THINGS)
    pictures = [scenes.draw(scene) for scene in itertools.islice(small, NUM_SCENES)]
    with recap_fast.Captioner.open(engine) as captioner:
        captions = [row.caption or "" for row in captioner.caption(pictures)]
    height = GAP + NUM_SCENES * (SIDE + GAP)
    sheet = Image.new("RGBA", (WIDTH, height))
    canvas = ImageDraw.Draw(sheet)
    canvas.rounded_rectangle((0, 0, WIDTH - 1, height - 1), 24, fill=PAPER, outline=FRAME, width=2)
    font = ImageFont.load_default(TEXT_SIZE)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        top = GAP + number * (SIDE + GAP)
        picture.thumbnail((SIDE, SIDE))
        place = GAP + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2
        sheet.paste(picture, place)
        canvas.rectangle((*place, place[0] + picture.width, place[1] + picture.height), outline=FRAME, width=2)
        text = textwrap.fill(caption, CHARACTERS)
        canvas.multiline_text((2 * GAP + SIDE, top + SIDE // 2), text, INK, font, anchor="lm", spacing=12)
    return sheet


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1])).save(sys.argv[2], optimize=True)
