"""The done-record, one per shard, written last: what the shard amounts to, its input and its output.

In goes the report of a finished shard, out comes a file that is whole or not there, and the other way round.
"""

import json
import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from recap_fast.atomic import atomic_write
from recap_fast.records import Identity, OutputFile, ShardReport

logger = logging.getLogger(__name__)

FORMAT = 2


def write_record(path: Path, report: ShardReport, within: Path | None = None) -> None:
    """Writes the record whole or not at all; `within`, a folder above it, must be there already."""
    atomic_write(path, (json.dumps({"format": FORMAT, **asdict(report)}, indent=2) + "\n").encode(), within)


def read_record(path: Path) -> ShardReport | None:
    """The record; None where there is none, or none that can be read: the shard is not done then."""
    try:
        return _report(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read (%r): its shard counts as not done", path, error)
        return None


def _report(content: dict[str, Any]) -> ShardReport:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, not {FORMAT}")
    given = {field.name: content[field.name] for field in fields(ShardReport)}
    for name, kind in (("input", Identity), ("output", OutputFile)):
        given[name] = given[name] and kind(**given[name])
    return ShardReport(**given)
