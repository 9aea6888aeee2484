"""A recipe (`engines/*.toml`): the choices that make an engine of a checkpoint.

In goes a path, or the bare name of a recipe that ships with the package; out comes a checked `Recipe`. What a recipe
leaves out, or sets to "auto", is taken from the checkpoint by build.py.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from recap_fast.errors import ConfigError
from recap_fast.generate.spec import KVPrecision, Precision, Sizes

PROMPT = "Please generate a detailed caption of this image. Please be as descriptive as possible."
"""The prompt of Recap-DataComp-1B."""
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeLimits:
    """Sizes that are fixed when the engine is built; see `spec.Limits`."""

    max_new_tokens: int = 128
    max_text_tokens: int | None = None
    """None: what the prompt needs, with 128 tokens for each of its fields."""
    num_slots: int = 96
    prefill_images: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The content of a recipe."""

    name: str = AUTO
    """Name of the engine; 'auto' is that of the checkpoint's folder."""
    template: str = AUTO
    """A name in generate/prompt.py; 'auto' goes by the tokenizer's special tokens."""
    prompt: str = PROMPT
    """The question; fields such as {org_caption} are filled in for each image."""
    stop_tokens: tuple[str, ...] = ()
    """Special tokens that end a caption. With neither these nor `stop_ids`: the checkpoint's and the template's."""
    stop_ids: tuple[int, ...] = ()
    preprocess: Literal["auto", "pad", "crop"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    """'auto' is the dtype of the checkpoint's language model."""
    kv_precision: KVPrecision = "auto"
    """Of keys and values; see `spec.KVPrecision`."""
    notice: str | None = None
    """A sentence that `run` shows at the start."""
    limits: RecipeLimits = field(default_factory=RecipeLimits)
    cards: dict[str, Sizes] = field(default_factory=dict)
    """Sizes for cards by name; see `spec.EngineSpec`."""


TYPES: dict[str, tuple[type, str]] = {
    "name": (str, "a string"),
    "template": (str, "a string"),
    "prompt": (str, "a string"),
    "stop_tokens": (str, "a list of strings"),
    "stop_ids": (int, "a list of integers"),
    "preprocess": (str, "a string"),
    "precision": (str, "a string"),
    "kv_precision": (str, "a string"),
    "notice": (str, "a string"),
    "limits": (dict, "a table"),
    "cards": (dict, "a table"),
}
LIMITS = ("max_new_tokens", "max_text_tokens", "num_slots", "prefill_images")
SIZES = ("num_slots", "prefill_images")
CHOICES = {
    "preprocess": (AUTO, "pad", "crop"),
    "precision": (AUTO, *get_args(Precision)),
    "kv_precision": get_args(KVPrecision),
}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given as a path, or as a bare name such as `recap_tiny` that ships with the package.

    Raises ConfigError where there is no such recipe, with the names that ship.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {p.stem: p for folder in _shipped_folders() for p in sorted(folder.glob("*.toml"))}
    known = f"Recipes that ship with recap-fast: {', '.join(shipped) or 'none found'}."
    if path.parent != Path() or path.suffix not in ("", ".toml"):
        raise ConfigError(f"There is no recipe {name}. Give the path of a .toml file, or a name. {known}")
    if path.stem not in shipped:
        raise ConfigError(f"There is no recipe {name}{_hint(path.stem, shipped)}. {known}")
    return shipped[path.stem]


def load_recipe(name: str | Path) -> Recipe:
    """Reads and checks a recipe. Raises ConfigError naming the key that is unknown or wrong."""
    path = find_recipe(name)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    _refuse_unknown(path, content, TYPES)
    values = {key: _checked(path, key, value) for key, value in content.items()}
    limits, cards = _limits(path, values.get("limits", {})), _cards(path, values.get("cards", {}))
    return Recipe(**{**values, "limits": limits, "cards": cards})


def _shipped_folders() -> list[Path]:
    package = Path(__file__).parents[1]
    installed, source = package / "engines", package.parent / "engines"
    # beside the package only in a source tree: site-packages/engines would be somebody else's
    return [installed, source] if (package.parent / "pyproject.toml").is_file() else [installed]


def _refuse_unknown(path: Path, content: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...]) -> None:
    for key in content:
        if key not in known:
            raise ConfigError(f"{path} has an unknown key '{key}'{_hint(key, known)}. Known keys: {', '.join(known)}.")


def _hint(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _checked(path: Path, key: str, value: Any) -> Any:
    kind, wanted = TYPES[key]
    if wanted.startswith("a list"):
        if not isinstance(value, list) or not all(type(v) is kind for v in value):
            raise ConfigError(f"{path}: '{key}' must be {wanted}, not {value!r}.")
        return tuple(value)
    if type(value) is not kind:
        raise ConfigError(f"{path}: '{key}' must be {wanted}, not {value!r}.")
    if key in CHOICES and value not in CHOICES[key]:
        raise ConfigError(f"{path}: '{key}' must be one of {', '.join(CHOICES[key])}, not {value!r}.")
    if not value and kind is not dict:
        raise ConfigError(f"{path}: '{key}' is empty; leave the line out instead.")
    return value


def _limits(path: Path, content: Mapping[str, Any]) -> RecipeLimits:
    _refuse_unknown(path, content, LIMITS)
    _check_counts(path, "limits", content)
    return RecipeLimits(**content)


def _cards(path: Path, content: Mapping[str, Any]) -> dict[str, Sizes]:
    for name, sizes in content.items():
        if not isinstance(sizes, dict) or sizes.keys() != set(SIZES):
            raise ConfigError(f"{path}: 'cards.{name}' must be a table of {' and '.join(SIZES)}, not {sizes!r}.")
        _check_counts(path, f"cards.{name}", sizes)
    return {name: Sizes(**sizes) for name, sizes in content.items()}


def _check_counts(path: Path, table: str, content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{path}: '{table}.{key}' must be an integer of at least 1, not {value!r}.")
