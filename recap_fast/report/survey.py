"""One pass over the rows of an output: its figures, the rows of its gallery, and what a join of two outputs needs."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa

from recap_fast.joined import JoinedOutput
from recap_fast.report import beside, choice, figures
from recap_fast.report.beside import Place
from recap_fast.report.figures import Figures
from recap_fast.report.texts import Texts

_COLUMNS = tuple(dict.fromkeys([*figures.COLUMNS, *choice.COLUMNS, *beside.COLUMNS]))


def survey(
    joined: JoinedOutput, texts: Texts, watch: Iterable[Callable[[pa.Table], object]], on_shard: Callable[[], object]
) -> Figures:
    """Counts all rows, finished or not; each `watch` gets them, too. `on_shard` is called after each shard.

    Raises RecapError for a file of the output that cannot be read.
    """
    watching = tuple(watch)

    def batches() -> Iterator[pa.RecordBatch]:
        for name in joined.run.shards:
            yield from joined.rows(name, _COLUMNS)
            on_shard()

    return figures.count(batches(), texts, lambda rows: [look(rows) for look in watching])


def read_places(joined: JoinedOutput, places: Collection[Place]) -> dict[Place, dict[str, Any]]:
    """The rows at some places, with the columns of the gallery."""
    wanted = by_shard(places)
    found = {}
    for name, indices in wanted.items():
        for batch in joined.rows(name, choice.COLUMNS):
            for number, index in enumerate(batch["index"].to_pylist()):
                if index in indices:
                    found[Place(name, index)] = choice.cut(batch.slice(number, 1).to_pylist()[0])
    return found


def by_shard(places: Iterable[Place]) -> dict[str, set[int]]:
    """The indices of each shard, in the order of their names."""
    found: dict[str, set[int]] = {}
    for place in sorted(places):
        found.setdefault(place.shard, set()).add(place.index)
    return found
