"""A progress bar on standard error for the commands that are no runs; only where standard error is a terminal."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click


class Bar:
    """Shows how far a command is, once it has begun: an error before that shows nothing but itself."""

    def __init__(self, label: str, *, is_bytes: bool = False):
        self._label, self._is_bytes = label, is_bytes
        self._bar: Any = None

    def show(self, done: int, total: int) -> None:
        """So much is done of all there is to do."""
        if not is_watched():
            return
        if self._bar is None:
            self._bar = _make_bar(self._is_bytes)
            self._task = self._bar.add_task(self._label, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        if self._bar is None:
            click.echo(line, err=True)
        else:
            self._bar.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()


@contextlib.contextmanager
def bar(label: str, *, is_bytes: bool = False) -> Iterator[Bar]:
    """A bar that is gone in the end. `is_bytes`: what is counted are bytes."""
    made = Bar(label, is_bytes=is_bytes)
    try:
        yield made
    finally:
        made.close()


def is_watched() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def _make_bar(is_bytes: bool) -> Any:
    from rich import progress
    from rich.console import Console

    amount = progress.DownloadColumn() if is_bytes else progress.MofNCompleteColumn()
    columns = ("{task.description}", progress.BarColumn(), progress.TaskProgressColumn(), amount)
    return progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True), transient=True)
