"""Reads what a checkpoint says about its vision tower, as a `VisionSpec`."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from recap_fast.build.config_checks import READS, expect, expect_divisible, read_optional_table
from recap_fast.build.model_config import CLIP, CLIP_BASE, NAMED, SIGLIP_BASE, TOWERS, VisionConfig
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Source, read_table, read_value, shown
from recap_fast.generate.json_file import read_json
from recap_fast.generate.model_spec import VisionSpec

NAFLEX = (
    "It is SigLIP 2's NaFlex, which makes more or fewer patches of an image by its shape. recap-fast reads SigLIP 2 "
    "of a fixed size, a siglip_vision_model."
)
ACTIVATIONS: Mapping[str, Literal["quick_gelu", "gelu", "gelu_tanh"]] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""Ours by transformers' names."""


def named_tower(path: Path, name: Any) -> tuple[Path, dict[str, Any]]:
    """The tower that `mm_vision_tower` names, OpenAI's, Google's or a folder's, and the file that says what it is."""
    if name is None:
        raise ConfigError(f"{path} names no mm_vision_tower. {READS}.")
    name = read_value(Source(path), str, "mm_vision_tower", name)
    tower = path.parent / name / "config.json"
    is_folder = False
    with contextlib.suppress(OSError):  # a name too long for a file
        is_folder = tower.is_file()
    if is_folder:
        config = read_json(tower)
        return tower, complete_tower(tower, read_optional_table(tower, config, "vision_config") or config, "")
    last = name.rstrip("/").rsplit("/", 1)[-1]
    if "naflex" in last:
        raise ConfigError(f"{path}: mm_vision_tower {name!r} is not supported. {NAFLEX}")
    if last not in NAMED:
        raise ConfigError(
            f"{path}: mm_vision_tower {name!r} is not known. {READS}; known towers: {', '.join(NAMED)}, "
            "or a folder with the tower's config.json."
        )
    return path, dict(NAMED[last])


def complete_tower(path: Path, config: Mapping[str, Any], table: str) -> dict[str, Any]:
    """A tower's config with the defaults of its type, which is CLIP's or SigLIP's; others are refused by name."""
    name = f"{table}.model_type" if table else "model_type"
    kind = config.get("model_type", CLIP)
    if kind == "siglip2_vision_model":
        raise ConfigError(f"{path}: {name} {kind!r} is not supported. {NAFLEX}")
    expect(path, config, name, TOWERS, default=CLIP)
    return {**(CLIP_BASE if kind == CLIP else SIGLIP_BASE), **config}


def read_tower(path: Path, config: Mapping[str, Any], table: str) -> VisionConfig:
    return read_table(Source(path, passes_unknown=True), VisionConfig, config, table)


def count_layers(path: Path, config: Mapping[str, Any], name: str, tower: VisionConfig) -> int:
    """How many layers of a tower run: the key `name` says which one's result is read, by default the last but one."""
    given = config.get(name, -2)
    layer = given[0] if isinstance(given, list) and len(given) == 1 else given
    total = tower.num_hidden_layers
    # layer k is hidden_states[k], of which there are one more than layers: the first is the embedding
    num_layers: int = layer + total + 1 if type(layer) is int and layer < 0 else layer
    if type(num_layers) is not int or not 1 <= num_layers <= total:
        raise ConfigError(
            f"{path}: {name} {shown(given)} is not supported, expected one layer, 1 to {total} or -{total} to -1."
        )
    return num_layers


def make_vision(
    path: Path, config: Mapping[str, Any], tower: VisionConfig, num_layers: int, select: Literal["default", "full"]
) -> VisionSpec:
    """The part of a tower that runs: `num_layers` layers, of whose result `select` says which positions are read."""
    expect(path, config, "num_channels", {3: "RGB"}, default=3)
    expect(path, config, "tie_last_hidden_states", {False: "the last layer's result", None: ""}, default=None)
    expect_divisible(path, "hidden_size", tower.hidden_size, tower.num_attention_heads, "num_attention_heads")
    is_clip = config["model_type"] == CLIP
    spec = VisionSpec(
        hidden_size=tower.hidden_size,
        intermediate_size=tower.intermediate_size,
        num_layers=num_layers,
        num_heads=tower.num_attention_heads,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        activation=ACTIVATIONS[tower.hidden_act],
        norm_eps=tower.layer_norm_eps,
        has_class_token=is_clip,
        has_pre_norm=is_clip,
        has_patch_bias=not is_clip,
        select=select,
    )
    if tower.patch_size > tower.image_size:
        raise ConfigError(f"{path}: patch_size {tower.patch_size} is larger than image_size {tower.image_size}.")
    if spec.num_image_tokens < 1:
        raise ConfigError(
            f"{path}: an image is one patch, which vision_feature_select_strategy 'default' drops. Set it to 'full'."
        )
    return spec
