import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.examples import share
from support.pictures import CROP, PAD, blank_png, encode, natural, with_orientation

from recap_fast.decode.decoder import make_decoder
from recap_fast.errors import ConfigError
from recap_fast.records import Preprocess

SMALL = Preprocess(32, "pad", PAD.mean, PAD.std)
try:
    HAS_DALI = importlib.util.find_spec("nvidia.dali") is not None
except ModuleNotFoundError:
    HAS_DALI = False
STATUSES = {"ok", "empty_image", "not_an_image", "unsupported", "truncated", "corrupt"}
STATUSES |= {"too_large", "too_small", "extreme_aspect"}
needs_dali = pytest.mark.skipif(not HAS_DALI, reason="NVIDIA DALI is not installed")


@pytest.fixture(params=["pillow", pytest.param("dali", marks=needs_dali)])
def decoder(request):
    decoder = make_decoder(request.param, SMALL, max_image_pixels=10**6)
    yield decoder
    decoder.close()


@needs_dali
def test_dali_by_choice():
    decoder = make_decoder("dali", PAD)
    assert (decoder.name, decoder.note, decoder.num_fallbacks) == ("dali", None, 0)


@pytest.mark.parametrize("name", ["auto", "pillow"])
def test_on_a_cpu_pillow_is_meant_by_auto_and_needs_no_note(name):
    decoder = make_decoder(name, PAD)
    assert (decoder.name, decoder.note) == ("pillow", None)


@needs_dali
def test_auto_is_dali_on_a_gpu(monkeypatch):
    made = []
    monkeypatch.setattr("recap_fast.decode.dali.DaliDecoder", lambda *_, **options: made.append(options))
    make_decoder("auto", PAD, device_id=1)
    assert [options["device_id"] for options in made] == [1]


def test_without_dali_auto_is_pillow_and_says_so_and_dali_is_an_error_that_helps(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # so Python refuses to import it
    monkeypatch.delitem(sys.modules, "recap_fast.decode.dali", raising=False)
    decoder = make_decoder("auto", PAD, device_id=0)
    assert decoder.name == "pillow"
    assert decoder.note == (
        "Pillow decodes: NVIDIA DALI cannot be imported (import of nvidia.dali halted; None in sys.modules); "
        "install it with `pip install nvidia-dali-cuda130`."
    )
    with pytest.raises(ConfigError, match=r"pip install nvidia-dali-cuda130`. Or let Pillow decode: --decoder pillow"):
        make_decoder("dali", PAD)


@needs_dali
def test_dali_that_fails_at_its_first_image_is_not_taken(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no decoder\nwas found")

    monkeypatch.setattr("recap_fast.decode.dali.DaliDecoder.__init__", fail)
    decoder = make_decoder("auto", PAD, device_id=0)
    assert (decoder.name, decoder.note) == ("pillow", "Pillow decodes: NVIDIA DALI does not work here: no decoder")
    with pytest.raises(ConfigError, match="does not work here: no decoder"):
        make_decoder("dali", PAD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "opencv"}, "--decoder is 'opencv'; it must be one of auto, dali, pillow"),
        ({"name": "pillow", "max_image_pixels": 0}, "--max-image-pixels is 0; it must be at least 1"),
        ({"name": "pillow", "num_threads": 0}, "decoder threads is 0; it must be at least 1"),
        ({"name": "pillow", "background": "whitish"}, "--background whitish: give a color's name, such as white, or"),
        ({"name": "pillow", "background": "#12345678"}, "--background #12345678: give a color without alpha"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_decoder(preprocess=PAD, **arguments)


def test_each_refusal_is_a_row_with_its_reason(decoder):
    cases = [
        ("ok", encode(natural(60, 40), "JPEG")),
        ("empty_image", b""),
        ("not_an_image", b"<!doctype html>"),
        ("too_large", blank_png(2000, 2000)),
        ("truncated", encode(natural(60, 40), "JPEG")[:700]),
        ("ok", encode(natural(60, 40), "GIF")),
        ("too_small", encode(natural(1, 1), "PNG")),
        ("extreme_aspect", encode(natural(400, 4), "JPEG")),
        ("unsupported", b"8BPS\0\1"),
        ("ok", encode(natural(60, 40), "JPEG", exif=with_orientation(8))),
    ]
    batch = decoder.decode([data for _, data in cases])
    assert [o.status for o in batch.outcomes] == [status for status, _ in cases]
    assert [batch.pixels[i].any() for i in range(len(cases))] == [o.status == "ok" for o in batch.outcomes]
    assert all((o.error is None) == (o.status == "ok") for o in batch.outcomes)
    assert (batch.outcomes[3].width, batch.outcomes[9].width, batch.outcomes[9].height) == (2000, 40, 60)


def test_an_empty_batch_is_a_batch(decoder):
    batch = decoder.decode([])
    assert (batch.pixels.shape, batch.outcomes) == ((0, 3, 32, 32), ())


SEEDS = [
    encode(natural(40, 30), "JPEG", exif=with_orientation(6)),
    encode(natural(40, 30), "JPEG", progressive=True),
    encode(natural(40, 30), "PNG"),
    encode(natural(40, 30).convert("P"), "PNG", transparency=b"\0\1"),
    encode(natural(40, 30), "WEBP"),
    encode(natural(40, 30), "WEBP", lossless=True, exif=with_orientation(3)),
    encode(natural(40, 30), "GIF", save_all=True, append_images=[natural(40, 30, 1)]),
    encode(natural(40, 30), "TIFF", compression="tiff_lzw"),
    encode(natural(40, 30), "BMP"),
    encode(natural(40, 30), "PPM"),
]


@st.composite
def mutated(draw):
    """An image file with some bytes changed, and perhaps its end cut off or something appended."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        # Half of the changes hit the header, where they do most harm.
        limit = draw(st.sampled_from([min(64, len(data)), len(data)])) - 1
        data[draw(st.integers(0, limit))] = draw(st.integers(0, 255))
    end = draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    return bytes(data[:end]) + draw(st.sampled_from([b"", b"\0" * 9, b"<html>"]))


@given(st.lists(st.one_of(mutated(), st.binary(max_size=60)), max_size=4))
@settings(share(1.5), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_make_it_raise(decoder, data):
    batch = decoder.decode(data)
    assert batch.pixels.shape == (len(data), 3, 32, 32)
    assert len(batch.outcomes) == len(data)
    for pixels, outcome in zip(batch.pixels, batch.outcomes, strict=True):
        assert outcome.status in STATUSES
        assert (outcome.error is None) == (outcome.status == "ok")
        assert outcome.status == "ok" or not pixels.any()
        assert outcome.status != "ok" or (outcome.width and outcome.height)


@needs_dali
@given(mutated())
def test_both_decoders_agree_on_damaged_files(data):
    fast, slow = (make_decoder(name, SMALL, max_image_pixels=10**6).decode([data]) for name in ("dali", "pillow"))
    if fast.outcomes == slow.outcomes:
        assert np.abs(fast.pixels.astype(int) - slow.pixels).mean() < 12
    else:  # DALI shows what there is of a JPEG with an invalid scan
        assert (fast.outcomes[0].status, slow.outcomes[0].status) == ("ok", "corrupt")
        assert data.startswith(b"\xff\xd8")


def test_crop_mode_reaches_the_decoder():
    pixels = make_decoder("pillow", CROP).decode([encode(natural(500, 300), "PNG")]).pixels
    assert (pixels[0, :, 0, 0] != CROP.pad_color).any()
