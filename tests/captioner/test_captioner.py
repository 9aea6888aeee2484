"""The front door for Python: what it takes, what it gives, from one thread and from several."""

import io
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from support import pictures
from support.guard import GUARD_S

import recap_fast
from recap_fast.captioner.stream import FIRST_BATCH, READ_AHEAD, READ_BATCH
from recap_fast.errors import ConfigError, EngineError

SIZES = [(40, 30), (24, 33), (64, 64), (20, 50)]


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [pictures.encode(pictures.noise(*SIZES[i % 4], seed=i), "PNG") for i in range(12)]


def open_captioner(engine, **options) -> recap_fast.Captioner:
    return recap_fast.Captioner.open(engine, device="cpu", decoder="pillow", max_new_tokens=5, **options)


@pytest.fixture(scope="module")
def captioner(tiny_engine) -> Iterator[recap_fast.Captioner]:
    with open_captioner(tiny_engine) as opened:
        yield opened


@pytest.fixture(scope="module")
def truth(captioner, images) -> list[str | None]:
    """Each image's caption, made alone."""
    return [captioner.caption([image])[0].caption for image in images]


def test_rows_come_in_the_order_of_their_images(captioner, images, truth):
    rows = captioner.caption(images)
    assert [row.index for row in rows] == list(range(12))
    assert [row.caption for row in rows] == truth
    assert len(set(truth)) > 3
    assert {(row.status, row.error, row.warning) for row in rows} == {("ok", None, None)}
    assert [(row.width, row.height) for row in rows[:4]] == SIZES
    assert all(row.finish_reason in ("stop", "length") and 1 <= row.num_tokens <= 5 for row in rows)
    assert captioner.caption([]) == []


def test_paths_bytes_pictures_and_arrays_of_one_image_have_one_caption(captioner, images, truth, tmp_path):
    path, picture = tmp_path / "a.png", Image.open(io.BytesIO(images[0]))
    path.write_bytes(images[0])
    kinds = [path, str(path), images[0], memoryview(images[0]), picture, np.asarray(picture)]
    assert [row.caption for row in captioner.caption(kinds)] == [truth[0]] * len(kinds)


def test_pictures_of_pillows_and_grey_arrays_go_by_the_rules_for_a_file(captioner):
    noise, grey = pictures.noise(30, 20, seed=3), np.arange(900, dtype=np.uint8).reshape(30, 30)
    opened = [noise.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    opened.append(Image.fromarray(grey.astype(np.uint16) * 257))
    encoded = [pictures.encode(picture, "PNG") for picture in opened]
    turned = pictures.encode(noise, "JPEG", exif=pictures.with_orientation(6))
    rows = captioner.caption([*opened, grey, Image.open(io.BytesIO(turned))])
    expected = captioner.caption([*encoded, np.repeat(grey[..., None], 3, -1), turned])
    assert [(row.caption, row.width) for row in rows] == [(row.caption, row.width) for row in expected]
    assert (rows[-1].width, rows[-1].height) == (20, 30), "it is turned upright"


def test_a_bad_image_is_a_row_that_says_why(captioner, images, truth, tmp_path):
    (tmp_path / "a.png").write_bytes(images[0])
    with Image.open(tmp_path / "a.png") as closed:
        pass
    bad = [
        (b"<html>", "not_an_image"),
        (b"", "empty_image"),
        (np.zeros((1, 900, 3), np.uint8), "too_small"),
        (closed, "corrupt"),
        ("nul\0.jpg", "unreadable"),
        ("half \ud800.jpg", "unreadable"),
        (tmp_path / "none.jpg", "unreadable"),
    ]
    first, *rows, last = captioner.caption([images[0], *(image for image, _ in bad), images[1]])
    assert [first.caption, last.caption] == truth[:2]
    assert [row.status for row in rows] == [status for _, status in bad]
    assert {(row.caption, row.finish_reason) for row in rows} == {(None, "error")}
    assert all("cannot be read: " in row.error for row in rows[-3:])
    assert rows[-1].error == f"'{tmp_path}/none.jpg' cannot be read: No such file or directory"


ONE = r"images is one .*: give a list, such as \[image\]"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([None], "An image is a NoneType: give a path, bytes"),
        ([3], "An image is a int"),
        ([np.zeros((4, 4, 3))], r"An image is an array of float64 \[4, 4, 3\]: give uint8"),
        ([np.zeros((3, 4, 4), np.uint8)], r"array of uint8 \[3, 4, 4\]"),
        *((one, ONE) for one in ("a.jpg", b"bytes", bytearray(b"b"), {"a.jpg": 1})),
        *((one, ONE) for one in (np.zeros((8, 8, 3), np.uint8), pictures.noise(8, 8))),
    ],
)
def test_what_are_no_images_is_an_error_of_the_caller(captioner, wrong, message):
    with pytest.raises(TypeError, match=message):
        captioner.caption(wrong)


def test_a_stream_reads_no_further_ahead_than_it_must_and_needs_no_end(captioner, images, truth):
    read = []

    def endless():
        while True:
            read.append(1)
            yield images[len(read) % 12]

    rows = captioner.stream(endless())
    first = [next(rows).caption for _ in range(300)]
    assert first == [truth[(i + 1) % 12] for i in range(300)]
    slots = 8
    assert len(read) <= 300 + 4 * slots + (2 + READ_AHEAD) * READ_BATCH


def test_the_batch_stays_full_across_images(captioner, images, monkeypatch):
    steps, step = [], captioner.engine.step
    monkeypatch.setattr(captioner.engine, "step", lambda: (steps.append(1), step())[1])
    rows = captioner.caption(images * 8)
    assert len(steps) < sum(row.num_tokens for row in rows) / 4  # one after another, they would be as many


def test_fields_fill_the_prompt_of_each_image(tiny_engine, images):
    with open_captioner(tiny_engine, prompt="It is {org_caption}.", max_field_tokens=4) as captioner:
        alone = [captioner.caption([images[0]], [{"org_caption": text}])[0].caption for text in ("a", "b")]
        rows = captioner.caption(
            images[:1] * 3, [{"org_caption": "a"}, {"org_caption": "b"}, {"org_caption": "x" * 99}]
        )
    assert [row.caption for row in rows[:2]] == alone
    assert [bool(row.warning) for row in rows] == [False, False, True]
    assert rows[2].warning.startswith("org_caption cut from ")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ([{}], ValueError, "There are 1 fields and more images"),
        ([{}] * 3, ValueError, "There are 2 images and more fields"),
        ({"key": "a"}, TypeError, "fields is one: give a list"),
        ([{}, None], TypeError, "The fields of image 1 are None: give texts by name"),
        ([{}, {"key": 3}], TypeError, "The fields of image 1 are {'key': 3}"),
        ([{"caption": "a"}, {}], ValueError, "There is no field 'caption': there are org_caption, key"),
    ],
)
def test_fields_that_do_not_fit_the_images_are_an_error(captioner, images, fields, error, message):
    with pytest.raises(error, match=message):
        captioner.caption(images[:2], fields)


def test_sampling_is_the_same_for_the_same_seed(tiny_engine, images):
    found = []
    for seed in (1, 1, 2):
        with open_captioner(tiny_engine, temperature=3.0, seed=seed) as captioner:
            found.append([row.caption for row in captioner.caption(images)])
    assert found[0] == found[1] != found[2]


def test_several_threads_share_the_engine_and_each_gets_its_own_rows(captioner, images, truth):
    start = threading.Barrier(4)

    def caption(offset):
        start.wait()
        order = [(offset + i) % 12 for i in range(40)]
        return [row.caption for row in captioner.caption([images[i] for i in order])] == [truth[i] for i in order]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(caption, range(4))) == [True] * 4


def test_a_stream_that_is_left_does_not_disturb_the_next(captioner, images, truth):
    left = captioner.stream(images * 3)
    next(left)
    left.close()
    held = captioner.stream(images * 3)
    next(held)
    assert [row.caption for row in captioner.caption(images)] == truth
    assert [row.caption for row in held] == (truth * 3)[1:]


def test_an_error_of_the_images_comes_behind_the_rows_before_it_and_the_captioner_goes_on(captioner, images, truth):
    def breaking():
        yield from images[:5]
        raise OSError("the disk is gone")

    rows = captioner.stream(breaking())
    assert [next(rows).caption for _ in range(5)] == truth[:5]
    with pytest.raises(OSError, match="the disk is gone"):
        next(rows)
    rows = captioner.stream([images[0], None, images[1]])
    assert next(rows).caption == truth[0]
    with pytest.raises(TypeError, match="An image is a NoneType"):
        next(rows)
    assert captioner.caption(images[:1])[0].caption == truth[0]


def test_a_buffer_that_is_used_again_may_be_given(captioner):
    buffer = np.zeros((30, 30, 3), np.uint8)

    def frames():
        for shade in range(0, 200, 20):
            buffer[:] = shade
            yield buffer

    alone = [captioner.caption([np.full((30, 30, 3), shade, np.uint8)])[0].caption for shade in range(0, 200, 20)]
    assert [row.caption for row in captioner.stream(frames())] == alone


def test_images_that_come_slowly_are_captioned_as_they_come(captioner, images, truth):
    asked = threading.Semaphore(FIRST_BATCH)

    def answering():
        for image in images:
            assert asked.acquire(timeout=GUARD_S)
            yield image

    rows = captioner.stream(answering())
    for i in range(FIRST_BATCH):  # the images behind these are not there yet
        assert next(rows).caption == truth[i]
    asked.release(len(images))
    assert [row.caption for row in rows] == truth[FIRST_BATCH:]


def test_an_engine_that_breaks_is_an_error_for_every_thread_and_from_then_on(tiny_engine, images):
    with open_captioner(tiny_engine) as captioner:
        step, calls = captioner.engine.step, iter(range(10**6))

        def breaking():
            if next(calls) >= 6:
                raise EngineError("CUDA error")
            return step()

        captioner.engine.step = breaking

        def caption(_):
            with pytest.raises(EngineError, match="CUDA error"):
                captioner.caption(images * 4)

        with ThreadPoolExecutor(3) as pool:
            for done in pool.map(caption, range(3), timeout=GUARD_S):
                assert done is None
        with pytest.raises(EngineError, match="has failed before, open it again: CUDA error"):
            captioner.caption(images)


def test_an_interrupt_leaves_no_slot_behind(request, tiny_engine, images, truth):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with open_captioner(tiny_engine) as captioner:
        for _ in range(6):
            rows = captioner.stream(images * 3)
            next(rows)
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal may arrive in either line
                signal.raise_signal(signal.SIGINT)
                list(rows)
        assert [row.caption for row in captioner.caption(images)] == truth
        assert captioner.engine.free_slots == 8


def test_a_closed_captioner_says_so(tiny_engine, images):
    with open_captioner(tiny_engine) as captioner:
        pass
    with pytest.raises(RuntimeError, match=r"The captioner is not open: open one with Captioner.open\(engine\)"):
        captioner.caption(images)
    with open_captioner(tiny_engine) as captioner:
        rows = captioner.stream(images)
    with pytest.raises(RuntimeError, match="The captioner is not open"):
        list(rows)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_slots": 0}, ConfigError, "--num-slots 0"),
        ({"prompt": "{0}"}, ConfigError, "unknown field {0}"),
        ({"temprature": 1.0}, TypeError, "temprature"),
        ({"max_new_tokens": 10**6}, ConfigError, "does not fit"),
    ],
)
def test_options_are_those_of_run_and_checked(tiny_engine, options, error, message):
    with pytest.raises(error, match=message):
        recap_fast.Captioner.open(tiny_engine, **{"device": "cpu", "decoder": "pillow", **options})
