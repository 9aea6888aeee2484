"""Samples of a Parquet file with image bytes: a binary column, or the Hub's image struct {bytes, path}.

In go a file and, where the names say too little, which columns hold image and caption; out come samples, a few rows at
a time. Columns named as in img2dataset's or DataComp's tables become the sample's fields, the others its metadata.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import OK, UNREADABLE, Identity, Sample, Selection, Shard
from recap_fast.shard_set import is_remote
from recap_fast.shards.local import open_regular
from recap_fast.shards.remote import RemoteFile, network_errors
from recap_fast.shards.sample import MAX_IMAGE_BYTES, RawSample, to_sample

BATCH_ROWS = 32
BUFFER_BYTES = 1 << 20
_IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "bytes", "image_bytes", "img_bytes", "image_data", "data")
_CAPTION_NAMES = ("org_caption", "caption", "text", "txt", "alt_text")
_KEY_NAMES = ("key", "__key__")
_FIELD_NAMES = ("url", "uid", "sha256")


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column of a file holds what; None where there is none."""

    image: str
    caption: str | None
    key: str | None
    fields: Mapping[str, str]
    """url, uid, sha256: the columns that hold them."""
    metadata: tuple[str, ...]
    """The columns without a place of their own."""


def open_table(url: str) -> pq.ParquetFile:
    """A Parquet file; `close(force=True)` closes it. Raises ShardError where it is none."""
    try:
        if is_remote(url):
            file = RemoteFile(url)
        else:
            open_regular(url).close()  # a pipe would be waited for
            file = pa.OSFile(url, "rb")
        return pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, *network_errors()) as error:
        raise ShardError(f"is no Parquet file that can be read: {error}") from error


def find_layout(schema: pa.Schema, selection: Selection) -> Layout:
    """Which columns to read.

    Raises ShardError where no column holds images, and ConfigError where one that the user names is not there or not of
    a fitting type.
    """
    image = image_column(schema, selection.image_column)
    if image is None:
        raise ShardError(f"has no column with image bytes; its columns are: {', '.join(schema.names)}")
    caption = _caption_column(schema, selection.caption_column)
    key = _first(schema, _KEY_NAMES, lambda kind: pa.types.is_string(kind) or pa.types.is_integer(kind))
    fields = {name: column for name in _FIELD_NAMES if (column := _first(schema, (name,), pa.types.is_string))}
    placed = {image, caption, key, *fields.values()}
    return Layout(
        image=image,
        caption=caption,
        key=key,
        fields=fields,
        metadata=tuple(f.name for f in schema if f.name not in placed and not _has_binary(f.type)),
    )


def _caption_column(schema: pa.Schema, name: str | None) -> str | None:
    return _named(schema, name) if name else _first(schema, _CAPTION_NAMES, pa.types.is_string)


class TableReader:
    """Reads one Parquet file, row group by row group. Raises ShardError where it is none."""

    def __init__(self, shard: Shard, identity: Identity, selection: Selection) -> None:
        self.identity = identity
        self.left_out: Mapping[str, int] = {}
        self.problem: str | None = None
        self._shard = shard
        self._table = open_table(shard.url)
        try:
            self._layout = find_layout(self._table.schema_arrow, selection)
        except (ConfigError, ShardError) as error:  # the other files of the run have the columns that the user named
            self.close()
            raise ShardError(str(error)) from error
        self.num_samples: int = self._table.metadata.num_rows

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]:
        """The samples whose index is not in `done`, in order; row groups without such are not read."""
        pending = np.ones(self.num_samples, bool)
        pending[done[done < self.num_samples]] = False
        first = 0
        for group in range(self._table.num_row_groups):
            rows = self._table.metadata.row_group(group).num_rows
            if pending[first : first + rows].any():
                yield from self._group(group, first, rows, pending)
            first += rows

    def close(self) -> None:
        """Closes the file."""
        self._table.close(force=True)

    def _group(self, group: int, first: int, num_rows: int, pending: NDArray[np.bool_]) -> Iterator[Sample]:
        index, layout = first, self._layout
        names = [layout.image, layout.caption, layout.key, *layout.fields.values(), *layout.metadata]
        wanted = [name for name in names if name is not None]
        try:
            for batch in self._table.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False):
                for row in range(batch.num_rows):
                    if pending[index]:
                        yield self._sample(index, batch, row)
                    index += 1
        except (pa.ArrowException, *network_errors()) as error:
            self.problem = self.problem or f"row group {group} cannot be read from row {index:,}: {error}"
            for lost in range(index, first + num_rows):
                if pending[lost]:
                    raw = RawSample(
                        key=str(lost),
                        version=self.identity.text,
                        status=UNREADABLE,
                        error=f"its row group cannot be read: {error}",
                    )
                    yield to_sample(self._shard.name, lost, raw)

    def _sample(self, index: int, batch: pa.RecordBatch, row: int) -> Sample:
        layout = self._layout
        image, path, status, error = self._image(batch, row)
        key = _value(batch, layout.key, row)
        metadata = {name: _value(batch, name, row) for name in layout.metadata}
        raw = RawSample(
            key=str(key) if key is not None else path.rpartition(".")[0] or path or f"{index:09d}",
            file_name=path or None,
            version=self.identity.text,
            image=image,
            caption=_bytes(batch, layout.caption, row),
            metadata=_as_json(metadata) if metadata else None,
            fields={name: _value(batch, column, row) for name, column in layout.fields.items()},
            status=status,
            error=error,
        )
        return to_sample(self._shard.name, index, raw)

    def _image(self, batch: pa.RecordBatch, row: int) -> tuple[bytes, str, str, str | None]:
        """Bytes, path, status and error of a row's image."""
        cell = batch.column(self._layout.image)[row]
        path = ""
        if isinstance(cell, pa.StructScalar) and cell.is_valid:
            path = (cell["path"].as_py() if "path" in cell else None) or ""
            cell = cell["bytes"]
        if not cell.is_valid:
            error = f"the column {self._layout.image!r} is null here" + (path and f": {path}")
            return b"", path, "missing_image", error
        buffer = cell.as_buffer()
        if buffer.size > MAX_IMAGE_BYTES:
            return b"", path, "too_large", f"the image has {buffer.size:,} bytes"
        return buffer.to_pybytes(), path, OK, None


def _named(schema: pa.Schema, name: str) -> str:
    if name not in schema.names:
        raise ConfigError(f"there is no column {name!r}; the columns are: {', '.join(schema.names)}")
    return name


def image_column(schema: pa.Schema, name: str | None = None) -> str | None:
    """The column that the user names, else the first that fits by name or type; None where none does."""
    if name is not None:
        kind = schema.field(_named(schema, name)).type
        if not _is_image(kind):
            raise ConfigError(
                f"column {name!r} holds {kind}, not image bytes (binary, or a struct with binary `bytes`)"
            )
        return name
    named = _first(schema, _IMAGE_NAMES, _is_image)
    structs = (field.name for field in schema if pa.types.is_struct(field.type) and _is_image(field.type))
    return named or next(structs, None)


def _first(schema: pa.Schema, names: Sequence[str], fits: Any) -> str | None:
    """The column with the first of the names, in any case of letters, whose type fits."""
    by_name = {field.name.lower(): field.name for field in reversed(schema) if fits(_value_type(field.type))}
    return next((by_name[name] for name in names if name in by_name), None)


def _value_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _is_image(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.StructType):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _has_binary(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_binary(kind.storage_type)
    children = [kind.field(i).type for i in range(kind.num_fields)]
    return _is_binary(kind) or pa.types.is_fixed_size_binary(kind) or any(map(_has_binary, children))


def _value(batch: pa.RecordBatch, column: str | None, row: int) -> Any:
    """A cell as a Python value; as text where Python's types cannot hold it: nanoseconds, the year 10000, no UTF-8."""
    if column is None:
        return None
    cell = batch.column(column)[row]
    try:
        return cell.as_py()
    except (ValueError, OverflowError):
        content = _bytes(batch, column, row)
        return None if content is None else content.decode("utf-8", "backslashreplace")


def _bytes(batch: pa.RecordBatch, column: str | None, row: int) -> bytes | None:
    """A cell's text as it lies in the file, which need not be UTF-8."""
    cell = None if column is None else batch.column(column)[row]
    if cell is None or not cell.is_valid:
        return None
    if isinstance(cell, pa.DictionaryScalar):
        cell = cell.value
    try:
        text = cell if isinstance(cell, pa.StringScalar | pa.LargeStringScalar) else cell.cast(pa.string())
    except pa.ArrowException:
        return f"a {cell.type} that cannot be shown".encode()
    content: bytes = text.as_buffer().to_pybytes()
    return content


def _as_json(metadata: Mapping[str, Any]) -> bytes:
    """As json knows it: NaN becomes null; decimals, dates and the like become text."""
    text = json.dumps(metadata, default=lambda value: value.isoformat() if hasattr(value, "isoformat") else str(value))
    finite = json.loads(text, parse_constant=lambda _: None)
    return json.dumps(finite, ensure_ascii=False).encode("utf-8", "backslashreplace")
