"""Reads a json file of a checkpoint; what cannot be read is a sentence for the user."""

import json
from pathlib import Path
from typing import Any

from recap_fast.errors import ConfigError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a json file. Raises ConfigError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. A checkpoint is a folder with a config.json."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not json: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, expected an object.")
    return content
