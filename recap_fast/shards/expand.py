"""`--shards` in, the run's shards out: which files are shards, what they are called, and that no two share a name.

A shard's name is its path below the inputs' common parent; the output mirrors it. Loose images become units of 1,000.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import Shard
from recap_fast.shards.locate import Found, base_name, find, parent, without_query
from recap_fast.shards.remote import is_remote
from recap_fast.shards.sample import Columns, unicode

UNIT_IMAGES = 1000
NUM_THREADS = 16


@dataclass(frozen=True, slots=True)
class ShardSet:
    """The shards of a run, in the order in which the user gave them."""

    root: str
    """The inputs' common parent: a local folder, a URL, or '' where they have none."""
    shards: tuple[Shard, ...]
    columns: Columns = field(default_factory=Columns)
    """Of Parquet shards."""

    def below(self, root: str) -> "ShardSet":
        """The same shards, named from a folder higher up. Raises ConfigError where they do not lie below it."""
        mine, other = _parts(self.root), _parts(root)
        if mine[: len(other)] != other:
            raise ConfigError(
                f"the inputs are in {self.root or 'different places'}; this output folder is for those below {root}, "
                "from which its files are named: give another --output."
            )
        prefix = "".join(f"{part}/" for part in mine[len(other) :])
        return replace(self, root=root, shards=tuple(replace(s, name=f"{prefix}{s.name}") for s in self.shards))


def expand(values: Sequence[str], columns: Columns | None = None) -> ShardSet:
    """The shards that the values of `--shards` stand for.

    Raises ConfigError, naming the value, where one stands for nothing, where a Parquet file has no images and nothing
    beside it has, and where two inputs would be written to one output.
    """
    columns = columns or Columns()
    files = _without_tables_of_metadata(find(values), columns)
    images = _by_folder(file for file in files if file.kind == "image")
    root = _common([*images, *(file.base for file in files if file.kind != "image")])
    shards = [Shard(_name(root, file.url, suffix=True), file.url, file.kind) for file in files if file.kind != "image"]
    for folder, names in images.items():
        shards += _units(_name(root, folder, suffix=False) if _parts(folder) != _parts(root) else "", folder, names)
    _refuse_shared_names(shards)
    return ShardSet(root, tuple(shards), columns)


def describe(shard: Shard) -> str:
    """The input as the user knows it."""
    return f"{shard.url} ({shard.files[0]} and {len(shard.files) - 1} more)" if shard.files else shard.url


def _units(name: str, folder: str, files: list[str]) -> list[Shard]:
    prefix = f"{name}/" if name else ""
    return [
        Shard(f"{prefix}{number:05d}", folder, "folder", tuple(files[first : first + UNIT_IMAGES]))
        for number, first in enumerate(range(0, len(files), UNIT_IMAGES))
    ]


def _by_folder(images: Iterable[Found]) -> dict[str, list[str]]:
    """Sorted paths of images, by the folder that the user gave; of single images, by the folder common to a value's."""
    by_value: dict[tuple[str, str | None], list[Found]] = {}
    for image in images:
        by_value.setdefault((image.value, image.folder), []).append(image)
    folders: dict[str, set[str]] = {}
    for found in by_value.values():
        folder = _common([image.base for image in found])
        folders.setdefault(folder, set()).update(image.url for image in found)
    return {folder: sorted(url[len(folder) :].lstrip("/") for url in urls) for folder, urls in folders.items()}


def _without_tables_of_metadata(files: list[Found], columns: Columns) -> list[Found]:
    tables = [file for file in files if file.kind == "parquet"]
    if not tables:
        return files
    tars = {file.url.rpartition(".")[0] for file in files if file.kind == "tar"}
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        complaints = pool.map(lambda file: _why_no_shard(file, columns, file.url.rpartition(".")[0] in tars), tables)
        refused = {file.url: complaint for file, complaint in zip(tables, complaints, strict=True) if complaint}
    kept = [file for file in files if file.url not in refused]
    _refuse_lone_tables([file for file in tables if file.url in refused], kept, refused)
    return kept


def _refuse_lone_tables(tables: list[Found], kept: list[Found], refused: Mapping[str, str]) -> None:
    """Metadata is fine beside what it describes: in a folder above it, or found by the same value."""
    values = {file.value for file in kept}
    folders = {folder for file in kept for folder in _parents(file.url)}
    for file in tables:
        if file.value not in values and parent(file.url) not in folders:
            raise ConfigError(f"--shards {file.value}: {file.url} {refused[file.url]}")


def _why_no_shard(file: Found, columns: Columns, beside_tar: bool) -> str | None:
    """Why a Parquet file is no shard; None where it is one. One that cannot be read is: it is recorded as failed."""
    from recap_fast.shards.table import find_layout, no_image_column, open_table

    try:
        table, handle = open_table(file.url)
    except ShardError as error:
        return str(error) if beside_tar else None
    schema = table.schema_arrow
    handle.close()
    try:
        return None if find_layout(schema, columns) else no_image_column(schema.names)
    except ConfigError as error:
        if beside_tar or find_layout(schema, Columns()) is None:
            return str(error)
        raise ConfigError(f"{file.url}: {error}") from error


def _refuse_shared_names(shards: Sequence[Shard]) -> None:
    by_name: dict[str, Shard] = {}
    for shard in shards:
        other = by_name.setdefault(shard.name, shard)
        if other is not shard:
            raise ConfigError(
                f"{describe(other)} and {describe(shard)} would both be written to {shard.name}.parquet: "
                "rename one of them or caption them into different --output folders."
            )


def _name(root: str, url: str, *, suffix: bool) -> str:
    """Path below the root; `suffix`: without the last one."""
    parts = _parts(url)[len(_parts(root)) :]
    if suffix:
        parts[-1] = base_name(url).rpartition(".")[0]
    parts = [part for part in parts if part not in ("", ".")]
    if not parts or ".." in parts:
        raise ConfigError(f"{url} has no name that its output could have: give it by a path without '..'.")
    return unicode("/".join(parts))


def _parts(url: str) -> list[str]:
    """Of a path the folders; of a URL the scheme and the folders. '' has none."""
    if is_remote(url):
        scheme, _, path = without_query(url).partition("://")
        return [scheme.replace(":", "-"), *(part for part in path.split("/") if part)]
    return [part for part in url.split("/") if part]


def _parents(url: str) -> Iterator[str]:
    while (above := parent(url)) != url and not above.endswith(":/"):
        url = above
        yield url


def _common(folders: Sequence[str]) -> str:
    """The deepest folder that holds all of these, '' where they are on different systems."""
    remote = {is_remote(folder) for folder in folders}
    if remote == {False}:
        return os.path.commonpath(folders)
    if remote == {True}:
        columns = zip(*map(_parts, folders), strict=False)
        parts = [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
        scheme = folders[0].partition("://")[0]
        return f"{scheme}://{'/'.join(parts[1:])}" if parts else ""
    return ""
