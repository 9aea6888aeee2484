"""Errors that the user can fix become one sentence and an exit code, not a traceback."""

import contextlib
import errno
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from recap_fast.addresses import is_remote, scrub
from recap_fast.errors import ConfigError, ExitCode, RecapError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


def outcome_with_sentence(command: Callable[[], ExitCode], say: Callable[[str], None]) -> ExitCode:
    """The exit code of a command. If it fails, `say` gets the error without secrets: 2 for usage, 1 for the rest."""
    try:
        return command()
    except (RecapError, OSError) as error:
        say(f"recap-fast: {scrub(str(error))}")
        return ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.FAILURE


def exit_with_sentence(command: Callable[[], Any], say: Callable[[str], None]) -> None:
    """Calls a command, which may exit by itself, and exits with its exit code."""
    sys.exit(outcome_with_sentence(lambda: command() or ExitCode.COMPLETE, say))


def show_without_secrets(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Shows an error that nobody expected, as Python does, with the URLs in it made public."""
    if sys.stderr is not None:
        sys.stderr.write(scrub("".join(traceback.format_exception(kind, error, trace))))


def open_standard_streams() -> None:
    """Opens /dev/null in place of closed standard streams.

    Otherwise the next file that is opened would get the number of standard error, and what libraries write there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one


def flush_streams() -> None:
    """Writes out what standard streams hold, before a process ends at once."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not there
            stream.flush()


def check_writable(option: str, path: Path) -> None:
    """Raises ConfigError if a file of that name cannot be written, before any work is done for it."""
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.absolute().parent).close()
    except OSError as error:
        raise ConfigError(
            f"{option} {path} cannot be written ({error.strerror or error}): give another path."
        ) from error


@contextlib.contextmanager
def writing(option: str, path: str | Path) -> Iterator[None]:
    """Names the option and the path in an OSError about what the block writes. Errors about other files stay, and
    those that say themselves what to do; those of object stores name what they are about."""
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error, RecapError) else error
        is_of_store = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        if is_of_store and is_remote(str(path)) and str(path) in str(error):
            raise RecapError(f"{error}. Mend that, and run the same command again: it goes on from there.") from error
        if is_remote(str(path)) or isinstance(error, RecapError) or not _is_about(error, Path(path)):
            raise
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)
        advice = "make room there" if is_full else "mend that"
        raise RecapError(f"{option} {path} cannot be written ({error}): {advice}, or give another path.") from error


def _is_about(error: OSError, path: Path) -> bool:
    """Whether an error is about writing to a path. Without a file name it must be a disk error, or name the path."""
    if not isinstance(error.filename, str | bytes):
        return error.errno in _DISK_ERRORS or str(path) in str(error)
    file, path = Path(os.fsdecode(error.filename)).absolute(), path.absolute()
    is_beside = path.parent in file.parents and file.relative_to(path.parent).parts[0].startswith(".")
    return path in (file, *file.parents) or file in path.parents or is_beside


class StderrHandler(logging.Handler):
    """Shows log records as `run` does, 'warning: ...': above a progress bar, which takes over sys.stderr meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record's level and text."""
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not there
            sys.stderr.write(f"{record.levelname.lower()}: {self.format(record)}\n")


@contextlib.contextmanager
def quiet(name: str = "recap_fast") -> Iterator[None]:
    """Suppresses warnings of the package, or of a part of it, in its block: another command or pass gives them."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
