"""What a person, or a log collector, sees of a run: lines on standard error, from snapshots of its progress.

On a terminal rich draws a live line again and again; elsewhere a plain line with the time comes now and then; with
`json` every event is one JSON object a line.
"""

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from recap_fast.addresses import scrub
from recap_fast.launch.progress_line import progress_fields, progress_line
from recap_fast.pipeline.counters import Progress

PER_SECOND = 4
"""How often a live line is drawn."""
PLAIN_S = (60.0, 10.0), (3600.0, 60.0), (float("inf"), 600.0)
"""Until the first number of seconds has passed, plain lines are the second number of seconds apart."""


class Reporter:
    """Writes events, and within `progress` what a run has done so far."""

    def __init__(self, log_format: str | None = "text", stream: TextIO | None = None):
        """`log_format`: text for people, json for machines, None for silence."""
        found = stream or sys.stderr
        self._stream = _PatientStream(found or io.StringIO())
        self._silent, self._json = log_format is None or found is None, log_format == "json"  # a daemon may have none
        self._live = not self._json and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.RLock()  # a signal handler may report while its thread does
        self._console: Any = None
        """A rich.console.Console while a live line is drawn."""

    def event(self, name: str, text: str, **fields: Any) -> None:
        """One line that stays: `text` for people, name and fields for machines."""
        if self._silent:
            return
        text = scrub(text)
        if self._json:
            shown = {key: scrub(value) if isinstance(value, str) else value for key, value in fields.items()}
            self._write(json.dumps({"event": name, "time": round(time.time(), 3), "message": text, **shown}))
        else:
            self._write(text)

    def result(self, **fields: Any) -> None:
        """For machines alone, the last line of a run: people have been told."""
        if self._json:
            self.event("result", f"The run ended: {fields['outcome']}.", **fields)

    @contextlib.contextmanager
    def progress(self, counters: Progress) -> Iterator[None]:
        """Shows the progress of a run meanwhile, from a thread of its own."""
        if self._silent:
            yield
            return
        with self._draw(counters) if self._live else self._list(counters):
            yield

    @contextlib.contextmanager
    def _draw(self, counters: Progress) -> Iterator[None]:
        """Has rich draw the line, and what is reported meanwhile above it."""
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        def draw() -> Text:
            console.width = columns = self._columns()
            return Text(progress_line(counters.snapshot(), columns - 1), no_wrap=True)

        console = Console(
            file=cast("TextIO", self._stream), force_terminal=True, highlight=False, width=self._columns()
        )
        with Live(
            console=console,
            get_renderable=draw,
            refresh_per_second=PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            self._console = console
            try:
                yield
            finally:
                self._console = None

    @contextlib.contextmanager
    def _list(self, counters: Progress) -> Iterator[None]:
        """Writes a line now and then, from a thread of its own."""
        done = threading.Event()

        def write() -> None:
            start = time.monotonic()
            while not done.wait(_pause(time.monotonic() - start)):
                snapshot = counters.snapshot()
                line = progress_line(snapshot)
                text = line if self._json else f"{time.strftime('%Y-%m-%dT%H:%M:%S')}  {line}"
                self.event("progress", text, **progress_fields(snapshot))

        thread = threading.Thread(target=write, name="recap-report", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _columns(self) -> int:
        """Width of the terminal: a line that wraps could not be drawn over. Some terminals say 0 for unknown."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:  # it is gone
            return 80

    def _write(self, line: str) -> None:
        """Writes a line, above the live one where there is one."""
        if (console := self._console) is not None:
            console.print(line, markup=False, emoji=False, soft_wrap=True)
            return
        with self._lock:
            self._stream.write(f"{line}\n")
            self._stream.flush()


def _pause(seconds: float) -> float:
    """Seconds until the next plain line, when so many have passed."""
    return next(pause for until, pause in PLAIN_S if seconds < until)


class _PatientStream(io.TextIOBase):
    """A stream that raises nothing: where nobody reads any more, or it is closed, a run goes on in silence."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (BlockingIOError, RuntimeError):  # a full pipe; a signal handler that interrupted another write
            return
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                _to_nowhere(self._stream.fileno())


def _to_nowhere(descriptor: int) -> None:
    """Drops what is buffered for a file descriptor, and what is written to it from now on."""
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
