"""The folder of a CLIP: what is refused, which model it is, and what of its files decides about scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recap_fast.atomic import sha256_of
from recap_fast.build.hub_name import download_advice
from recap_fast.build.preprocessing import read_preprocess
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Count, Source, read_table, shown
from recap_fast.generate.json_file import read_json
from recap_fast.records import Preprocess

ARCHITECTURES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
"""The classes of transformers by the `model_type` of config.json. LongCLIP is a CLIP of 248 positions, and a SigLIP 2
of a fixed resolution is a SigLIP."""
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth")
_DECISIVE = ("config.json", "preprocessor_config.json", "processor_config.json")
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "spiece.model", "tokenizer.model"),
)
_TOWERS = {"clip": (77, 224), "siglip": (64, 224)}
"""Tokens of a text and pixels of an image's side, where config.json names none: transformers' defaults."""


@dataclass(frozen=True, slots=True)
class _Text:
    max_position_embeddings: Count


@dataclass(frozen=True, slots=True)
class _Vision:
    image_size: Count


@dataclass(frozen=True, slots=True)
class ClipFolder:
    """A folder with a CLIP in transformers' layout."""

    path: Path
    model_type: str
    """A key of `ARCHITECTURES`."""
    num_tokens: int
    """Tokens that the text tower takes, the marks of begin and end among them."""
    preprocess: Preprocess

    @classmethod
    def open(cls, path: Path) -> "ClipFolder":
        """Reads the folder's json files. Raises ConfigError for what cannot be used, with what to do."""
        _check(path)
        source = Source(path / "config.json", passes_unknown=True)
        config = read_json(source.path)
        model_type = config.get("model_type")
        if model_type not in ARCHITECTURES:
            raise source.refuse(f": 'model_type' is {shown(model_type)}, {_advice(model_type)}")
        tokens, side = _TOWERS[model_type]
        text_table = {"max_position_embeddings": tokens, **_table(source, config, "text_config")}
        vision_table = {"image_size": side, **_table(source, config, "vision_config")}
        text = read_table(source, _Text, text_table, "text_config")
        vision = read_table(source, _Vision, vision_table, "vision_config")
        if model_type == "siglip" and not any((path / name).is_file() for name in _DECISIVE[1:]):
            raise ConfigError(f"{path} has no preprocessor_config.json: download it with the other files of the model.")
        if not any((path / name).is_file() for name in _TOKENIZER):
            raise ConfigError(f"{path} has no tokenizer.json: download it with the other files of the model.")
        preprocess = read_preprocess(path, vision.image_size, None)
        return cls(path, model_type, text.max_position_embeddings, preprocess)

    @property
    def name(self) -> str:
        """The model's name, as the settings of scores have it."""
        return self.path.resolve().name

    def weight_files(self) -> list[str]:
        """Names of the files that hold the weights. Raises ConfigError where one that the index names is missing."""
        if (self.path / _WEIGHTS).is_file():
            return [_WEIGHTS]
        source = Source(self.path / _INDEX)
        table = read_json(source.path).get("weight_map")
        names = {*table.values()} if isinstance(table, dict) else set()
        for name in names:
            if not isinstance(name, str) or Path(name).name != name or not (self.path / name).is_file():
                raise source.refuse(f" names {shown(name)}, which is not in the folder: download it as well")
        if not names:
            raise source.refuse(" names no files")
        return sorted(names)

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file that decides about scores, in hex."""
        present = (name for name in (*_DECISIVE, *_TOKENIZER) if (self.path / name).is_file())
        return {name: sha256_of(self.path / name) for name in (*present, *self.weight_files())}


def _check(path: Path) -> None:
    """Raises ConfigError where the path is not a folder with safetensors."""
    if not path.exists():
        advice = download_advice(path, "--model")
        raise ConfigError(f"There is no folder {path}: --model takes the folder of a CLIP, LongCLIP or SigLIP.{advice}")
    if not path.is_dir():
        raise ConfigError(f"{path} is not a folder: give the folder of the model, --model {path.parent}.")
    if not (path / "config.json").is_file():
        raise ConfigError(f"{path} has no config.json: --model takes a folder in the layout of transformers.")
    if not any((path / name).is_file() for name in (_WEIGHTS, _INDEX)):
        found = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
        raise ConfigError(f"{path} has no {_WEIGHTS}. {_no_weights(found)}")


def _no_weights(pickles: Sequence[str]) -> str:
    if not pickles:
        return "Download it with the other files of the model."
    return (
        f"{', '.join(pickles[:3])} may run any program when it is loaded, so it is not read. Download the model's "
        "model.safetensors; where its page has none, take a conversion that has one."
    )


def _table(source: Source, config: dict[str, Any], name: str) -> dict[str, Any]:
    table = config.get(name)
    if table is not None and not isinstance(table, dict):
        raise source.refuse_value(name, "a table", table)
    return {key: value for key, value in (table or {}).items() if value is not None}


def _advice(model_type: object) -> str:
    if model_type == "siglip2":
        return (
            "a SigLIP 2 for images of any size. Take one of a fixed size, whose 'model_type' is 'siglip', such as "
            "google/siglip2-base-patch16-224"
        )
    if model_type in ("clip_text_model", "clip_vision_model", "siglip_text_model", "siglip_vision_model"):
        return "one half of a model. Scores need both: take the whole model"
    return f"expected {' or '.join(map(repr, ARCHITECTURES))}: --model takes a CLIP, LongCLIP or SigLIP"
