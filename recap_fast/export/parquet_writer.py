"""A Parquet file of rows with images, as the Hub's viewer and `load_dataset` want it; and whether it reads back.

The viewer reads a page of rows from whole row groups, of up to 300 MB (https://huggingface.co/docs/dataset-viewer).
Pages have an index, and are cut by content, so that the Hub stores once what two versions have in common.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from recap_fast.errors import RecapError
from recap_fast.export.features import IMAGE, with_features
from recap_fast.records import OK, Sample

GROUP_BYTES = 32 << 20
"""Most bytes of images and text in a row group of more than one row."""
GROUP_ROWS, GROUP_ROWS_OF_TEXT = 1000, 20_000
"""Most rows of a row group, with images and without."""
_REPEATED = ("shard", "status", "finish_reason", "name", "prompt")
"""Columns, and parts of `captions`, that have few values."""


def image_of(sample: Sample, status: str) -> dict[str, Any] | None:
    """The image as a Parquet column has it; None for a row without a caption, which a reader might fail to decode."""
    return {"bytes": sample.image, "path": sample.file_name} if status == OK else None


def digest_of(sample: Sample) -> str | None:
    """The SHA-256 of its image, in hex."""
    digest = sample.image_sha256 or sample.sha256
    return None if digest is None else digest.lower()


class ParquetFile:
    """Writes one file; use it as a context, and `verify` it behind that."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._path, self._schema = path, with_features(schema)
        self._has_images = IMAGE in schema.types
        self._group_rows = GROUP_ROWS if self._has_images else GROUP_ROWS_OF_TEXT
        self._rows: list[Mapping[str, Any]] = []
        self._size = 0
        self._digests: list[str | None] = []

    def __enter__(self) -> Self:
        leaves = [path for field in self._schema for path in _leaves(field.name, field.type)]
        without_images = [path for path in leaves if not path.startswith("image.")]
        self._writer = pq.ParquetWriter(
            self._path,
            self._schema,
            compression={**dict.fromkeys(leaves, "zstd"), "image.bytes": "none"},
            use_dictionary=[path for path in without_images if path.rpartition(".")[2] in _REPEATED],
            write_statistics=without_images,
            write_page_index=True,
            use_content_defined_chunking=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()

    def add(self, row: Mapping[str, Any], image_digest: str | None = None) -> None:
        """Writes a row, which has the columns of the schema; the digest is the SHA-256 of its image, in hex."""
        image = row.get("image")
        size = sum(map(_size, row.values()))
        if self._rows and (self._size + size > GROUP_BYTES or len(self._rows) == self._group_rows):
            self._flush()
        self._rows.append(row)
        self._size += size
        self._digests.append(image_digest if image else None)

    def verify(self) -> None:
        """Raises RecapError unless the file has as many rows as were added, and their images in order."""
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            if file.metadata.num_rows != len(self._digests):
                raise RecapError(
                    f"{self._path.parent}: a file has {file.metadata.num_rows:,} rows, not {len(self._digests):,}."
                )
            found = self._read_images(file) if self._has_images else self._digests
        if found != self._digests:
            raise RecapError(f"{self._path.parent}: a file has other images than were written: is the disk damaged?")

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows, self._size = [], 0

    def _read_images(self, file: pq.ParquetFile) -> list[str | None]:
        digests: list[str | None] = []
        for number in range(file.num_row_groups):
            column = file.read_row_group(number, columns=["image.bytes"], use_threads=False)["image"]
            images = (each for chunk in column.chunks for each in chunk.field("bytes"))
            digests += [hashlib.sha256(each.as_buffer()).hexdigest() if each.is_valid else None for each in images]
        return digests


def _leaves(name: str, kind: pa.DataType) -> Iterator[str]:
    """The paths of a column as Parquet has them: of a list and a struct those of what is in it."""
    if pa.types.is_list(kind):
        yield from _leaves(f"{name}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{name}.{field.name}", field.type)
    else:
        yield name


def _size(value: Any) -> int:
    """The bytes of an image, and about those of texts, lists and structs of them among it."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0
