"""Reads what a checkpoint says about its vision tower, as a `VisionSpec`."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.build.config_checks import READS, expect, expect_divisible, read_optional_table
from recap_fast.build.model_config import CLIP, CLIP_BASE, CLIP_NAMED, VisionConfig
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Source, read_table, read_value, shown
from recap_fast.generate.json_file import read_json
from recap_fast.generate.spec import VisionSpec


def named_tower(path: Path, name: Any) -> tuple[Path, dict[str, Any]]:
    """The CLIP that `mm_vision_tower` names, and the file that says so: one of OpenAI's, or a folder's config.json."""
    if name is None:
        raise ConfigError(f"{path} names no mm_vision_tower. {READS}.")
    name = read_value(Source(path), str, "mm_vision_tower", name)
    tower = path.parent / name / "config.json"
    is_folder = False
    with contextlib.suppress(OSError):  # a name too long for a file
        is_folder = tower.is_file()
    if is_folder:
        config = read_json(tower)
        config = read_optional_table(tower, config, "vision_config") or config
        expect(tower, config, "model_type", CLIP, default="clip_vision_model")
        return tower, {**CLIP_BASE, **config}
    known = CLIP_NAMED.get(name.rstrip("/").rsplit("/", 1)[-1])
    if known is None:
        raise ConfigError(
            f"{path}: mm_vision_tower {name!r} is not known. {READS}; known towers: {', '.join(CLIP_NAMED)}, "
            "or a folder with the tower's config.json."
        )
    return path, dict(known)


def read_tower(path: Path, config: Mapping[str, Any], table: str) -> VisionConfig:
    return read_table(Source(path, passes_unknown=True), VisionConfig, config, table)


def make_vision(path: Path, config: Mapping[str, Any], tower: VisionConfig, layer: Any) -> VisionSpec:
    if isinstance(layer, list) and len(layer) == 1:
        layer = layer[0]
    total = tower.num_hidden_layers
    # layer k is hidden_states[k], of which there are one more than layers: the first is the embedding
    num_layers = layer + total + 1 if type(layer) is int and layer < 0 else layer
    if type(num_layers) is not int or not 1 <= num_layers <= total:
        raise ConfigError(
            f"{path}: vision layer {shown(layer)} is not supported, expected one of 1..{total} or -{total}..-1."
        )
    expect(path, config, "num_channels", {3: "RGB"}, default=3)
    expect_divisible(path, "image_size", tower.image_size, tower.patch_size)
    expect_divisible(path, "hidden_size", tower.hidden_size, tower.num_attention_heads)
    return VisionSpec(
        hidden_size=tower.hidden_size,
        intermediate_size=tower.intermediate_size,
        num_layers=num_layers,
        num_heads=tower.num_attention_heads,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        activation=tower.hidden_act,
        norm_eps=tower.layer_norm_eps,
    )
