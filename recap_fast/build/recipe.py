"""Reads a recipe (`engines/*.toml`): the choices that turn a checkpoint into an engine.

In goes a path, or the bare name of a recipe that ships with the package; out comes a checked `Recipe`. What a recipe
leaves out is as its base has it, if it names one. What is left out there too, or is "auto", is taken from the
checkpoint by engine_directory.py.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Count, Source, hint, read_table
from recap_fast.generate.json_file import read_text
from recap_fast.generate.model_spec import Ratio, TokenId
from recap_fast.generate.spec import KVPrecision, NumSlots, Precision, SamplingSpec, Sizes

PROMPT = "Please generate a detailed caption of this image. Please be as descriptive as possible."
"""The prompt of Recap-DataComp-1B."""
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeLimits:
    """Sizes that are fixed when the engine is built; see `spec.Limits`."""

    max_new_tokens: Count = 128
    max_text_tokens: Count | None = None
    """None: what the prompt needs, with 128 tokens for each of its fields."""
    num_slots: NumSlots = 256
    prefill_images: NumSlots = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The content of a recipe, with that of its base."""

    base: str | None = None
    """Another recipe, by its name or by its path from the folder of this one, whose keys hold where this has none."""
    name: str = AUTO
    """Name of the engine; 'auto' is the name of the checkpoint's folder or repository."""
    template: str = AUTO
    """A name in generate/templates.py; 'auto' goes by the tokenizer's special tokens."""
    prompt: str = PROMPT
    """The question; fields such as {org_caption} are filled in for each image. Or the name of a prompt or a set."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Questions by name."""
    prompt_sets: dict[str, tuple[str, ...] | dict[str, Ratio]] = field(default_factory=dict)
    """Lists of prompts, or weights of prompts, by name; see `spec.PromptSpec`."""
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    """How `run` chooses tokens unless it is told otherwise."""
    stop_tokens: tuple[str, ...] = ()
    """Special tokens that end a caption. With neither these nor `stop_ids`: the checkpoint's and the template's."""
    stop_ids: tuple[TokenId, ...] = ()
    preprocess: Literal["auto", "pad", "crop", "stretch"] = "auto"
    precision: Literal["auto", Precision] = "auto"
    """'auto' is the dtype of the checkpoint's language model."""
    kv_precision: KVPrecision = "auto"
    """Precision of keys and values; see `spec.KVPrecision`."""
    notice: str | None = None
    """A sentence that `run` shows at the start."""
    limits: RecipeLimits = field(default_factory=RecipeLimits)
    cards: dict[str, Sizes] = field(default_factory=dict)
    """Sizes for cards by name; see `spec.EngineSpec`."""


def find_recipe(name: str | Path, folder: Path = Path()) -> Path:
    """The file of a recipe given as a path from `folder`, or as a bare name such as `recap_tiny` that ships with the
    package.

    Raises ConfigError where there is no such recipe, with the names that ship.
    """
    given, path = Path(name), folder / name
    if path.is_file():
        return path
    shipped = shipped_recipes()
    known = f"Recipes that ship with recap-fast: {', '.join(shipped) or 'none found'}."
    if given.parent != Path() or given.suffix not in ("", ".toml"):
        raise ConfigError(f"There is no recipe {name}. Give the path of a .toml file, or a name. {known}")
    if given.stem not in shipped:
        raise ConfigError(f"There is no recipe {name}{hint(given.stem, shipped)}. {known}")
    return shipped[given.stem]


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship with the package, by name."""
    package = Path(__file__).parents[1]
    folders = [package / "engines"]
    if (package.parent / "pyproject.toml").is_file():  # a source tree: site-packages/engines would be somebody else's
        folders.append(package.parent / "engines")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def recipe_files(name: str | Path) -> list[Path]:
    """The file of a recipe, that of its base, and so on.

    Raises ConfigError where one of them is not there or wrong, by itself, and where a base leads back.
    """
    files = [find_recipe(name)]
    while (base := read_table(Source(files[-1]), Recipe, _read_toml(files[-1])).base) is not None:
        try:
            found = find_recipe(base, files[-1].parent)
        except ConfigError as error:
            wanted = "the path of a recipe, from the folder of this one, or the name of one that ships"
            raise ConfigError(f"{files[-1]}: 'base' must be {wanted}. {error}") from error
        if any(found.samefile(each) for each in files):
            raise ConfigError(f"{files[-1]}: 'base' leads back to {found.name}.")
        files.append(found)
    return files


def load_recipe(name: str | Path) -> Recipe:
    """Reads and checks a recipe and its bases: keys over those of the base, tables key by key.

    Raises ConfigError naming the key that is unknown or wrong.
    """
    files = recipe_files(name)
    content: dict[str, Any] = {}
    for own in map(_read_toml, reversed(files)):
        merged = {key: {**content.get(key, {}), **value} for key, value in own.items() if isinstance(value, dict)}
        content = {**content, **own, **merged}
    return read_table(Source(files[0]), Recipe, content)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deep to be read.") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not TOML: {error}.") from error
