"""The progress of a run in one line: what people look for first comes first, and what does not fit is left out."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from recap_fast.pipeline.counters import Snapshot, Workers
from recap_fast.text import counted


def progress_line(s: Snapshot, width: int | None = None) -> str:
    """'1,566 of about 20,000 (8%)  61.3 images/s  ETA 5 min  shards 1/3  ...', of at most `width` characters.

    With 40 columns the time to go is there in any case.
    """
    line: dict[int, str] = {}
    for place, text in _parts(s):
        tried = {**line, place: text}
        if text and (width is None or not line or len(_join(tried)) <= width):
            line = tried
    return _join(line)[:width]


def _parts(s: Snapshot) -> Iterator[tuple[int, str]]:
    """Places in the line and what stands there, the most important first; a later text takes the place of a shorter."""
    done, failed = f"{s.kept + s.rows:,}", failures(s.failed).removeprefix(", ")
    if s.total is None or s.share is None:
        yield 0, f"{done} done"
    else:
        share = f"({int(100 * s.share)}%)"
        yield 0, f"{done} {share}"
        yield 2, "" if s.eta_s is None else f"ETA {duration(s.eta_s)}"
        yield 0, f"{done} of {'about ' * s.is_estimate}{s.total:,} {share}"
    if s.workers is not None:
        yield 1, _workers(s.workers)
    elif s.captioned:
        yield 1, f"{s.images_per_s:.1f} images/s"
    yield 6, failed.partition(" (")[0]
    yield 3, f"shards {s.shards_done}/{s.shards_total}"
    if s.captioned:
        yield 4, f"{s.tokens_per_caption:.0f} tokens a caption"
        yield 5, f"slowest stage: {s.limiting_stage} ({min(1.0, s.busy[s.limiting_stage]):.0%} busy)"
    yield 6, failed


def _workers(w: Workers) -> str:
    """'61.3 images/s (8 workers, 7.7 each, 2 starting)'."""
    others = ((w.starting, "starting"), (w.waiting, "waiting"))
    parts = [counted(w.num, "worker"), f"{w.images_per_s / w.num:.1f} each" if w.num > 1 else ""]
    parts += [f"{num:,} {what}" if num else "" for num, what in others]
    return f"{w.images_per_s:.1f} images/s ({', '.join(filter(None, parts))})"


def _join(line: Mapping[int, str]) -> str:
    return "  ".join(line[place] for place in sorted(line))


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
        "shared": s.shared,
        "kept": s.kept,
        "held_s": round(s.held_s, 3),
        "images_per_hour_held": round(s.images_per_hour_held, 1),
        "total": s.total,
        "shards_done": s.shards_done,
        "shards_total": s.shards_total,
        "busy": {stage: round(share, 4) for stage, share in s.busy.items()},
        "limiting_stage": s.limiting_stage,
        "eta_s": None if s.eta_s is None else round(s.eta_s, 1),
        **({} if s.workers is None else {"workers": asdict(s.workers)}),
    }


def failures(failed: Mapping[str, int]) -> str:
    """', 34 failed (20 truncated, 14 not_an_image)', or nothing."""
    if not failed:
        return ""
    listed = ", ".join(f"{count:,} {status}" for status, count in sorted(failed.items(), key=lambda item: -item[1]))
    return f", {sum(failed.values()):,} failed ({listed})"


def duration(seconds: float) -> str:
    """'0.4 s', '45 s', '3 min', '2 h 05 min', '3 d 4 h'."""
    minutes = round(seconds / 60)
    if 0 < seconds < 0.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
