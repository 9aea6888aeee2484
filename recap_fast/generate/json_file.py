"""Reads a json file of a checkpoint or an engine directory; what cannot be read is a sentence for the user."""

import json
from pathlib import Path
from typing import Any

from recap_fast.errors import ConfigError
from recap_fast.generate.fields import shown

MAX_BYTES = 1 << 30
"""A file over it is none of these; the tokenizer.json of the largest vocabularies has some 30 MB."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a json file. Raises ConfigError where there is none."""
    try:
        content = json.loads(read_text(path))
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deep to be read.") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not json: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, expected an object: {shown(content)}.")
    return content


def check_readable(path: Path) -> None:
    """Raises ConfigError where this user may not read a file. Libraries in other languages say that it is not there."""
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise ConfigError(f"{path} cannot be read: permission denied. Change its mode or its owner.") from error
    except OSError:
        pass  # the caller has an error of its own


def read_text(path: Path) -> str:
    """A file's text, which is UTF-8, with a byte-order mark or without. Raises ConfigError where it cannot be read."""
    check_readable(path)
    try:
        if not path.is_file():
            raise FileNotFoundError(0, "No such file" if not path.exists() else "it is not a file")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size:,} bytes, which no such file has.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        hint = " A checkpoint is a folder with a config.json." if path.name == "config.json" else ""
        raise ConfigError(f"{path} cannot be read: {error.strerror}.{hint}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from error
