"""What a person, or a log collector, sees of a run: lines on standard error, from snapshots of its progress.

On a terminal one live line is redrawn; elsewhere a plain line comes every ten seconds; with `json` every event is one
JSON object a line.
"""

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from recap_fast.addresses import scrub
from recap_fast.pipeline.counters import RunCounters, Snapshot

LIVE_S, PLAIN_S = 0.5, 10.0


class Reporter:
    """Writes events, and within `progress` what a run has done so far."""

    def __init__(self, log_format: str | None = "text", stream: TextIO | None = None):
        """`log_format`: text for people, json for machines, None for silence."""
        found = stream or sys.stderr
        self._stream = found or io.StringIO()
        self._silent, self._json = log_format is None or found is None, log_format == "json"  # a daemon may have none
        self._live = not self._json and self._stream.isatty()
        self._lock = threading.RLock()  # a signal handler may report while its thread does
        self._line = ""

    def event(self, name: str, text: str, **fields: Any) -> None:
        """One line that stays: `text` for people, name and fields for machines."""
        if self._silent:
            return
        text = scrub(text)
        if self._json:
            shown = {key: scrub(value) if isinstance(value, str) else value for key, value in fields.items()}
            self._write(json.dumps({"event": name, "time": round(time.time(), 3), "message": text, **shown}) + "\n")
        else:
            self._write(f"{text}\n")

    @contextlib.contextmanager
    def progress(self, counters: RunCounters) -> Iterator[None]:
        """Shows the progress of a run meanwhile, from a thread of its own."""
        if self._silent:
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=(counters, done), name="recap-report", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            if self._line:
                self._redraw("")

    def _run(self, counters: RunCounters, done: threading.Event) -> None:
        while not done.wait(LIVE_S if self._live else PLAIN_S):
            snapshot = counters.snapshot()
            if self._live:
                self._redraw(progress_line(snapshot)[: self._columns() - 1])
            else:
                self.event("progress", progress_line(snapshot), **progress_fields(snapshot))

    def _columns(self) -> int:
        """Of the terminal: a line that wraps could not be drawn over. Some terminals say 0, and mean unknown."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:  # it is gone
            return 80

    def _redraw(self, line: str) -> None:
        with self._lock:
            self._line = line
            self._send(f"\r{line}\x1b[K")

    def _write(self, text: str) -> None:
        """Writes above the live line, which is drawn again below."""
        with self._lock:
            self._send(f"\r\x1b[K{text}{self._line}" if self._line else text)

    def _send(self, text: str) -> None:
        """Where nobody reads any more, or the stream is closed, the run goes on in silence."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except (BlockingIOError, RuntimeError):  # a full pipe; a signal handler that interrupted another write
            return
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                _to_nowhere(self._stream.fileno())


def _to_nowhere(descriptor: int) -> None:
    """What is written to it from now on, and what is in buffers, is dropped."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


class ReporterHandler(logging.Handler):
    """Sends the program's own log records through a reporter, so that they do not break the live line."""

    def __init__(self, reporter: Reporter):
        super().__init__(logging.INFO)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a record; a traceback follows where it has one."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self._reporter.event(record.levelname.lower(), f"{record.levelname.lower()}: {text}", logger=record.name)


def progress_line(s: Snapshot) -> str:
    """'1,532 done, 34 failed (20 truncated, 14 not_an_image), 61.2 images/s, ...'."""
    parts = [f"shards {s.shards_done}/{s.shards_total}", f"{s.rows:,} done{failures(s.failed)}"]
    if s.captioned:
        parts += [f"{s.images_per_s:.1f} images/s", f"{s.tokens_per_caption:.0f} tokens/caption"]
        parts += [f"limit: {s.limiting_stage} {min(1.0, s.busy[s.limiting_stage]):.0%}"]
    if s.eta_s is not None:
        parts.append(f"ETA {duration(s.eta_s)}")
    return "  ".join(parts)


def progress_fields(s: Snapshot) -> Mapping[str, Any]:
    """The same for machines."""
    return {
        "seconds": round(s.seconds, 3),
        "rows": s.rows,
        "captioned": s.captioned,
        "failed": s.failed,
        "images_per_s": round(s.images_per_s, 3),
        "tokens_per_caption": round(s.tokens_per_caption, 2),
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
