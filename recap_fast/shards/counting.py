"""How many rows a shard will have, without reading an image: from what lies beside it, its footer or its headers.

In goes a shard, out comes a `Count`. What cannot be read has none, and says why.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from recap_fast.addresses import is_remote, public_url, scrub, without_query
from recap_fast.errors import RecapError
from recap_fast.records import Selection, Shard
from recap_fast.shards.identity import identity, image_versions
from recap_fast.shards.local import open_regular, read_whole
from recap_fast.shards.locate import base_name, parent
from recap_fast.shards.patience import patiently, side_by_side
from recap_fast.shards.reader import open_shard
from recap_fast.shards.remote.access import network_errors, read_file
from recap_fast.shards.tar.start import count_start

Origin = Literal["stats", "footer", "rows", "listing", "headers"]
"""Where a count is from. rows: of a Parquet file whose footer has the rows, each of which may have several images."""
NUM_THREADS = 16
"""Look at shards at the same time: a store takes tens of milliseconds for each."""
_MAX_STATS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What is known of a shard."""

    shard: Shard
    size_bytes: int = 0
    stats: str | None = None
    """The address of its img2dataset's `_stats.json`."""
    images: int | None = None
    """Rows that it will have; None: not counted."""
    origin: Origin | None = None
    seen_bytes: int = 0
    """The images are those of so many of its bytes, from the first on."""
    problem: str | None = None
    """Why it, or a part of it, cannot be read."""

    @property
    def is_settled(self) -> bool:
        """Whether its images were counted, or cannot be."""
        return self.images is not None or self.problem is not None

    @property
    def is_whole(self) -> bool:
        """Whether the images are all that it has."""
        return self.images is not None and self.seen_bytes == self.size_bytes

    def has(self, images: int, origin: Origin, problem: str | None = None) -> "Count":
        """The same, counted."""
        return replace(self, images=images, origin=origin, seen_bytes=self.size_bytes, problem=problem)


def look_up(shards: Sequence[Shard]) -> list[Count]:
    """Sizes in bytes, and which tars have a `_stats.json`: from the listing of each folder where that has them."""
    counts = {shard.url: Count(shard=shard) for shard in shards if shard.kind != "folder"}
    folders: dict[str, list[Shard]] = {}
    for count in counts.values():
        folders.setdefault(parent(count.shard.url), []).append(count.shard)
    for found in side_by_side(lambda item: _listed(*item), folders.items(), NUM_THREADS):
        counts.update({count.shard.url: count for count in found})
    unknown = [count for count in counts.values() if not count.size_bytes]
    counts.update({count.shard.url: count for count in side_by_side(_asked, unknown, NUM_THREADS)})
    return [_of_listing(shard) if shard.kind == "folder" else counts[shard.url] for shard in shards]


def count_cheaply(count: Count, selection: Selection) -> Count:
    """From a `_stats.json` or the footer; as it came where neither has it."""
    if count.is_settled:
        return count
    if count.shard.kind == "parquet":
        return _guarded(count, lambda: _in_footer(count, selection))
    successes = None if count.stats is None else _successes(count.stats)
    return count if successes is None else count.has(successes, "stats")


def count_headers(count: Count, selection: Selection) -> Count:
    """From the headers of a tar: of a remote one, of those at its start."""
    if is_remote(count.shard.url):
        return _guarded(count, lambda: _at_start(count, selection))

    def index() -> Count:
        with open_shard(count.shard, selection) as reader:
            return replace(count, size_bytes=reader.identity.size_bytes).has(
                reader.num_samples, "headers", reader.problem
            )

    return _guarded(count, lambda: patiently(index))


def _listed(folder: str, shards: list[Shard]) -> list[Count]:
    stats = [f"{base_name(shard.url).rpartition('.')[0]}_stats.json" for shard in shards]
    if any("::" in shard.url or without_query(shard.url) != shard.url for shard in shards):
        return []
    try:
        versions = image_versions(folder, [*(base_name(shard.url) for shard in shards), *stats])
    except _errors():  # the files may be there for those who know their names
        return []
    counts = []
    for shard, name, version, beside in zip(shards, stats, versions, versions[len(shards) :], strict=False):
        size = 0 if version is None else int(version.partition(":")[0])
        is_there = shard.kind == "tar" and beside is not None and int(beside.partition(":")[0]) <= _MAX_STATS_BYTES
        counts.append(Count(shard=shard, size_bytes=size, stats=f"{folder}/{name}" if is_there else None))
    return counts


def _asked(count: Count) -> Count:
    return _guarded(count, lambda: replace(count, size_bytes=identity(count.shard).size_bytes))


def _of_listing(shard: Shard) -> Count:
    images = sum(file is not None for file in shard.files)
    return Count(shard=shard, size_bytes=identity(shard).size_bytes).has(images, "listing")


def _guarded(count: Count, action: Callable[[], Count]) -> Count:
    """What the action finds, or why it cannot be read."""
    try:
        return action()
    except _errors() as error:
        text = scrub(str(error)).removeprefix(f"{public_url(count.shard.url)} ")
        return replace(count, problem=text)


def _errors() -> tuple[type[Exception], ...]:
    """What reading an input raises; a json that is nested too deep raises RecursionError."""
    return RecapError, ValueError, RecursionError, *network_errors()


def _successes(address: str) -> int | None:
    """The samples of a tar, as img2dataset has written them down; None where they are not to be read there."""
    try:
        if is_remote(address):
            content = read_file(address, _MAX_STATS_BYTES)[0] or b""
        else:
            with open_regular(address) as file:
                content = read_whole(file, _MAX_STATS_BYTES)
        stats = json.loads(content)
    except _errors():
        return None
    successes = stats.get("successes") if isinstance(stats, dict) else None
    return successes if type(successes) is int and successes >= 0 else None


def _in_footer(count: Count, selection: Selection) -> Count:
    from recap_fast.shards.table.count import count_in_footers  # pyarrow: only where there is a Parquet file

    images, is_exact = count_in_footers(count.shard.url, selection)
    return count.has(images, "footer" if is_exact else "rows")


def _at_start(count: Count, selection: Selection) -> Count:
    start = count_start(count.shard, count.size_bytes, selection)
    return replace(count, images=start.rows, origin="headers", seen_bytes=start.num_bytes, problem=start.problem)
