"""A place where a thread hangs, and a deadline that passes when it does: none that a busy machine could miss."""

import threading
from collections.abc import Callable
from typing import Any

from support.guard import GUARD_S


class Hang:
    """Threads hang `here` until `release`."""

    def __init__(self) -> None:
        self.count = self._taken = 0
        """Of those that have come."""
        self._released = threading.Event()

    def here(self, *_: Any, **__: Any) -> Any:
        self.count += 1
        self._released.wait(GUARD_S)
        raise OSError("released")

    def take(self, *_: Any) -> bool:
        """Whether one hangs that nobody has given up; in place of Watch.give_up_if_stalled."""
        new = self.count > self._taken
        self._taken += new
        return new

    def wrap(self, function: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
        """The function, but it hangs when its arguments and result are such."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            return self.here() if when(result) else result

        return wrapped

    def release(self) -> None:
        self._released.set()
