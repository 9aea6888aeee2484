"""A recipe (`engines/*.toml`): the choices that make an engine of a checkpoint.

In goes a path, or the bare name of a recipe that ships with the package; out comes a checked `Recipe`. What a recipe
leaves out, or sets to "auto", is taken from the checkpoint by engine_directory.py.
"""

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
    precision: Literal["auto", Precision] = "auto"
    """'auto' is the dtype of the checkpoint's language model."""
    kv_precision: KVPrecision = "auto"
    """Of keys and values; see `spec.KVPrecision`."""
    notice: str | None = None
    """A sentence that `run` shows at the start."""
    limits: RecipeLimits = field(default_factory=RecipeLimits)
    cards: dict[str, Sizes] = field(default_factory=dict)
    """Sizes for cards by name; see `spec.EngineSpec`."""


ITEMS = {str: "strings", int: "integers"}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given as a path, or as a bare name such as `recap_tiny` that ships with the package.

    Raises ConfigError where there is no such recipe, with the names that ship.
    """
    path = Path(name)
    if path.is_file():
        return path
    package = Path(__file__).parents[1]
    folders = [package / "engines"]
    if (package.parent / "pyproject.toml").is_file():  # a source tree: site-packages/engines would be somebody else's
        folders.append(package.parent / "engines")
    shipped = {p.stem: p for folder in folders for p in sorted(folder.glob("*.toml"))}
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
    recipe: Recipe = _read_table(path, Recipe, "", content)
    return recipe


def _hint(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _read_table(path: Path, kind: Any, table: str, content: Any) -> Any:
    """A dataclass of a TOML table, checked against its annotations; what is left out has its default."""
    required = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    if not isinstance(content, dict) or not content.keys() >= set(required):
        wanted = f"a table of {' and '.join(required)}" if required else "a table"
        raise ConfigError(f"{path}: '{table}' must be {wanted}, not {content!r}.")
    known = get_type_hints(kind)
    for key in content:
        if key not in known:
            raise ConfigError(f"{path} has an unknown key '{key}'{_hint(key, known)}. Known keys: {', '.join(known)}.")
    prefix = f"{table}." if table else ""
    return kind(**{key: _read_value(path, known[key], prefix + key, value) for key, value in content.items()})


def _read_value(path: Path, hint: Any, key: str, value: Any) -> Any:
    """A value as its annotation has it. Raises ConfigError with what it must be."""
    kind, types = get_origin(hint), get_args(hint) or (hint,)
    if is_dataclass(hint):
        return _read_table(path, hint, key, value)
    if kind is dict:
        wanted, is_right = "a table", isinstance(value, dict)
    elif kind is tuple:
        wanted = f"a list of {ITEMS[types[0]]}"
        is_right = isinstance(value, list) and all(type(item) is types[0] for item in value)
    elif kind is Literal:
        wanted, is_right = f"one of {', '.join(types)}", value in types
    elif int in types:
        wanted, is_right = "an integer of at least 1", type(value) is int and value >= 1
    else:
        wanted, is_right = "a string", type(value) is str
    if not is_right:
        raise ConfigError(f"{path}: '{key}' must be {wanted}, not {value!r}.")
    if value == "":
        raise ConfigError(f"{path}: '{key}' is empty; leave the line out instead.")
    if kind is dict:
        return {name: _read_value(path, types[1], f"{key}.{name}", each) for name, each in value.items()}
    return tuple(value) if kind is tuple else value
