"""The done-record, one per shard, written last: counts of its rows, its input and its output.

Writes the report on a shard to a file that is whole or not there, and reads it back.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from recap_fast.atomic import atomic_write
from recap_fast.records import ShardReport
from recap_fast.write.typed_json import read_json, typed

logger = logging.getLogger(__name__)

FORMAT = 2
MAX_BYTES = 16 << 20
"""Largest record that is read; a usual one has 1 kB."""


def write_record(path: Path, report: ShardReport, within: Path | None = None) -> None:
    """Writes the record whole or not at all; `within`, a folder above it, must be there already."""
    atomic_write(path, (json.dumps({"format": FORMAT, **asdict(report)}, indent=2) + "\n").encode(), within)


def read_record(path: Path) -> ShardReport | None:
    """The record, or None. For one that cannot be read it is None, with a warning: the shard counts as not done."""
    try:
        return typed(ShardReport, read_json(path, FORMAT, MAX_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): its shard counts as not done", path, error)
        return None
