"""tuning.json in an engine's folder: the sizes that were measured to be fastest, an entry for each device by name.

Sizes decide how fast captions are made, not what they say, so the file is no part of what engine.json lists and of a
run's fingerprint. `tune` (bench/tune.py) adds entries, and an engine that is opened reads its device's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.atomic import atomic_write
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.spec import Sizes

TUNING_FILE, FORMAT = "tuning.json", 1


def read_tuning(folder: Path, device: str) -> Sizes | None:
    """The sizes that the engine in `folder` was found to be fastest with on the device of this name; None if not tuned.

    Raises ConfigError where tuning.json cannot be read.
    """
    entry = _read(folder / TUNING_FILE).get(device)
    return None if entry is None else Sizes(num_slots=entry["num_slots"], prefill_images=entry["prefill_images"])


def write_tuning(folder: Path, device: str, entry: Mapping[str, Any]) -> None:
    """Adds a device's entry, or replaces it: `num_slots`, `prefill_images`, and how they were found."""
    path = folder / TUNING_FILE
    content = {"format": FORMAT, "devices": {**_read(path), device: entry}}
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    """The entries by device; none where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries: dict[str, Any] = content["devices"]
        for entry in entries.values():
            EngineOptions(num_slots=entry["num_slots"], prefill_images=entry["prefill_images"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): delete it, or tune the engine again.") from error
    return entries
