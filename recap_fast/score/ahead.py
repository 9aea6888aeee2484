"""An iterator that runs ahead on a thread of its own, no further than so many items."""

import contextvars
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from recap_fast.pipeline.channel import Channel

T = TypeVar("T")


def ahead(items: Iterable[T], capacity: int, name: str) -> Iterator[T]:
    """The items, made on a thread called `name`, of which at most `capacity` wait at a time.

    What making them raises is raised here, behind the items that were made before. Where the caller takes no more, the
    thread ends at its next item.
    """
    channel: Channel[T] = Channel(capacity)
    errors: list[BaseException] = []

    def make() -> None:
        try:
            for item in items:
                if not channel.put(item):
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are taken
            errors.append(error)
        finally:
            channel.close()

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(make,), name=name, daemon=True)
    thread.start()
    try:
        while not channel.is_finished:
            yield from channel.take(1)
        if errors:
            raise errors[0]
    finally:
        channel.cancel()
