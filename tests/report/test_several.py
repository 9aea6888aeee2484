"""The page of a run that makes several captions an image, or draws its prompt."""

import pytest
from support.captioned import SETTINGS, row, several, write
from support.report_pages import page_of

from recap_fast.errors import ConfigError
from recap_fast.joined import JoinedOutput
from recap_fast.report.contents import MAX_PROMPTS, prompts
from recap_fast.report.figures import Figures, PromptFigures
from recap_fast.report.report import make_report
from recap_fast.write.run_file import read_run

QUESTIONS = {"short": "One sentence?", "detailed": "What is {title}?", "tags": "Some tags."}
TEXT = "short: One sentence?\ndetailed: What is {title}?"
SEVERAL = {**SETTINGS, "prompt": TEXT, "prompts": [{"prompts": {n: q}} for n, q in QUESTIONS.items()]}


def captions_of(number):
    texts = {"short": f"A cat {number}.", "detailed": f"A large red cat sits here {number}.", "tags": "cat, red"}
    reasons = {"short": "stop", "detailed": "length", "tags": "loop" if number else "stop"}
    given = {"num_tokens": 7 + number}
    return [
        {"name": name, "prompt": QUESTIONS[name], "text": text, "finish_reason": reasons[name], **given}
        for name, text in texts.items()
    ]


@pytest.fixture
def output(tmp_path):
    rows = [several(row(number), captions_of(number)) for number in range(4)]
    return write(tmp_path, {"00000": [*rows, row(4, None)]}, images=True, settings=SEVERAL)


def test_the_gallery_has_all_captions_with_their_names(output):
    page, _ = page_of(output)
    for text in (
        "New caption: short A cat 0. New caption: detailed, finish reason length A large red cat sits here 0. New "
        "caption: tags cat, red",
        "7, 7, 7 tokens",
        "prompt short One sentence?",
        "prompt detailed What is A title?",
        "3 prompts, 3 captions an image.",
        "12 new captions beside the original ones",
        "4 of 4 captioned images, drawn with the random seed 0.",
    ):
        assert text in page.text, text


def test_the_table_says_what_each_prompt_made(output):
    page, _ = page_of(output)
    assert (
        "prompt captions mean words loops cut short One sentence? 4 3.0 0.0 % 0.0 % detailed What is {title}? 4 7.0 "
        "0.0 % 100.0 % tags Some tags. 4 2.0 75.0 % 0.0 %"
    ) in page.text
    assert "All other figures of this page are of the first caption of each image." in page.text
    assert "New captions have 3.0 words" in page.text
    assert "Mean: 3.0 words in new captions" in page.text
    assert ("a", {"href": "#prompts"}) in page.elements
    assert "{'prompts'" not in page.text


def test_of_a_drawn_prompt_each_image_has_one_caption(tmp_path):
    weights = dict.fromkeys(QUESTIONS, 1)
    settings = {**SEVERAL, "prompts": [{"set": "mix", "prompts": QUESTIONS, "weights": weights, "seed": 0}]}
    rows = [several(row(number), captions_of(number)[number : number + 1]) for number in range(2)]
    page, _ = page_of(write(tmp_path, {"00000": rows}, settings=settings))
    assert "3 prompts, 1 caption an image." in page.text
    assert "short One sentence? 1 3.0 0.0 % 0.0 %" in page.text
    assert "tags Some tags. 0 none none none" in page.text
    assert "All other figures" not in page.text
    assert "New caption: detailed, finish reason length A large red cat sits here 1." in page.text


def test_beside_a_baseline_the_first_captions_are_compared(output, tmp_path):
    other = write(tmp_path / "old", {"00000": [row(n, f"A dog {n}.", sha256=None) for n in range(4)]}, images=True)
    page, made = page_of(output, other)
    assert made.joined.both == 4
    assert "Of several captions, the first is compared." in page.text
    assert "<ins>cat</ins>" in made.html
    assert "<del>dog</del>" in made.html


def test_a_run_with_one_prompt_has_no_table(tmp_path):
    page, _ = page_of(write(tmp_path, {"00000": [row(0)]}))
    assert "What each prompt made" not in page.text
    assert "Prompt: “What is this?”" in page.text
    assert "finish reason stop" in page.text


def test_prompts_that_rows_have_and_the_run_has_not_come_last_and_are_not_without_end(tmp_path):
    figures = Figures(prompts={f"p{n}": PromptFigures(2, 5, 1, 0) for n in range(500)})
    output = write(tmp_path, {}, settings={**SETTINGS, "prompts": [{"prompts": {"own": "Why?"}}]})
    found, captions_per_image = prompts(output, read_run(output), figures)
    assert captions_per_image == 1
    assert [each.name for each in found[:3]] == ["own", "p0", "p1"]
    assert len(found) == MAX_PROMPTS
    assert (found[0].captions, found[0].mean_words, found[0].loops) == (0, None, None)
    assert (found[1].captions, found[1].mean_words, found[1].loops, found[1].cuts) == (2, 2.5, 0.5, 0.0)


def test_prompts_that_no_run_writes_are_a_mistake(tmp_path):
    output = write(tmp_path, {"00000": [row(0)]}, settings={**SETTINGS, "prompts": ["short"]})
    with pytest.raises(ConfigError, match=r"its prompts are not as a run writes them\."):
        make_report(JoinedOutput.open(output))


def test_a_card_without_captions_has_no_prompt_without_words(output):
    page, made = page_of(output)
    assert "New caption None: " in page.text
    assert '<dt>prompt</dt><dd dir="auto"></dd>' not in made.html
