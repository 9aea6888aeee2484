"""The done-record, one per shard, written last: counts of its rows, its input and its output.

Writes the report on a shard to a file that is whole or not there, and reads it back.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from recap_fast.records import ShardReport, ShardStatus
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.typed_json import read_json, typed

T = TypeVar("T")
logger = logging.getLogger(__name__)

FORMAT, FORMAT_WITHOUT_FLAGS = 3, 2
"""The second one is that of outputs whose rows have no flags either; see `run_file.READABLE_SCHEMAS`."""
MAX_BYTES = 16 << 20
"""Largest record that is read; a usual one has 1 kB."""


def write_record(output: OutputFolder, report: ShardReport) -> None:
    """Writes the record whole or not at all."""
    content = json.dumps({"format": FORMAT, **asdict(report)}, indent=2) + "\n"
    output.store.put(output.record(report.shard), content.encode())


@dataclass(frozen=True, slots=True)
class Counts:
    """What of a record says how far an output is: without the names of up to 1,000 files."""

    status: ShardStatus
    rows: int
    captioned: int
    failed: Mapping[str, int]


def read_record(output: OutputFolder, shard: str) -> ShardReport | None:
    """The record, or None. For one that cannot be read it is None, with a warning: the shard counts as not done."""
    return _read(ShardReport, output, shard)


def read_counts(output: OutputFolder, shard: str) -> Counts | None:
    """The counts of a record, or None; see `read_record`."""
    return _read(Counts, output, shard)


def _read(kind: type[T], output: OutputFolder, shard: str) -> T | None:
    name = output.record(shard)
    try:
        content = read_json(output.store, name, FORMAT, MAX_BYTES, FORMAT_WITHOUT_FLAGS)
        return typed(kind, {"flags": {}, **content} if content["format"] == FORMAT_WITHOUT_FLAGS else content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if output.is_out_of_reach(error):
            raise
        logger.warning("%s cannot be read (%s): its shard counts as not done", output.store.shown(name), error)
        return None
