import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from recap_fast.build.preprocessing import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN, SIGLIP_STD, read_preprocess
from recap_fast.decode.pillow import preprocess_image
from recap_fast.errors import ConfigError
from recap_fast.generate.torch_backend.cpp_model import normalized_levels
from recap_fast.records import Preprocess

CLIP = {
    "do_resize": True,
    "size": {"shortest_edge": 336},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 336, "width": 336},
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.25, 0.25, 0.25],
}


def write(folder, config, name="preprocessor_config.json"):
    (folder / name).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("config", "mode"),
    [(CLIP, "crop"), ({**CLIP, "do_pad": True}, "pad"), ({**CLIP, "size": 336, "crop_size": 336}, "crop")],
)
def test_files_of_either_version(tmp_path, config, mode):
    write(tmp_path, config)
    expected = Preprocess(336, mode, (0.5, 0.4, 0.3), (0.25, 0.25, 0.25))
    assert read_preprocess(tmp_path, 336, None) == expected
    (tmp_path / "preprocessor_config.json").unlink()
    write(tmp_path, {"processor_class": "LlavaProcessor", "image_processor": config}, "processor_config.json")
    assert read_preprocess(tmp_path, 336, None) == expected


def test_of_both_files_the_one_counts_that_transformers_reads(tmp_path):
    old = {**CLIP, "image_processor_type": "CLIPImageProcessor"}
    write(tmp_path, old)
    for content, mean in (
        ({"image_processor": {**old, "image_mean": [0.1, 0.2, 0.3]}}, (0.1, 0.2, 0.3)),
        ({"processor_class": "LlavaProcessor", "patch_size": 14}, (0.5, 0.4, 0.3)),
    ):
        write(tmp_path, content, "processor_config.json")
        assert tuple(AutoImageProcessor.from_pretrained(tmp_path, backend="pil").image_mean) == mean
        assert read_preprocess(tmp_path, 336, None).mean == mean


@pytest.mark.parametrize(
    ("config", "mode", "resample"),
    [
        ({"image_processor_type": "SiglipImageProcessor", "size": {"height": 96, "width": 96}}, "stretch", "bicubic"),
        ({"image_processor_type": "SiglipImageProcessorFast", "size": 96, "resample": 2}, "stretch", "bilinear"),
        ({"feature_extractor_type": "SiglipFeatureExtractor", "resample": 3}, "stretch", "bicubic"),
    ],
)
def test_siglips_square_and_filter(tmp_path, config, mode, resample):
    write(tmp_path, config)
    assert read_preprocess(tmp_path, 96, None) == Preprocess(96, mode, SIGLIP_MEAN, SIGLIP_STD, resample)


def test_a_size_of_height_and_width_is_a_square_for_clip_as_well(tmp_path):
    write(tmp_path, {**CLIP, "size": {"height": 336, "width": 336}})
    assert read_preprocess(tmp_path, 336, None).mode == "stretch"


@pytest.mark.parametrize(
    ("processor", "size", "mode"),
    [
        ("CLIPImageProcessor", {"shortest_edge": 48}, "crop"),
        ("SiglipImageProcessor", {"height": 48, "width": 48}, "stretch"),
        ("LlavaImageProcessor", {"shortest_edge": 48}, "pad"),
    ],
)
def test_only_llavas_processor_pads(tmp_path, processor, size, mode):
    crop = {"height": 48, "width": 48}
    write(tmp_path, {"image_processor_type": processor, "do_pad": True, "size": size, "crop_size": crop})
    preprocess = read_preprocess(tmp_path, 48, None)
    assert preprocess.mode == mode
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8))
    expected = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(image, return_tensors="pt")["pixel_values"]
    assert (_normalized(preprocess_image(image, preprocess), preprocess) - expected[0]).abs().max() < 1e-6


def _normalized(pixels, preprocess):
    levels = torch.tensor(pixels).permute(2, 0, 1)
    return normalized_levels(preprocess).gather(1, levels.flatten(1).long()).view(levels.shape)


def test_the_recipe_comes_first(tmp_path):
    write(tmp_path, CLIP)
    assert read_preprocess(tmp_path, 336, "pad").mode == "pad"


def test_without_a_file_clips_values_hold(tmp_path, caplog):
    assert read_preprocess(tmp_path, 224, "pad") == Preprocess(224, "pad", CLIP_MEAN, CLIP_STD)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert read_preprocess(tmp_path, 224, None).mode == "crop"
    assert "no preprocessor_config.json: images are cropped" in caplog.text


@pytest.mark.parametrize(("family", "resample"), [("siglip", "bicubic"), ("siglip2", "bilinear")])
def test_without_a_file_siglips_values_hold(tmp_path, caplog, family, resample):
    expected = Preprocess(384, "pad", SIGLIP_MEAN, SIGLIP_STD, resample)
    assert read_preprocess(tmp_path, 384, "pad", family) == expected
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert read_preprocess(tmp_path, 384, None, family) == dataclasses.replace(expected, mode="stretch")
    assert "no preprocessor_config.json: images are made square, with SigLIP's mean" in caplog.text


JOYCAPTION = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "LlavaProcessor",
    "resample": 1,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 384, "width": 384},
}


@pytest.mark.parametrize("size", [(500, 333), (100, 640), (384, 384)])
def test_joycaptions_pixels_are_its_processors(tmp_path, size):
    write(tmp_path, JOYCAPTION)
    preprocess = read_preprocess(tmp_path, 384, None, "siglip")
    assert preprocess == Preprocess(384, "stretch", SIGLIP_MEAN, SIGLIP_STD, "lanczos")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    found = _normalized(preprocess_image(image, preprocess), preprocess)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert (found - expected).abs().max() < 1e-6, "a level is 2 / 255"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"resample": 4},
            r"resample 4 \(box\) is not supported, expected 3 \(bicubic\), 2 \(bilinear\) or 1 \(lanczos\)",
        ),
        ({"resample": 9}, "resample 9 is not supported"),
        ({"do_normalize": False}, "do_normalize False is not supported"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0 is not supported"),
        ({"crop_size": {"height": 224, "width": 224}}, "crop_size .* is not the vision tower's image size, 336"),
        ({"size": {"shortest_edge": 384}}, "size .* is not the vision tower's image size, 336"),
        ({"do_center_crop": False}, "do_center_crop is false"),
        ({"image_mean": [0.5]}, r"'image_mean' must be a list of 3 numbers, not \[0.5\]"),
        (
            {"image_std": [0.5, 0, 0.5]},
            r"'image_std' must be a list of numbers from 1e-06 to 1000000.0, not \[0.5",
        ),
        ({"image_mean": [0.5, "x", 0.5]}, r"'image_mean' must be a list of numbers from 0.0 to 1.0, not \[0.5, 'x'"),
        ({"do_pad": "no"}, "'do_pad' must be true or false, not 'no'"),
        ({"size": [[336]]}, r"size \[\[336\]\] is not the vision tower's image size, 336"),
        ({"size": {"shortest_edge": {}}}, "size {'shortest_edge': {}} is not the vision tower's image size, 336"),
        ({"resample": "bicubic"}, "resample 'bicubic' is not supported, expected 3"),
    ],
)
def test_what_no_decoder_does_is_refused(tmp_path, changes, message):
    write(tmp_path, {**CLIP, **changes})
    with pytest.raises(ConfigError, match=message):
        read_preprocess(tmp_path, 336, None)
