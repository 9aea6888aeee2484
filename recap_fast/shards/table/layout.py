"""Which columns of a table hold what: images, caption, key, and all that came with them.

In go an open Parquet file and what the user names; out comes a `Layout`. Images are found by the type of a column, and
where several could hold them, by their first values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from recap_fast.errors import ConfigError
from recap_fast.records import Selection
from recap_fast.shards.sample import CAPTION_NAMES, FIELD_NAMES
from recap_fast.shards.table.file import Column, TableFile, children, is_bytes, is_text, storage
from recap_fast.shards.table.images import ImageColumn, find_images, shown
from recap_fast.shards.table.value import Look

_KEY_NAMES = ("key", "__key__")


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column of a file holds what; None where there is none."""

    images: tuple[ImageColumn, ...]
    """Each holds images: a row's first is in the first of them that has one."""
    further: tuple[ImageColumn, ...]
    """They hold images that the user has not asked for."""
    path: Column | None
    """Of the first of the images, where a column of its own has it."""
    caption: Column | None
    key: Column | None
    json: Column | None
    """What a tar has as .json, as text or as a struct."""
    fields: tuple[Column, ...]
    """url, uid, sha256, in any case of letters."""
    members: tuple[Column, ...]
    """The columns without a place of their own."""
    looks: Mapping[int, Look]
    """What columns of bytes hold, by their place."""


def find_layout(table: TableFile, selection: Selection) -> Layout:
    """Which columns to read.

    Raises NoImagesError where no column holds images or it cannot be told which does, and ConfigError where one that
    the user names is not there or not of a fitting type.
    """
    found = find_images(table, selection)
    caption = _caption(table, selection.caption_column, found.looks)
    with_images = {each.column.place for each in found.left_out}
    free = [column for column in table.columns if column.place not in with_images and column != caption]
    path = _path(found.images[0], free)
    key = _first(free, _KEY_NAMES, lambda column: _is_key(column, found.looks))
    json = _first(free, ("json",), lambda column: _is_struct(column) or _is_text(column, found.looks))
    fields = tuple(column for name in FIELD_NAMES if (column := _first(free, (name,), lambda _: True)) is not None)
    placed = {column.place for column in (path, key, json, *fields) if column is not None}
    rests = (_rest(each, table.columns[each.column.place], each is found.images[0]) for each in found.left_out)
    return Layout(
        images=found.images,
        further=found.further,
        path=path,
        caption=caption,
        key=key,
        json=json,
        fields=fields,
        members=(*(column for column in free if column.place not in placed), *(rest for rest in rests if rest)),
        looks={**found.looks, **_looks_by_schema(table, free)},
    )


def _looks_by_schema(table: TableFile, columns: Sequence[Column]) -> dict[int, Look]:
    looks: dict[int, Look] = {each.place: "interval" for each in columns if table.is_interval(each)}
    for each in columns:
        names = {child.name for child in children(storage(each.kind))} if _is_struct(each) else set()
        if {"metadata", "value"} <= names <= {"metadata", "value", "typed_value"}:
            looks[each.place] = "variant"
    return looks


def _path(image: ImageColumn, columns: Sequence[Column]) -> Column | None:
    """Where a struct was made columns, `image.path` goes with `image.bytes`."""
    name = image.column.name.removesuffix(".bytes") + ".path"
    same = [column for column in columns if column.name == name and (is_text(k := storage(column.kind)) or is_bytes(k))]
    return same[0] if same and image.column.name.endswith(".bytes") and not image.is_list else None


def _rest(image: ImageColumn, whole: Column, has_path: bool) -> Column | None:
    """What a column holds beside its images."""
    taken = image.column.leaves if has_path else (image.leaf,)
    leaves = tuple(leaf for leaf in whole.leaves if leaf not in taken)
    return replace(whole, leaves=leaves) if leaves else None


def _caption(table: TableFile, name: str | None, looks: Mapping[int, Look]) -> Column | None:
    if name is None:
        return _first(table.columns, CAPTION_NAMES, lambda column: _is_text(column, looks))
    column = next((column for column in table.columns if column.name == name), None)
    if column is None:
        raise ConfigError(f"there is no column {name!r}; the columns are: {shown(table.columns)}")
    return column


def _first(columns: Sequence[Column], names: Sequence[str], fits: Callable[[Column], bool]) -> Column | None:
    """The column with the first of the names, in any case of letters but best in lower case, whose type fits."""
    for name in names:
        same = [column for column in columns if column.name.lower() == name and fits(column)]
        if same:
            return next((column for column in same if column.name == name), same[0])
    return None


def _is_text(column: Column, looks: Mapping[int, Look]) -> bool:
    kind = storage(column.kind)
    return is_text(kind) or (is_bytes(kind) and looks.get(column.place) in ("text", "unknown"))


def _is_struct(column: Column) -> bool:
    return bool(pa.types.is_struct(storage(column.kind)))


def _is_key(column: Column, looks: Mapping[int, Look]) -> bool:
    return isinstance(column.kind, pa.UuidType) or pa.types.is_integer(column.kind) or _is_text(column, looks)
