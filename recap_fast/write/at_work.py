"""Lets others know that this process is at work on an output, and notices another one with the same shards.

Each process has a note (`workers.py`), which it writes anew now and then and removes in the end. It keeps nobody out.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence

from recap_fast.atomic import owner
from recap_fast.beat import every
from recap_fast.errors import OutputGoneError
from recap_fast.write.output_folder import WORKERS, OutputFolder
from recap_fast.write.usage import record_usage, usage_of
from recap_fast.write.workers import BEAT_S, OWN, Work, lives, note_name, of_same_shards, take_over, write_note

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def at_work(output: OutputFolder, shards: Sequence[str], work: Callable[[], Work]) -> Iterator[Callable[[], None]]:
    """Notes meanwhile what `work` says; in the end the run file is told what was used. Gives a function that has the
    note written at once.

    Warns if another process that lives has the same shards, whose names these are. A note that cannot be written ends
    nothing.
    """
    store = output.store
    name = note_name(shards, secrets.token_hex(4), owner())
    OWN.add(name)

    def write() -> None:
        write_note(store, name, work())

    def remove() -> None:
        store.delete([name])
        OWN.discard(name)

    with contextlib.suppress(OSError):  # the thread says so if it lasts
        write()
        _look_around(output, name)
    problem = f"{store.shown(name)} cannot be written, so `recap-fast status` is out of date"
    with every(BEAT_S, write, remove, problem) as write_now:
        is_ours = True
        try:
            yield write_now
        except OutputGoneError:  # if there is a run file, it is another run's
            is_ours = False
            raise
        finally:
            if is_ours:
                record_usage(output, usage_of(work()))


def _look_around(output: OutputFolder, name: str) -> None:
    """Warns of another process with the same shards. Records what those that have died had used; their notes go."""
    files = list(output.store.list(WORKERS))
    now_s = next((file.modified_s for file in files if file.name == name), time.time())
    others = {file.name: lives(file, now_s) for file in of_same_shards(files, name)}
    if any(others.values()):
        logger.warning(
            "another process is at work on the same shards of %s, so images are captioned twice: stop one of the two, "
            "or give each its own --part.",
            output.address,
        )
    for other, is_alive in others.items():
        if not is_alive and (work := take_over(output.store, other)) is not None:
            record_usage(output, usage_of(work))
