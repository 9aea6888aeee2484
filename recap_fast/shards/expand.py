"""`--shards` in, the run's shards out: which files are shards, what they are called, and that no two share a name.

A shard's name is its path below the inputs' common parent; the output mirrors it. Loose images become units of 1,000.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import Columns, Shard
from recap_fast.shard_set import ShardSet, is_remote, path_parts
from recap_fast.shards.locate import InputFile, base_name, locate, parent
from recap_fast.shards.sample import unicode

UNIT_IMAGES = 1000
NUM_THREADS = 16


def expand(values: Sequence[str], columns: Columns | None = None) -> ShardSet:
    """The shards that the values of `--shards` stand for.

    Raises ConfigError, naming the value, where one stands for nothing, where a Parquet file has no images and nothing
    beside it has, and where two inputs would be written to one output.
    """
    columns = columns or Columns()
    files = _without_tables_of_metadata(locate(values), columns)
    images = _by_folder(file for file in files if file.kind == "image")
    root = _common([*images, *(file.base for file in files if file.kind != "image")])
    shards = [Shard(_name(root, file.url, suffix=True), file.url, file.kind) for file in files if file.kind != "image"]
    for folder, names in images.items():
        name = _name(root, folder, suffix=False) if path_parts(folder) != path_parts(root) else ""
        shards += _units(name, folder, names)
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


def _by_folder(images: Iterable[InputFile]) -> dict[str, list[str]]:
    """Sorted paths of images, by the folder that the user gave; of single images, by the folder common to a value's."""
    by_value: dict[tuple[str, str | None], list[InputFile]] = {}
    for image in images:
        by_value.setdefault((image.value, image.folder), []).append(image)
    folders: dict[str, set[str]] = {}
    for found in by_value.values():
        folder = _common([image.base for image in found])
        folders.setdefault(folder, set()).update(image.url for image in found)
    return {folder: sorted(url[len(folder) :].lstrip("/") for url in urls) for folder, urls in folders.items()}


def _without_tables_of_metadata(files: list[InputFile], columns: Columns) -> list[InputFile]:
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


def _refuse_lone_tables(tables: list[InputFile], kept: list[InputFile], refused: Mapping[str, str]) -> None:
    """Metadata is fine beside what it describes: in a folder above it, or found by the same value."""
    values = {file.value for file in kept}
    folders = {folder for file in kept for folder in _parents(file.url)}
    for file in tables:
        if file.value not in values and parent(file.url) not in folders:
            raise ConfigError(f"--shards {file.value}: {file.url} {refused[file.url]}")


def _why_no_shard(file: InputFile, columns: Columns, beside_tar: bool) -> str | None:
    """Why a Parquet file is no shard; None where it is one. One that cannot be read is: it is recorded as failed."""
    from recap_fast.shards.table import find_layout, image_column, open_table

    try:
        table = open_table(file.url)
    except ShardError as error:
        return str(error) if beside_tar else None
    schema = table.schema_arrow
    table.close(force=True)
    try:
        find_layout(schema, columns)
    except ShardError as error:
        return str(error)
    except ConfigError as error:
        if beside_tar or image_column(schema) is None:
            return str(error)
        raise ConfigError(f"{file.url}: {error}") from error
    return None


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
    parts = path_parts(url)[len(path_parts(root)) :]
    if suffix:
        parts[-1] = base_name(url).rpartition(".")[0]
    parts = [part for part in parts if part not in ("", ".")]
    if not parts or ".." in parts:
        raise ConfigError(f"{url} has no name that its output could have: give it by a path without '..'.")
    return unicode("/".join(parts))


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
        columns = zip(*map(path_parts, folders), strict=False)
        parts = [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
        scheme = folders[0].partition("://")[0]
        return f"{scheme}://{'/'.join(parts[1:])}" if parts else ""
    return ""
