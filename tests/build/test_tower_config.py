"""What configs say about vision towers: CLIP's and SigLIP's of any size, and which of their positions are read."""

import dataclasses
import json
from pathlib import Path

import pytest

from inputs.shapes import SHAPES, clip_fields
from recap_fast.build.architecture import Architecture, read_architecture
from recap_fast.errors import ConfigError
from recap_fast.generate.model_spec import VisionSpec

ORIGINAL = {"model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
ORIGINAL |= {"mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"}
CLIP_L = SHAPES["8b"].vision
CLIP_L_CONFIG = {**clip_fields(CLIP_L), "model_type": "clip_vision_model"}
JOYCAPTION = {  # what the published one says of its tower
    "model_type": "llava",
    "image_seq_length": 729,
    "image_token_index": 128077,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "full",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}
SO400M = VisionSpec(
    hidden_size=1152,
    intermediate_size=4304,
    num_layers=26,
    num_heads=16,
    image_size=384,
    patch_size=14,
    activation="gelu_tanh",
    norm_eps=1e-6,
    has_class_token=False,
    has_pre_norm=False,
    has_patch_bias=True,
    select="full",
)


def read(folder: Path, config: dict) -> Architecture:
    (folder / "config.json").write_text(json.dumps(config))
    return read_architecture(folder)


def test_joycaption(tmp_path):
    found = read(tmp_path, JOYCAPTION)
    assert (found.vision, found.num_vision_layers, found.preprocess_mode) == (SO400M, 27, None)
    assert (found.vision.num_image_tokens, found.vision.num_patches) == (729, 27**2)
    assert found.family == "siglip"


def test_siglips_defaults_are_those_of_transformers(tmp_path):
    bare = read(tmp_path, {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}})
    from transformers import SiglipVisionConfig

    vision = clip_fields(bare.vision)
    assert vision == {name: getattr(SiglipVisionConfig(), name) for name in vision}
    assert (bare.vision.activation, SiglipVisionConfig().hidden_act) == ("gelu_tanh", "gelu_pytorch_tanh")
    assert bare.vision.norm_eps == SiglipVisionConfig().layer_norm_eps
    assert bare.vision.num_image_tokens == 14**2 - 1, "the strategy 'default' drops the first position of any tower"


@pytest.mark.parametrize(
    ("changes", "num_image_tokens", "num_positions"),
    [
        ({}, 576, 577),
        ({"vision_feature_select_strategy": "full"}, 577, 577),
        ({"vision_config": {**CLIP_L_CONFIG, "image_size": 349}}, 576, 577),
        ({"vision_config": {**CLIP_L_CONFIG, "hidden_act": "gelu_pytorch_tanh"}}, 576, 577),
        ({"vision_config": JOYCAPTION["vision_config"]}, 728, 729),
    ],
)
def test_select_strategy_and_rest_of_an_image(tmp_path, changes, num_image_tokens, num_positions):
    vision = read(tmp_path, {"model_type": "llava", "vision_config": CLIP_L_CONFIG, **changes}).vision
    assert (vision.num_image_tokens, vision.num_positions) == (num_image_tokens, num_positions)


@pytest.mark.parametrize("feature", ["patch", "cls_patch"])
@pytest.mark.parametrize(
    ("name", "changes", "family"),
    [
        ("google/siglip-so400m-patch14-384", {}, "siglip"),
        ("google/siglip2-so400m-patch14-384", {}, "siglip2"),
        ("siglip-so400m-patch16-256-i18n", {"image_size": 256, "patch_size": 16}, "siglip"),
        ("google/siglip2-so400m-patch16-512/", {"image_size": 512, "patch_size": 16}, "siglip2"),
        (
            "google/siglip2-giant-opt-patch16-256",
            {
                "hidden_size": 1536,
                "intermediate_size": 6144,
                "num_layers": 39,
                "image_size": 256,
                "patch_size": 16,
            },
            "siglip2",
        ),
    ],
)
def test_original_llava_on_siglip(tmp_path, name, changes, family, feature):
    """All patches are read, whatever mm_vision_select_feature says: there is no class token to drop."""
    config = {**ORIGINAL, "mm_vision_tower": name, "mm_vision_select_feature": feature}
    found = read(tmp_path, config)
    assert found.vision == dataclasses.replace(SO400M, **changes)
    assert (found.preprocess_mode, found.family) == ("pad", family)
    assert read(tmp_path, {**config, "image_aspect_ratio": None}).preprocess_mode == "stretch"


def test_original_llava_with_the_class_token(tmp_path):
    vision = read(tmp_path, {**ORIGINAL, "mm_vision_select_feature": "cls_patch"}).vision
    assert vision == dataclasses.replace(CLIP_L, select="full")


@pytest.mark.parametrize("layer", ["whole", "tower"])
def test_a_folder_may_hold_the_tower(tmp_path, layer):
    """Alone, or in a whole SigLIP."""
    vision = JOYCAPTION["vision_config"]
    (tmp_path / "siglip").mkdir()
    content = vision if layer == "tower" else {"model_type": "siglip", "vision_config": vision}
    (tmp_path / "siglip/config.json").write_text(json.dumps(content))
    assert read(tmp_path, {**ORIGINAL, "mm_vision_tower": "siglip"}).vision == SO400M


def tower(**changes):
    return {**JOYCAPTION, "vision_config": {**JOYCAPTION["vision_config"], **changes}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tower(model_type="siglip2_vision_model"), "NaFlex.*reads SigLIP 2 of a fixed size"),
        (tower(image_size=13), "patch_size 14 is larger than image_size 13"),
        (tower(num_attention_heads=7), "hidden_size 1152 is not a multiple of num_attention_heads 7"),
        (tower(hidden_act="gelu_fast"), "hidden_act' must be one of quick_gelu, gelu, gelu_py"),
        (tower(image_size=[384, 384]), "image_size' must be"),
        (tower(tie_last_hidden_states=True), "tie_last_hidden_states True is not supported"),
        (
            {**tower(image_size=27), "vision_feature_select_strategy": "default"},
            "an image is one patch, which vision_feature_select_strategy 'default' drops. Set it to 'full'",
        ),
        ({**ORIGINAL, "mm_vision_tower": "google/siglip2-base-patch16-naflex"}, "naflex' is not supported. It is"),
        (
            {**ORIGINAL, "mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_vision_select_layer": -1},
            "mm_vision_select_layer -1 is not supported, expected -2",
        ),
        ({**ORIGINAL, "s2": True}, r"s2 True is not supported, expected False \(one scale\)"),
    ],
)
def test_what_no_tower_does_is_refused(tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, config)
