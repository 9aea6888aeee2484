"""Requests to an object store, tried again where that may help, for about two minutes without progress."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from recap_fast.store.failures import as_os_error, failure_of

T = TypeVar("T")
logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
PATIENCE_S = 120.0
"""A server that is restarted, or that slows down everyone, is back by then."""


def persistently(action: Callable[[], T], shown: str, progress: Callable[[], int] = lambda: 0) -> T:
    """What an action returns; where it fails in passing it is called again, after ever longer pauses.

    `shown` is the address it is about. While `progress` returns more and more, the time begins anew. Raises OSErrors
    that say what the server answered.
    """
    begun, num_tries, before = time.monotonic(), 0, progress()
    while True:
        num_tries += 1
        try:
            return action()
        except Exception as error:
            if not is_of_store(error):
                raise
            failure = failure_of(error)
            if progress() > before:
                begun, num_tries, before = time.monotonic(), 1, progress()
            pause_s = min(FIRST_PAUSE_S * 2.0 ** (num_tries - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
            if failure.kind != "passing" or time.monotonic() + pause_s > begun + PATIENCE_S:
                raise as_os_error(error, shown, num_tries) from None
            logger.warning("%s: %s; trying again", shown, failure.text)
        time.sleep(pause_s)


def is_of_store(error: Exception) -> bool:
    """Whether an error comes from an object store: obstore's own, and what it raises of Python's."""
    is_own = type(error).__module__ == "obstore.exceptions"
    return is_own or isinstance(error, FileNotFoundError | ConnectionError | TimeoutError)
