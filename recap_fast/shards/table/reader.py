"""Samples of a Parquet file with image bytes: a binary column, the Hub's image struct {bytes, path}, or lists of these.

In go a file and what of it is captioned; out come samples, row group by row group. Columns named as in img2dataset's or
DataComp's tables become the sample's fields, a column `json` is what a tar has as .json, all others are its metadata.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import OK, UNREADABLE, Identity, Sample, Selection, Shard
from recap_fast.shards.sample import FURTHER_IMAGES, MAX_IMAGE_BYTES, RawSample, to_sample
from recap_fast.shards.table.count import ImageCount, count_images
from recap_fast.shards.table.file import TableFile, shard_errors
from recap_fast.shards.table.images import ImageCell
from recap_fast.shards.table.layout import find_layout
from recap_fast.shards.table.rows import ImageRows, SideRows


class TableReader:
    """Reads one Parquet file. Raises ShardError where it is none."""

    def __init__(self, shard: Shard, identity: Identity, selection: Selection) -> None:
        self.identity = identity
        self.left_out: Mapping[str, int] = {}
        self.problem: str | None = None
        self._shard = shard
        self._takes_all = selection.images == "all" and selection.image_key is None
        self._table = TableFile(shard.url)
        try:
            with shard_errors():
                self._layout = find_layout(self._table, selection)
                self._counts = [self._count(group) for group in range(self._table.num_groups)]
                columns = (*self._layout.images, *self._layout.further)
                self._names_columns = len(columns) > 1 or columns[0].is_list
                num_rows = sum(map(self._table.group_rows, range(self._table.num_groups)))
        except BaseException as error:
            self.close()
            if isinstance(error, ConfigError):  # the other files of the run have the columns that the user named
                raise ShardError(str(error)) from error
            raise
        self.num_samples = sum(count.num_samples for count in self._counts)
        if num_rows != self._table.num_rows:
            self.problem = f"its footer says {self._table.num_rows:,} rows, and its row groups have {num_rows:,}"
        if num_left_out := sum(count.num_left_out for count in self._counts):
            self.left_out = {FURTHER_IMAGES: num_left_out}

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]:
        """The samples whose index is not in `done`, in order; row groups without such are not read."""
        first = 0
        for group, count in enumerate(self._counts):
            end = first + count.num_samples
            known = set(done[(first <= done) & (done < end)].tolist())
            if len(known) < count.num_samples:
                yield from self._group(group, first, end, known)
            first = end

    def close(self) -> None:
        """Closes the file."""
        self._table.close()

    def _group(self, group: int, first: int, end: int, done: set[int]) -> Iterator[Sample]:
        num_rows = self._table.group_rows(group)
        images = ImageRows(self._table, self._layout.images, group, takes_all=self._takes_all)
        beside = SideRows(self._table, self._layout, group)
        index = first
        for row in range(num_rows):
            found = images.at(row)
            if found is None:
                break
            for cell in found[: end - index]:
                if index not in done:
                    yield self._sample(index, cell, beside, row)
                index += 1
        self._note(images.damage and f"row group {group} cannot be read from row {index:,}: {images.damage}")
        self._note(beside.damage and f"row group {group}: {beside.damage}")
        if images.damage is not None:
            # by a damaged footer they may be more than there are bytes
            for lost in range(index, min(end, index + max(self.identity.size_bytes, 1))):
                if lost not in done:
                    yield self._lost(lost, images.damage)
        elif index < end:
            self._note(f"row group {group} has {index - first:,} of the {end - first:,} samples that its footer says")
        for image in self._layout.images:
            num_values = self._table.num_values(image.leaf, group)
            if num_values is not None and num_values > num_rows and not image.is_list:
                name = image.column.name
                self._note(
                    f"row group {group} has {num_rows:,} rows by its footer, and its column {name!r} {num_values:,}"
                )

    def _sample(self, index: int, cell: ImageCell, beside: SideRows, row: int) -> Sample:
        side = beside.at(row)
        image, status, error = _content(cell)
        path = cell.path or side.path or ""
        raw = RawSample(
            key=side.key if side.key is not None else path.rpartition(".")[0] or path or f"{index:09d}",
            file_name=path or (cell.column if self._names_columns else None),
            version=self.identity.text,
            image=image,
            caption=side.caption,
            metadata=side.json,
            record=side.record,
            fields=side.fields,
            members=side.members,
            status=status,
            error=error,
            warnings=side.warnings,
        )
        return to_sample(self._shard.name, index, raw)

    def _lost(self, index: int, damage: str) -> Sample:
        error = f"its row group cannot be read: {damage}"
        raw = RawSample(key=f"{index:09d}", version=self.identity.text, status=UNREADABLE, error=error)
        return to_sample(self._shard.name, index, raw)

    def _count(self, group: int) -> ImageCount:
        return count_images(self._table, self._layout, group, takes_all=self._takes_all)

    def _note(self, problem: str | None) -> None:
        self.problem = self.problem or problem


def _content(cell: ImageCell) -> tuple[bytes, str, str | None]:
    """Bytes, status and error of an image."""
    if cell.content is None:
        return (
            b"",
            "missing_image",
            f"the column {cell.column!r} holds no image here" + (cell.path and f", only the path {cell.path}"),
        )
    buffer = cell.content.as_buffer()
    if buffer.size > MAX_IMAGE_BYTES:
        return b"", "too_large", f"the image has {buffer.size:,} bytes"
    return buffer.to_pybytes(), OK, None
