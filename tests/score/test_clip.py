"""Scores of a CLIP against a check written by hand: transformers' model and its slow processor, one pair at a time."""

import io
import math

import pytest
import torch
import transformers
from PIL import Image, ImageOps
from support.pictures import drawn, encode, natural, with_orientation

from inputs.clips import make_clip
from recap_fast.score.clip import ClipScorer, softmax
from recap_fast.score.clip_folder import ClipFolder
from recap_fast.score.scorer import Pair

LONG = "two large red circles in the top left corner and a small blue star on a white background " * 5
CAPTIONS = [
    ("The image shows a large red circle", "red circle"),
    (LONG, "a"),
    ("three green squares on a pink background", LONG),
    ("a red ring", None),
    (None, "a red ring"),
    ("a red ring", "a red ring"),
    ("Größe: 図形 🔷 <end> <pad>", ""),
    (LONG + " and more", "photo for sale " * 30),
]
KINDS = {
    "clip": {"architecture": "clip"},
    "legacy": {"architecture": "clip", "eos_token_id": 2},
    "longclip": {"architecture": "clip", "tokens": 248},
    "siglip": {"architecture": "siglip", "tokens": 64, "image_size": 96},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp("clip") / request.param
    return make_clip(made, **{"hidden_size": 64, "num_layers": 2, **KINDS[request.param]})


def images():
    """JPEGs and PNGs, of odd shapes and turned by EXIF."""
    turned = encode(natural(90, 60, 3), "JPEG", exif=with_orientation(6))
    found = [encode(natural(201, 131, 1), "JPEG"), encode(drawn(4), "PNG"), turned, encode(natural(60, 300, 2), "PNG")]
    found += [encode(natural(40, 30, 5).convert("L"), "JPEG"), encode(natural(97, 97).convert("RGBA"), "PNG")]
    return found + [encode(drawn(seed), "JPEG") for seed in range(2)]


def pairs():
    return [Pair("s", 7 * i, image, *CAPTIONS[i]) for i, image in enumerate(images())]


def features(folder, pair):
    """Of the image and of both captions, by transformers; None for a caption that is not there."""
    siglip = "siglip" in folder.name
    model = (transformers.SiglipModel if siglip else transformers.CLIPModel).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(pair.image))).convert("RGB")
    length = model.config.text_config.max_position_embeddings
    found = []
    with torch.no_grad():
        found.append(model.get_image_features(**processor(image, return_tensors="pt")).pooler_output[0])
        for text in (pair.re_caption, pair.org_caption):
            if text is None:
                found.append(None)
                continue
            ids = tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            ids = {"input_ids": ids["input_ids"]} if siglip else ids
            found.append(model.get_text_features(**ids).pooler_output[0])
    return [None if each is None else each.double() for each in found]


def cosine(image, text):
    return None if text is None else (100 * image @ text / image.norm() / text.norm()).item()


def shares(image, *texts):
    if None in texts:
        return None, None
    return tuple((100 * torch.softmax(torch.stack([image @ text for text in texts]), 0)).tolist())


def scorer(folder, measure="cosine", **changed):
    return ClipScorer(ClipFolder.open(folder), measure, torch.device("cpu"), **changed)


def near(expected):
    return None if expected is None else pytest.approx(expected, abs=1e-4)


def test_scores_equal_the_check_by_hand(folder):
    for measure in ("cosine", "softmax"):
        found = {score.index: score for score in scorer(folder, measure, batch_size=3).score(pairs())}
        assert sorted(found) == [7 * i for i in range(len(CAPTIONS))]
        values = set()
        for pair in pairs():
            image, *texts = features(folder, pair)
            expected = [cosine(image, text) for text in texts] if measure == "cosine" else shares(image, *texts)
            score = found[pair.index]
            assert (score.re, score.org) == tuple(map(near, expected))
            values |= {round(each, 2) for each in expected if each is not None}
        assert len(values) > 8  # the check tells pairs apart


def test_what_was_cut_is_noted_per_caption(folder):
    notes = [score.notes for score in scorer(folder).score(pairs())]
    takes_all = "longclip" in folder.name
    cut = [(), ("re_cut",), ("org_cut",), (), (), (), (), ("re_cut", "org_cut")]
    assert notes == [()] * len(cut) if takes_all else cut


def test_the_batch_decides_nothing(folder):
    few, many = ({s.index: (s.re, s.org) for s in scorer(folder, batch_size=n).score(pairs())} for n in (1, 64))
    assert few.keys() == many.keys()
    for index, (re, org) in few.items():
        assert (near(re), near(org)) == many[index]


def test_an_image_that_cannot_be_decoded_has_a_note(folder):
    given = [Pair("s", 0, b"x" * 99, "a", "b"), *pairs()[:1], Pair("t", 2, b"", "a", "b")]
    found = list(scorer(folder).score(given))
    assert [(s.re, s.org, s.notes) for s in (found[0], found[2])] == [(None, None, ("undecoded",))] * 2
    assert found[1].re is not None
    assert next(scorer(folder).score(given[:1])).re is None


def test_pairs_of_shares_add_up_to_100(folder):
    for score in scorer(folder, "softmax").score(pairs()):
        if score.re is not None:
            assert score.re + score.org == pytest.approx(100)


def test_softmax_of_any_products():
    assert softmax(3.0, None) == softmax(None, 3.0) == (None, None)
    assert softmax(1e4, -1e4) == (100, 0)
    assert softmax(-1e4, 1e4) == pytest.approx((0, 100))
    for re, org in ((0.3, 0.1), (-5, 2), (20, 20)):
        expected = 100 * math.exp(re) / (math.exp(re) + math.exp(org))
        assert softmax(re, org) == pytest.approx((expected, 100 - expected))


def test_the_sentences_about_counts(folder):
    made = scorer(folder)
    tokens = KINDS[folder.name].get("tokens", 77)
    assert list(made.describe({"re_cut": 1204, "org_cut": 1, "undecoded": 2})) == [
        f"1,204 new captions were cut at {tokens} tokens",
        f"1 original caption was cut at {tokens} tokens",
        "2 images have no score: they could not be decoded",
    ]
    assert list(made.describe({})) == []


def test_settings_name_the_model_and_all_that_decides(folder):
    settings = scorer(folder, "softmax").settings
    assert settings["model"] == folder.name
    assert settings["kind"] == "softmax"
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= settings[
        "files"
    ].keys()
    assert settings["decoder"] == "pillow"
    assert len(settings["files"]["model.safetensors"]) == 64
