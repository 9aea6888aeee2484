"""What was measured of an engine stands in its folder, in tuning.json: the sizes that were fastest and how fast they
were, an entry for each device by name.

Sizes decide how fast captions are made, not what they say, so the file is no part of what engine.json lists and of a
run's fingerprint. `tune` (bench/tune.py) adds entries.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from recap_fast.atomic import atomic_write
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Count, Range, Source, read_table, read_value
from recap_fast.generate.json_file import read_json
from recap_fast.generate.spec import Sizes

TUNING_FILE, FORMAT = "tuning.json", 1
AGAIN = "Delete it, or tune the engine again."


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedRate:
    """How fast an engine was with the sizes that are kept for a device."""

    images_per_s: Annotated[float, Range(0, above=True)]
    captions_per_image: Count = 1
    measured: str
    """Date and time, in ISO 8601."""


def read_tuning(folder: Path, device: str) -> Sizes | None:
    """The sizes that the engine in `folder` was found to be fastest with on the device of this name; None if not tuned.

    Raises ConfigError where tuning.json cannot be read.
    """
    path = folder / TUNING_FILE
    entry = _read(path).get(device)
    source = Source(path, AGAIN, passes_unknown=True)
    return None if entry is None else read_table(source, Sizes, entry, f"devices.{device}")


def write_tuning(folder: Path, device: str, entry: Mapping[str, Any]) -> None:
    """Adds a device's entry, or replaces it: `num_slots`, `prefill_images`, and how they were found."""
    path = folder / TUNING_FILE
    content = {"format": FORMAT, "devices": {**_read(path), device: entry}}
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


def read_tuned_rates(folder: Path) -> dict[str, TunedRate]:
    """How fast the engine in `folder` was on each device that it was tuned on, by the device's name.

    Raises ConfigError where tuning.json cannot be read.
    """
    path = folder / TUNING_FILE
    source = Source(path, AGAIN, passes_unknown=True)
    return {name: read_table(source, TunedRate, entry, f"devices.{name}") for name, entry in _read(path).items()}


def _read(path: Path) -> dict[str, Any]:
    """The entries by device; none where there is no file."""
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except ConfigError as error:
        raise ConfigError(f"{error} {AGAIN}") from error
    entries: dict[str, Any] = read_value(Source(path, AGAIN), dict[str, Any], "devices", content.get("devices"))
    return entries
