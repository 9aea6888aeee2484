"""Finds the row that a user means, by its key, the name of its file, or its place in the output."""

from dataclasses import dataclass

import pyarrow.compute as pc

from recap_fast.errors import ConfigError
from recap_fast.joined import JoinedOutput
from recap_fast.progress import OnProgress, unwatched

MAX_LISTED = 10
"""Places that a message lists."""


@dataclass(frozen=True, slots=True)
class Place:
    """A row of an output."""

    shard: str
    index: int

    def __str__(self) -> str:
        return f"{self.shard}:{self.index}"


def find_place(joined: JoinedOutput, name: str, progress: OnProgress = unwatched) -> Place:
    """The place that is called SHARD:INDEX; if there is no such shard, the one row with this key or file name.

    A place comes first, because it names one row whatever the keys are. A key is looked for in all shards, of which
    `progress` is told. Raises ConfigError where no row has the name, or several have it.
    """
    shard, _, index = name.rpartition(":")
    if shard in joined.run.shards and index.isascii() and index.isdecimal():
        return Place(shard, int(index))
    found = []
    for number, each in enumerate(joined.run.shards):
        progress(number, len(joined.run.shards))
        for batch in joined.rows(each, ["index", "key", "file_name"]):
            has_name = pc.or_kleene(pc.equal(batch["key"], name), pc.equal(batch["file_name"], name))
            found += [Place(each, place) for place in batch.filter(has_name)["index"].to_pylist()]
    if not found:
        raise ConfigError(
            f"{joined.output.address} has no row {name!r}: give a key, a file name, or SHARD:INDEX, such as "
            f"{next(iter(joined.run.shards), 'SHARD')}:0."
        )
    if len(found) > 1:
        listed = ", ".join(map(str, found[:MAX_LISTED])) + (", ..." if len(found) > MAX_LISTED else "")
        raise ConfigError(f"{len(found):,} rows have the key or file name {name!r}: give one of {listed}.")
    return found[0]
