"""Several captions of an image by way of Python: by prompt, by sample and by draw, from one thread and from several."""

import dataclasses
import hashlib
import io
import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from support import pictures
from support.guard import GUARD_S

import recap_fast
from recap_fast.generate.prompts import choose
from recap_fast.generate.spec import EngineSpec

PROMPTS = {"short": "What is it?", "alt": "Is it {org_caption}?", "tags": "List tags."}
NAMED = [f"{name}={text}" for name, text in PROMPTS.items()]


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [pictures.encode(pictures.noise(24, 20, seed=i), "PNG") for i in range(9)]


def open_captioner(engine, prompt, **options) -> recap_fast.Captioner:
    given = {"device": "cpu", "decoder": "pillow", "max_new_tokens": 5, **options}
    return recap_fast.Captioner.open(engine, prompt=prompt, **given)


@pytest.fixture(scope="module")
def alone(tiny_engine, images) -> dict[str, list[recap_fast.Caption]]:
    """Rows of each prompt alone."""
    found = {}
    for name, prompt in zip(PROMPTS, NAMED, strict=True):
        with open_captioner(tiny_engine, prompt) as captioner:
            found[name] = captioner.caption(images)
    return found


def texts(row: recap_fast.Caption) -> dict[str, str]:
    return {each.name: each.text for each in row.captions}


def expected(alone, number: int) -> dict[str, str]:
    return {name: rows[number].caption for name, rows in alone.items()}


@pytest.mark.parametrize("num_slots", [2, 8])
def test_an_image_has_the_captions_of_all_prompts_in_order(tiny_engine, images, alone, num_slots):
    with open_captioner(tiny_engine, NAMED, num_slots=num_slots) as captioner:
        rows = captioner.caption([*images, b"no image"])
    for number, row in enumerate(rows[:-1]):
        assert texts(row) == expected(alone, number)
        assert [(each.name, each.prompt) for each in row.captions] == list(PROMPTS.items())
        first = row.captions[0]
        assert (row.caption, row.finish_reason, row.num_tokens) == (first.text, first.finish_reason, first.num_tokens)
    assert (rows[-1].status, rows[-1].captions) == ("not_an_image", ())
    assert len({row.caption for row in rows}) > 3


def test_a_row_of_one_prompt_has_its_caption_twice(alone):
    for row in alone["alt"]:
        (only,) = row.captions
        assert (only.name, only.prompt, only.text) == ("alt", "Is it {org_caption}?", row.caption)


def test_threads_share_an_engine_and_mix_nothing_up(tiny_engine, images, alone):
    with open_captioner(tiny_engine, NAMED, num_slots=4) as captioner:
        handed, submit = [], captioner.engine.submit
        captioner.engine.submit = lambda requests: (handed.extend(requests), submit(requests))
        with ThreadPoolExecutor(3) as pool:
            for rows in pool.map(captioner.caption, [images] * 3, timeout=GUARD_S):
                assert [texts(row) for row in rows] == [expected(alone, number) for number in range(len(images))]
    for before, request in itertools.pairwise(handed):
        if request.same_image_as is not None:  # no other image came between
            assert request.same_image_as in (before.id, before.same_image_as)
            assert np.array_equal(request.pixels, before.pixels)


def test_a_warning_names_its_prompt(tiny_engine, images):
    with open_captioner(tiny_engine, NAMED, max_field_tokens=2) as captioner:
        (row,) = captioner.caption(images[:1], [{"org_caption": "a cat that sits on a mat"}])
    assert row.warning.startswith("alt: org_caption cut from ")
    assert row.warning.endswith(" to 2 tokens")


def test_samples_of_a_prompt_differ_and_the_first_is_that_of_one_sample(tiny_engine, images):
    sampled = {"temperature": 1.5, "seed": 4}
    with open_captioner(tiny_engine, NAMED[:1], num_captions=3, **sampled) as captioner:
        rows = captioner.caption(images)
    with open_captioner(tiny_engine, NAMED[:1], **sampled) as captioner:
        once = captioner.caption(images)
    assert [row.caption for row in rows] == [row.caption for row in once]
    assert all(len({each.text for each in row.captions}) == 3 for row in rows)


def test_a_prompt_is_drawn_by_the_bytes_of_a_file_else_by_the_pixels(tiny_engine, images, tmp_path):
    shutil.copytree(tiny_engine, tmp_path / "engine")
    spec = EngineSpec.load(tmp_path / "engine")
    prompt = dataclasses.replace(spec.prompt, prompts=PROMPTS, sets={"any": dict.fromkeys(PROMPTS, 1.0)})
    limits = dataclasses.replace(spec.limits, max_text_tokens=200)
    dataclasses.replace(spec, prompt=prompt, limits=limits).save(tmp_path / "engine")
    (asked,) = choose(prompt, ["any"])
    (tmp_path / "a.png").write_bytes(images[0])
    arrays = [np.asarray(Image.open(io.BytesIO(image))) for image in images]
    with open_captioner(tmp_path / "engine", "any", seed=2) as captioner:
        rows = captioner.caption([*images, tmp_path / "a.png"])
        opened = captioner.caption([*arrays, *map(Image.fromarray, arrays)])
    names = [row.captions[0].name for row in rows]
    assert names[:-1] == [asked.draw(hashlib.sha256(image).digest(), 2) for image in images]
    assert names[-1] == names[0]
    assert set(names) == set(PROMPTS)
    by_pixels = [row.captions[0].name for row in opened]
    assert by_pixels[: len(images)] == by_pixels[len(images) :]
    assert len(set(by_pixels)) > 1
