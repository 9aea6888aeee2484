"""Errors that the user can fix become one sentence and an exit code, not a traceback."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

from recap_fast.errors import ConfigError, ExitCode, RecapError


def exit_with_sentence(command: Callable[[], Any], say: Callable[[str], None]) -> None:
    """Calls a command; `say` is told what it fails with. Exits with 2 for usage and 1 for other failures."""
    try:
        command()
    except (RecapError, OSError) as error:
        say(f"recap-fast: {error}")
        sys.exit(ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.FAILURE)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leaves out the package's warnings meanwhile: another command or pass has given them."""
    logger = logging.getLogger("recap_fast")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
