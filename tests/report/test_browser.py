"""The page in a real browser: of the most hostile texts nothing runs, images are there, and it fits a phone."""

import io
import re

import pytest
from PIL import Image
from support import browser
from support.captioned import SETTINGS, row, write

from recap_fast.joined import JoinedOutput
from recap_fast.report.report import make_report

HOSTILE = {
    "script": "<script>document.title='owned'</script>",
    "handler": '"><img src=x onerror="document.title=\'owned\'">',
    "title": "</title></style><h1>owned</h1>",
    "template": "{{ 7 * 7 }} {% raw %} $\\frac{1}{2}$",
    "right to left": "\u202eesrever\u202c שלום العربية",
    "long word": "x" * 10_000,
    "control": "a\x00b\x07c\x1b[31md\x7f",
    "surrogates": "half of a pair: \\ud83d",
    "link": "javascript:alert(1)",
    "entities": "&lt;b&gt; &amp;amp; ]]> <!-- <![CDATA[",
    "chinese": "一只猫坐在红色的椅子上。",
}
"""A lone surrogate cannot be in a Parquet file: a run writes it as an escape."""

pytestmark = pytest.mark.skipif(browser.find_browser() is None, reason="no Chromium is installed")


def hostile_rows(tag):
    """Two outputs of the same images differ in the tag."""
    rows = [row(n, f"{tag} {text}", text, key=text, uid=text, url=text) for n, text in enumerate(HOSTILE.values())]
    text = HOSTILE["handler"]
    return [*rows, row(99, None, text, uid="failed", error=text, flags=[text], finish_reason=text, warning=text)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    settings = {**SETTINGS, "prompt": HOSTILE["handler"], "engine": HOSTILE["script"]}
    output = write(folder, {"00000": hostile_rows("New:")}, images=True, settings=settings)
    other = write(folder / "other", {"00000": hostile_rows("Older:")}, settings=settings)
    made = make_report(JoinedOutput.open(output), JoinedOutput.open(other), num=20)
    assert not made.problems
    assert made.joined.rows == len(HOSTILE) + 1
    path = folder / "report.html"
    path.write_bytes(made.html.encode())
    return path


@pytest.fixture(scope="module", params=[(360, False), (1280, True)], ids=["phone", "dark"])
def seen(page, request):
    width, dark = request.param
    return browser.look(page, width, dark=dark)


def test_nothing_runs_and_the_console_is_empty(seen):
    assert seen.complaints == []
    assert seen.look["title"] == "Captions in hostile0/out"
    assert seen.look["scripts"] == 0
    assert seen.look["loaded"] == []


def test_hostile_texts_are_text(seen):
    for name in ("script", "handler", "title", "template", "link", "chinese", "entities"):
        assert HOSTILE[name] in seen.look["text"], name
    assert "a\u2400b\u2407c\u241b[31md\u2421" in seen.look["text"]
    assert "x" * 1000 in seen.look["text"]


def test_all_images_are_shown(seen):
    assert len(seen.look["images"]) > 20
    assert set(seen.look["images"]) == {20}


def test_nothing_is_wider_than_the_window(seen):
    assert seen.look["pageWidth"] == seen.look["viewWidth"]


def test_colors_follow_the_reader(seen, request):
    is_dark = "dark" in request.node.name
    corner = Image.open(io.BytesIO(seen.picture)).convert("L").getpixel((2, 2))
    text = [int(value) for value in re.findall(r"\d+", seen.look["color"])]
    assert (corner < 64) is is_dark
    assert (min(text) > 192) is is_dark
