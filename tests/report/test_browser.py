"""The page in a real browser: of the most hostile texts nothing runs, images are there, and it fits a phone."""

import io
import re

import pytest
from PIL import Image
from support import browser
from support.captioned import SETTINGS, row, several, write

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


def hostile_rows(tag, *, is_several=False):
    """Two outputs of the same images differ in the tag."""
    rows = [row(n, f"{tag} {text}", text, key=text, uid=text, url=text) for n, text in enumerate(HOSTILE.values())]
    text = HOSTILE["handler"]
    if is_several:
        rows = [
            several(each, hostile_captions(f"{tag} {other}", other))
            for each, other in zip(rows, HOSTILE.values(), strict=True)
        ]
    return [*rows, row(99, None, text, uid="failed", error=text, flags=[text], finish_reason=text, warning=text)]


def hostile_captions(first, text):
    """Two captions of the row's own text, of prompts that are called so and ask so."""
    given = [(text, first, "stop"), (f"2{text}", f"Second: {text}", text)]
    return [{"name": name, "prompt": text, "text": each, "finish_reason": reason} for name, each, reason in given]


@pytest.fixture(scope="module", params=[False, True], ids=["one", "several"])
def page(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("hostile")
    settings = {**SETTINGS, "prompt": HOSTILE["handler"], "engine": HOSTILE["script"]}
    if request.param:
        settings |= {"prompts": [{"prompts": {text: text, "missing": text}} for text in HOSTILE.values()]}
    output = write(folder, {"00000": hostile_rows("New:", is_several=request.param)}, images=True, settings=settings)
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
    assert re.fullmatch(r"Captions in hostile\d/out", seen.look["title"])
    assert seen.look["scripts"] == 0
    assert seen.look["loaded"] == []


def test_hostile_texts_are_text(seen):
    for name in ("script", "handler", "title", "template", "link", "chinese", "entities"):
        assert HOSTILE[name] in seen.look["text"], name
    assert "a\u2400b\u2407c\u241b[31md\u2421" in seen.look["text"]
    assert "x" * 1000 in seen.look["text"]


def test_so_are_names_of_prompts_and_captions_of_all(seen, request):
    if "several" not in request.node.name:
        assert "What each prompt made" not in seen.look["text"]
        return
    for name in ("script", "handler", "title", "chinese"):
        assert f"New caption: {HOSTILE[name]}" in seen.look["text"], name
        assert f"New caption: 2{HOSTILE[name]}, finish reason {HOSTILE[name]}" in seen.look["text"], name
        assert f"Second: {HOSTILE[name]}" in seen.look["text"], name
    assert "What each prompt made" in seen.look["text"]


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
