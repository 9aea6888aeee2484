"""How one thread of a run hands things to the next: bounded, with an end, and with a way to give up."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from recap_fast.records import Request, Row
from recap_fast.write.assembly import EndOfShard

T = TypeVar("T")
DECODE_BATCH = 32
"""Images decoded at once. The pixels that wait for the engine are those of four batches at most, 128 images or 43 MB at
336 px, in the memory that the decoder left them in; beside them, those of requests that the engine has taken and not
yet prefilled, one a slot at most."""


class Channel(Generic[T]):
    """Items from one thread to another in order, at most `capacity` of them at a time.

    The sender closes it behind the last item. Any thread may cancel it: from then on nothing goes in or comes out.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = self._cancelled = False

    def put(self, item: T) -> bool:
        """Waits for room and sends an item; False where the channel is cancelled, so that nobody will take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or len(self._items) < self._capacity)
            if not self._cancelled:
                self._items.append(item)
                self._changed.notify_all()
            return not self._cancelled

    def take(self, at_most: int, timeout_s: float | None = None) -> list[T]:
        """Waits for an item, for `timeout_s` at most, and takes it with those behind it, up to `at_most`.

        The list is empty where none came in time, or none will come any more (`is_finished`).
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._closed or self._cancelled, timeout_s)
            if self._cancelled:
                return []
            taken = [self._items.popleft() for _ in range(min(at_most, len(self._items)))]
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Says that no item follows."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Drops all items and wakes whoever waits at either end."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @property
    def is_finished(self) -> bool:
        """Whether `take` will give nothing any more."""
        with self._changed:
            return self._cancelled or (self._closed and not self._items)


class Window:
    """Bounds what has been read and is not yet in order, in samples and in bytes."""

    def __init__(self, max_samples: int, max_bytes: int):
        self._max_samples, self._max_bytes = max_samples, max_bytes
        self._num_samples = self._num_bytes = 0
        self._changed = threading.Condition()
        self._cancelled = False

    def enter(self, num_bytes: int) -> bool:
        """Waits for room for a sample; False where the window is cancelled. A single one may have any size."""
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or self._has_room(num_bytes))
            self._num_samples += 1
            self._num_bytes += num_bytes
            return not self._cancelled

    def leave(self, num_samples: int, num_bytes: int) -> None:
        """Makes room: samples have come into order, or bytes have done their work."""
        with self._changed:
            self._num_samples -= num_samples
            self._num_bytes -= num_bytes
            self._changed.notify_all()

    @property
    def content(self) -> tuple[int, int]:
        """How many samples are in it, and how many bytes."""
        with self._changed:
            return self._num_samples, self._num_bytes

    def cancel(self) -> None:
        """Wakes whoever waits; nothing enters any more."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def _has_room(self, num_bytes: int) -> bool:
        if not self._num_samples:
            return True
        return self._num_samples < self._max_samples and self._num_bytes + num_bytes <= self._max_bytes


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of one run."""

    window: Window
    samples: Channel[Row]
    ready: Channel[tuple[Row, list[Request]]]
    rows: Channel[Row | EndOfShard]

    @classmethod
    def make(cls, window: Window) -> "Channels":
        """Channels with capacities that suit the decoder's batches."""
        return cls(window, Channel(4 * DECODE_BATCH), Channel(2 * DECODE_BATCH), Channel(4 * DECODE_BATCH))

    def stop(self) -> None:
        """Ends reading and decoding; finished rows still go to disk."""
        for channel in (self.window, self.samples, self.ready):
            channel.cancel()
