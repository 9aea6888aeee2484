"""The done-record, one per shard, written last: what the shard amounts to, its input and its output.

In goes a report of a finished shard, out comes a file that is whole or not there, and the other way round.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recap_fast.atomic import atomic_write
from recap_fast.records import Identity, ShardReport

logger = logging.getLogger(__name__)

FORMAT = 1
Status = Literal["complete", "truncated", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneRecord:
    """The content of a done-record."""

    report: ShardReport
    url: str
    identity: Identity | None
    """Of the input when it was read; None where it could not be."""
    output_sha256: str | None
    output_bytes: int | None
    """None where the shard has no output."""
    finished_ns: int
    """Since 1970."""


def write_record(path: Path, record: DoneRecord) -> None:
    """Writes the record whole or not at all."""
    report = record.report
    content = {
        "format": FORMAT,
        "shard": report.shard,
        "url": record.url,
        "status": report.status,
        "rows": report.rows,
        "captioned": report.captioned,
        "failed": dict(report.failed),
        "num_tokens": report.num_tokens,
        "seconds": {stage: round(seconds, 3) for stage, seconds in report.seconds.items()},
        "error": report.error,
        "input": record.identity and {"size_bytes": record.identity.size_bytes, "version": record.identity.version},
        "output": record.output_sha256 and {"sha256": record.output_sha256, "size_bytes": record.output_bytes},
        "finished_ns": record.finished_ns,
    }
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


def read_record(path: Path) -> DoneRecord | None:
    """The record; None where there is none, or none that can be read: the shard is not done then."""
    try:
        content = json.loads(path.read_bytes())
        return _record(content)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read (%r): its shard counts as not done", path, error)
        return None


def _record(content: Mapping[str, Any]) -> DoneRecord:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, not {FORMAT}")
    version, output = content["input"], content["output"] or {}
    report = ShardReport(
        shard=content["shard"],
        status=content["status"],
        rows=content["rows"],
        captioned=content["captioned"],
        failed=content["failed"],
        num_tokens=content["num_tokens"],
        seconds=content["seconds"],
        error=content["error"],
    )
    return DoneRecord(
        report=report,
        url=content["url"],
        identity=Identity(version["size_bytes"], version["version"]) if version else None,
        output_sha256=output.get("sha256"),
        output_bytes=output.get("size_bytes"),
        finished_ns=content["finished_ns"],
    )
