"""Reads what a checkpoint says about its preprocessing (preprocessor_config.json), as a `Preprocess`.

It knows CLIP's image processor (center crop), LLaVA's (padding) and SigLIP's (any image becomes a square), as files of
transformers 4 and 5. Where there is no such file, as in an original LLaVA checkpoint, those of the tower's family hold.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from recap_fast.build.config_checks import read_optional_table
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Range, Source, read_value, shown
from recap_fast.generate.json_file import read_json
from recap_fast.records import Preprocess

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
Mode = Literal["pad", "crop", "stretch"]
Family = Literal["clip", "siglip", "siglip2"]
Share = Annotated[float, Range(0.0, 1.0)]
Spread = Annotated[float, Range(1e-6, 1e6)]
_FILTERS: dict[int, Literal["bicubic", "bilinear", "lanczos"]] = {3: "bicubic", 2: "bilinear", 1: "lanczos"}
_ALL_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's number for each."""
logger = logging.getLogger(__name__)


def read_preprocess(folder: Path, image_size: int, mode: Mode | None, family: Family = "clip") -> Preprocess:
    """The preprocessing of a checkpoint whose vision tower takes `image_size` pixels.

    `mode` is what the recipe or config.json says, or None; `family` is the tower's. Raises ConfigError where
    the checkpoint wants what no decoder here does (another size, filter or scale).
    """
    path, config = _find(folder)
    if path is None:
        default = _default(image_size, family)
        if mode is None:
            what = "cropped to their center, with CLIP's" if family == "clip" else "made square, with SigLIP's"
            logger.warning("%s has no preprocessor_config.json: images are %s mean and std.", folder, what)
        return default if mode is None else replace(default, mode=mode)
    source = Source(path)
    _check_steps(path, config, image_size)
    mean, std = (SIGLIP_MEAN, SIGLIP_STD) if "siglip" in _processor(config) else (CLIP_MEAN, CLIP_STD)
    return Preprocess(
        image_size,
        mode or _find_mode(source, config),
        read_value(source, tuple[Share, Share, Share] | None, "image_mean", config.get("image_mean")) or mean,
        read_value(source, tuple[Spread, Spread, Spread] | None, "image_std", config.get("image_std")) or std,
        _FILTERS[config.get("resample") or 3],
    )


def _default(image_size: int, family: Family) -> Preprocess:
    """As OpenAI and Google have published them: SigLIP 2 was the first to resize by the bilinear filter."""
    if family == "clip":
        return Preprocess(image_size, "crop", CLIP_MEAN, CLIP_STD)
    return Preprocess(image_size, "stretch", SIGLIP_MEAN, SIGLIP_STD, "bilinear" if family == "siglip2" else "bicubic")


def _find_mode(source: Source, config: Mapping[str, Any]) -> Mode:
    """A `size` of height and width makes a square of any image, and so does any size for SigLIP.

    `do_pad` is for LLaVA's processor: those of CLIP and SigLIP have the key as well, and pad nothing.
    """
    flags = {name: read_value(source, bool | None, name, config.get(name)) for name in ("do_pad", "do_center_crop")}
    size = config.get("size")
    processor = _processor(config)
    if flags["do_pad"] and (not processor or "llava" in processor):
        return "pad"
    if "siglip" in processor or (isinstance(size, Mapping) and {"height", "width"} <= size.keys()):
        return "stretch"
    if flags["do_center_crop"] is False:
        raise source.refuse(": do_center_crop is false, which leaves images of any shape: set preprocess in a recipe")
    return "crop"


def _processor(config: Mapping[str, Any]) -> str:
    """The name of the image processor's class in small letters; '' where the file has none."""
    return str(config.get("image_processor_type", config.get("feature_extractor_type")) or "").lower()


def _check_steps(path: Path, config: Mapping[str, Any], image_size: int) -> None:
    """Raises ConfigError for what no decoder here does."""
    resample = config.get("resample")
    if resample is not None and not (type(resample) is int and resample in _FILTERS):
        is_known = type(resample) is int and 0 <= resample < len(_ALL_FILTERS)
        name = f"{resample} ({_ALL_FILTERS[resample]})" if is_known else shown(resample)
        raise ConfigError(
            f"{path}: resample {name} is not supported, expected 3 (bicubic), 2 (bilinear) or 1 (lanczos)."
        )
    wanted: dict[str, object] = {"rescale_factor": 1 / 255}
    for name, known in {**wanted, "do_resize": True, "do_normalize": True, "do_rescale": True}.items():
        value = config.get(name)
        if value is not None and value != known:
            raise ConfigError(f"{path}: {name} {shown(value)} is not supported, expected {known!r}.")
    for name in ("size", "crop_size"):
        if any(side != image_size for side in _sides(config.get(name))):
            raise ConfigError(
                f"{path}: {name} {shown(config[name])} is not the vision tower's image size, {image_size}."
            )


def _find(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The image processor in the processor_config.json of transformers 5, else preprocessor_config.json.

    transformers 5 reads them in this order. It writes the first alone, so that an old second one may be left beside it.
    """
    path = folder / "processor_config.json"
    nested = read_optional_table(path, read_json(path), "image_processor") if path.is_file() else None
    if nested is not None:
        return path, nested
    path = folder / "preprocessor_config.json"
    return (path, read_json(path)) if path.is_file() else (None, {})


def _sides(size: Any) -> list[Any]:
    """What a size names: an int in old files, `shortest_edge` or `height` and `width` in new ones."""
    if isinstance(size, Mapping):
        return [side for side in size.values() if side is not None]
    return [] if size is None else [size]
