"""The images of a table: which columns may hold them, by type and by their first values, and what a cell of them holds.

In go columns; out come `ImageColumn`s, of which no more is read than bytes and path.
"""

import codecs
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import Selection
from recap_fast.shards.table.file import Column, TableFile, children, is_bytes, is_text, num_leaves, storage
from recap_fast.shards.table.value import MAX_HEX_BYTES, Cell, Look, looks_like_text, unwrap

_IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "bytes", "image_bytes", "img_bytes", "image_data", "data")
_MIN_IMAGE_BYTES = 26
"""Of the smallest image that there is, a GIF."""
_PEEK_VALUES, _PEEK_ROWS = 8, 1000
_PEEK_BYTES = 4096
_MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\xff\x0a", b"\0\0\1\0"),
    *(b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ", b"\xff\x4f\xff\x51"),
)
_MAGIC_OF_LETTERS = (b"GIF8", b"BM", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF", b"qoif", b"8BPS", b"DDS ")
"""A text may begin so too."""
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MAX_SHOWN = 50


class NoImagesError(ShardError):
    """A table in which no column holds images, or none that can be told from others."""


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """A column with an image a row, or with a list of them."""

    column: Column
    """No more of it than the image's bytes and path."""
    depth: int
    """How many structs the image lies in, not counting its own {bytes, path}."""
    leaf: int
    """The Parquet column with the bytes."""
    is_list: bool


@dataclass(frozen=True, slots=True)
class ImageCell:
    """An image of a row."""

    column: str
    """Its column, with the place in a list."""
    content: Cell | None
    """Its bytes; None where they are null."""
    path: str


@dataclass(frozen=True, slots=True)
class Images:
    """The columns of a table that hold images."""

    images: tuple[ImageColumn, ...]
    """Of a row, the first is in the first of them that has one."""
    further: tuple[ImageColumn, ...]
    """The user has not asked for these."""
    left_out: tuple[ImageColumn, ...]
    """All of these and others that look like images: of them only what is beside the bytes is metadata."""
    looks: Mapping[int, Look]
    """What columns of bytes hold, by their place."""


def find_images(table: TableFile, selection: Selection) -> Images:
    """Which columns hold images.

    Raises NoImagesError where none does or it cannot be told, and ConfigError where one that the user names is not
    there or not of a fitting type.
    """
    found = list(_candidates(table.columns))
    looks = _looks(table, found)
    if selection.image_column is not None:
        images = [_named(table.columns, selection.image_column)]
    else:
        images = _by_look(found, looks)
    if not images:
        raise NoImagesError(_refusal(table.columns, looks))
    images, further = _of_key(images, selection.image_key)
    taken = {each.column.place for each in (*images, *further)}
    others = [each for each in found if each.column.place not in taken and looks[each.column.place] == "image"]
    return Images(tuple(images), tuple(further), (*images, *further, *others), looks)


def images_in(array: pa.Array, place: int, name: str) -> list[ImageCell]:
    """The images of a cell of the column of that name."""
    cell = unwrap(array[place])
    if not isinstance(cell, pa.ListScalar):
        return [_image(cell, name)]
    return [_image(unwrap(each), f"{name}[{i}]") for i, each in enumerate(cell.values)] if cell.is_valid else []


def step_into(array: pa.Array, depth: int) -> pa.Array:
    """What lies in as many structs as that: of each, no more was read than the child on the way to the image."""
    for _ in range(depth):
        while isinstance(array, pa.ExtensionArray):
            array = array.storage
        array = pc.struct_field(array, [0])
    return array


def begins_like_an_image(content: bytes) -> bool:
    """By the first bytes of the formats that there are."""
    return (
        content.startswith(_MAGIC)
        or (content.startswith(_MAGIC_OF_LETTERS) and not looks_like_text(content))
        or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")
        or (content[4:8] == b"ftyp" and content[8:12] in _BRANDS)
    )


def shown(columns: Sequence[Column]) -> str:
    """The names of columns, the first of many."""
    return _few([column.name for column in columns])


def _candidates(columns: Sequence[Column]) -> Iterator[ImageColumn]:
    for column in columns:
        kind = storage(column.kind)
        if pa.types.is_fixed_size_binary(kind) and kind.byte_width < _MIN_IMAGE_BYTES:
            continue  # a hash, a UUID
        if image := _image_column(column, column.kind, column.leaves[0], 0):
            yield image


def _named(columns: Sequence[Column], name: str) -> ImageColumn:
    """The column that the user names, or after a dot the child of a struct."""
    kind: pa.DataType | None = None
    for column in columns:
        whole = (column.kind, column.leaves[0], 0) if column.name == name else None
        found = whole or (_child(column, name) if name.startswith(f"{column.name}.") else None)
        if found is not None:
            kind = kind or found[0]
            if image := _image_column(column, *found):
                return image
    if kind is None:
        raise ConfigError(f"there is no column {name!r}; the columns are: {shown(columns)}")
    raise ConfigError(f"column {name!r} holds {kind}, not image bytes (binary, or a struct with binary `bytes`)")


def _looks(table: TableFile, found: Sequence[ImageColumn]) -> dict[int, Look]:
    """What columns hold, by their place: by their first values, but for one alone with a name that images have."""
    if len(found) == 1 and found[0].column.name.lower() in _IMAGE_NAMES:
        return {found[0].column.place: "unknown"}
    return {each.column.place: _look(table, each) for each in found}


def _by_look(found: Sequence[ImageColumn], looks: Mapping[int, Look]) -> list[ImageColumn]:
    """The columns whose values begin like images; where none can be looked at, the one with the likeliest name."""
    images = [each for each in found if looks[each.column.place] == "image"]
    if images:
        return sorted(images, key=lambda each: each.column.name.lower() not in _IMAGE_NAMES)
    by_name = {each.column.name.lower(): each for each in reversed(found)}
    if named := next((by_name[name] for name in _IMAGE_NAMES if name in by_name), None):
        return [named]
    likely = [each for each in found if looks[each.column.place] in ("blob", "unknown")]
    return likely if len(likely) == 1 else []


def _refusal(columns: Sequence[Column], looks: Mapping[int, Look]) -> str:
    others = [column for column in columns if looks.get(column.place) != "text"]
    if binary := [name for column in others for name in _binary_names(column.name, column.kind)]:
        return f"has no column that is known to hold images; name one with --image-column: {_few(binary)} hold bytes"
    return f"has no column with image bytes; its columns are: {shown(columns)}"


def _of_key(images: list[ImageColumn], key: str | None) -> tuple[list[ImageColumn], list[ImageColumn]]:
    if key is None or len(images) == 1:
        return images, []
    chosen = [each for each in images if each.column.name.lower() == key.lower()][:1]
    if not chosen:
        names = ", ".join(repr(each.column.name) for each in images)
        raise ConfigError(f"there is no column {key!r} of --image-key with images; those with images are: {names}")
    return chosen, [each for each in images if each not in chosen]


def _look(table: TableFile, found: ImageColumn) -> Look:
    values: list[bytes] = []
    for content in _first_values(table, found):
        values.append(content)
        if begins_like_an_image(content):
            return "image"
        if len(values) == _PEEK_VALUES:
            break
    if not values:
        return "unknown"
    if all(map(looks_like_text, values)):
        return "text"
    return "bytes" if all(len(content) <= MAX_HEX_BYTES for content in values) else "blob"


def _first_values(table: TableFile, found: ImageColumn) -> Iterator[bytes]:
    """The beginnings of the first values that are not null; none where they cannot be read."""
    num_rows = 0
    for group in range(table.num_groups):
        cursor = table.read(found.column, group)
        for row in range(min(table.group_rows(group), _PEEK_ROWS - num_rows)):
            place, num_rows = cursor.move_to(row), num_rows + 1
            if place is None:
                break
            try:
                cells = images_in(step_into(cursor.array, found.depth), place, "")
            except Exception:  # noqa: BLE001 - of pyarrow, of any type; it is said where the column is read
                return
            for cell in cells:
                if cell.content is not None:
                    yield _beginning(cell.content.as_buffer())


def _beginning(buffer: pa.Buffer) -> bytes:
    """The first bytes; of a text in UTF-8 no part of a character."""
    content: bytes = buffer.slice(0, min(_PEEK_BYTES, buffer.size)).to_pybytes()
    decoder = codecs.getincrementaldecoder("utf-8")()
    with suppress(UnicodeDecodeError):
        decoder.decode(content)
        return content.removesuffix(decoder.getstate()[0]) if buffer.size > _PEEK_BYTES else content
    return content


def _image(cell: Cell, name: str) -> ImageCell:
    path = ""
    if isinstance(cell, pa.StructScalar):
        if not cell.is_valid:
            return ImageCell(name, None, "")
        if cell.type.get_field_index("path") >= 0:
            found = unwrap(cell["path"])
            path = found.as_buffer().to_pybytes().decode("utf-8", "backslashreplace") if found.is_valid else ""
        cell = unwrap(cell["bytes"])
    return ImageCell(name, cell if cell.is_valid else None, path)


def _image_column(column: Column, kind: pa.DataType, first_leaf: int, depth: int) -> ImageColumn | None:
    """The images in a column, or in a child of it of this type."""
    kind = storage(kind)
    is_list = kind.num_fields == 1 and not pa.types.is_struct(kind) and not pa.types.is_map(kind)
    inside = storage(kind.value_type) if is_list else kind
    if is_bytes(inside):
        return ImageColumn(replace(column, leaves=(first_leaf,)), depth, first_leaf, is_list)
    if not pa.types.is_struct(inside) or inside.get_field_index("bytes") < 0:
        return None
    leaves = {}
    for child in children(inside):
        if is_bytes(storage(child.type)) or child.name == "path":
            leaves[child.name] = first_leaf, storage(child.type)
        first_leaf += num_leaves(child.type)
    if "bytes" not in leaves:
        return None
    leaf, path = leaves["bytes"][0], leaves.get("path")
    with_path = (leaf, path[0]) if path is not None and (is_text(path[1]) or is_bytes(path[1])) else (leaf,)
    return ImageColumn(replace(column, leaves=tuple(sorted(with_path))), depth, leaf, is_list)


def _child(column: Column, name: str) -> tuple[pa.DataType, int, int] | None:
    """Type, first leaf and depth of a struct's child by its dotted name; `image.bytes` is the image, with its path."""
    kind, leaf, depth, rest = storage(column.kind), column.leaves[0], 0, name[len(column.name) + 1 :]
    while rest:
        if not pa.types.is_struct(kind):
            return None
        if rest == "bytes" and _image_column(column, kind, leaf, depth):
            return kind, leaf, depth
        for child in children(kind):
            if rest == child.name or rest.startswith(f"{child.name}."):
                kind, depth, rest = storage(child.type), depth + 1, rest[len(child.name) + 1 :]
                break
            leaf += num_leaves(child.type)
        else:
            return None
    return kind, leaf, depth


def _binary_names(name: str, kind: pa.DataType) -> Iterator[str]:
    if isinstance(kind, pa.UuidType):
        return
    kind = storage(kind)
    if is_bytes(kind):
        yield name
    for child in children(kind):
        yield from _binary_names(f"{name}.{child.name}" if pa.types.is_struct(kind) else name, child.type)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + more
