"""Refuses, by name, what a checkpoint's config.json has and recap-fast does not run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Source, read_value, shown

DECODER_NAMES = "a Llama, Mistral, Qwen2 or Qwen3 language model"
READS = f"recap-fast reads LLaVA-1.5: a CLIP or SigLIP vision tower, a two-layer GELU projector, {DECODER_NAMES}"


def expect(path: Path, config: Mapping[str, Any], name: str, known: Mapping[Any, str], *, default: Any) -> None:
    """Refuses a value that is not among the known ones; `name` may lead with the table that `config` is."""
    value = config.get(name.rsplit(".", 1)[-1], default)
    if not any(type(value) is type(k) and value == k for k in known):
        wanted = " or ".join(f"{k!r} ({why})" if why else repr(k) for k, why in known.items())
        raise ConfigError(f"{path}: {name} {shown(value)} is not supported, expected {wanted}. {READS}.")


def expect_divisible(path: Path, name: str, value: int, divisor: int, its_name: str = "") -> None:
    """Refuses a value that is not a multiple; `its_name` is the divisor's, where it is not a constant."""
    if value % divisor:
        raise ConfigError(f"{path}: {name} {value} is not a multiple of {f'{its_name} {divisor}'.lstrip()}.")


def read_optional_table(path: Path, config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A table in a config; None where it has none."""
    table: dict[str, Any] | None = read_value(Source(path), dict[str, Any] | None, name, config.get(name))
    return table
