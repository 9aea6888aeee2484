"""The progress of a run in one line: what people look for first comes first, and what does not fit is left out."""

from collections.abc import Mapping, Sequence
from typing import Any

from recap_fast.pipeline.counters import Snapshot


def progress_line(s: Snapshot, width: int | None = None) -> str:
    """'1,566 of about 20,000 (8%)  61.3 images/s  ETA 5 min  shards 1/3  ...', of at most `width` characters.

    The failures stand last, without their statuses where those do not fit.
    """
    done = f"{s.kept + s.rows:,}"
    if s.total is not None and s.share is not None:
        done += f" of {'about ' * s.is_estimate}{s.total:,} ({int(100 * s.share)}%)"
    first, more = [done], [f"shards {s.shards_done}/{s.shards_total}"]
    if s.captioned:
        first.append(f"{s.images_per_s:.1f} images/s")
        more.append(f"{s.tokens_per_caption:.0f} tokens a caption")
        more.append(f"slowest stage: {s.limiting_stage} ({min(1.0, s.busy[s.limiting_stage]):.0%} busy)")
    if s.eta_s is not None:
        first.append(f"ETA {duration(s.eta_s)}")
    failed = failures(s.failed).removeprefix(", ")
    short = failed.partition(" (")[0]
    if width is None:
        return "  ".join([*first, *more, *([failed] if failed else [])])
    line = _join(first, width)
    line = _join([line, *more], width - len(f"  {short}") * bool(short))
    whole = _join([line, failed], width)
    return (whole if whole != line else _join([line, short], width))[:width]


def _join(parts: Sequence[str], width: int) -> str:
    """As many of the parts as fit; the first one in any case."""
    line = parts[0]
    for part in parts[1:]:
        if part and len(line) + 2 + len(part) <= width:
            line += f"  {part}"
    return line


def progress_fields(s: Snapshot) -> Mapping[str, Any]:
    """The same for machines."""
    return {
        "seconds": round(s.seconds, 3),
        "rows": s.rows,
        "captioned": s.captioned,
        "failed": s.failed,
        "images_per_s": round(s.images_per_s, 3),
        "tokens_per_caption": round(s.tokens_per_caption, 2),
        "cut": s.cut,
        "kept": s.kept,
        "total": s.total,
        "shards_done": s.shards_done,
        "shards_total": s.shards_total,
        "busy": {stage: round(share, 4) for stage, share in s.busy.items()},
        "limiting_stage": s.limiting_stage,
        "eta_s": None if s.eta_s is None else round(s.eta_s, 1),
    }


def failures(failed: Mapping[str, int]) -> str:
    """', 34 failed (20 truncated, 14 not_an_image)', or nothing."""
    if not failed:
        return ""
    listed = ", ".join(f"{count:,} {status}" for status, count in sorted(failed.items(), key=lambda item: -item[1]))
    return f", {sum(failed.values()):,} failed ({listed})"


def duration(seconds: float) -> str:
    """'45 s', '3 min', '2 h 05 min', '3 d 4 h'."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
