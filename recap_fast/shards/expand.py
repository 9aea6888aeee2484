"""`--shards` in, the run's inputs out: tars, Parquet files, and folders with the images in them."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import Selection
from recap_fast.shard_set import Inputs, Source, common_parts, is_remote, path_parts
from recap_fast.shards.identity import image_versions
from recap_fast.shards.locate import InputFile, locate, parent

NUM_THREADS = 16


def expand(values: Sequence[str], selection: Selection | None = None) -> Inputs:
    """What the values of `--shards` stand for.

    Raises ConfigError, naming the value, where one stands for nothing, and where a Parquet file has no images and
    nothing beside it has.
    """
    selection = selection or Selection()
    files = _without_tables_of_metadata(locate(values), selection)
    images = _by_folder(file for file in files if file.kind == "image")
    root = _common([*images, *(file.base for file in files if file.kind != "image")])
    sources = [Source(file.url, file.kind) for file in files if file.kind != "image"]
    for folder, paths in images.items():
        versions = image_versions(folder, paths)
        sources.append(Source(folder, "folder", tuple(zip(paths, versions, strict=True))))
    return Inputs(root, tuple(sources), selection)


def _by_folder(images: Iterable[InputFile]) -> dict[str, list[str]]:
    """Sorted paths of images, by the folder that the user gave; of single images, by the folder common to a value's."""
    by_value: dict[tuple[str, str | None], list[InputFile]] = {}
    for image in images:
        by_value.setdefault((image.value, image.folder), []).append(image)
    folders: dict[str, set[str]] = {}
    for (_, given), found in by_value.items():
        folder = given or _common(list({image.base for image in found}))
        folders.setdefault(folder, set()).update(image.url for image in found)
    return {folder: sorted(url[len(folder) :].lstrip("/") for url in urls) for folder, urls in folders.items()}


def _without_tables_of_metadata(files: list[InputFile], selection: Selection) -> list[InputFile]:
    tables = [file for file in files if file.kind == "parquet"]
    if not tables:
        return files
    tars = {file.url.rpartition(".")[0] for file in files if file.kind == "tar"}
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        complaints = pool.map(lambda file: _why_no_shard(file, selection, file.url.rpartition(".")[0] in tars), tables)
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


def _why_no_shard(file: InputFile, selection: Selection, beside_tar: bool) -> str | None:
    """Why a Parquet file is no shard; None where it is one. One that cannot be read is: it is recorded as failed."""
    from recap_fast.shards.table import find_layout, image_column, open_table

    try:
        table = open_table(file.url)
    except ShardError as error:
        return str(error) if beside_tar else None
    schema = table.schema_arrow
    table.close(force=True)
    try:
        find_layout(schema, selection)
    except ShardError as error:
        return str(error)
    except ConfigError as error:
        if beside_tar or image_column(schema) is None:
            return str(error)
        raise ConfigError(f"{file.url}: {error}") from error
    return None


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
        parts = common_parts([path_parts(folder) for folder in folders])
        scheme = folders[0].partition("://")[0]
        return f"{scheme}://{'/'.join(parts[1:])}" if parts else ""
    return ""
