"""Makes the run's inputs from the values of `--shards`: tars, Parquet files, and folders with their images."""

import os
from collections.abc import Iterable, Sequence

from recap_fast.addresses import common_parts, is_remote, path_parts
from recap_fast.inputs import Inputs, Source
from recap_fast.records import Selection
from recap_fast.shards.identity import UNKNOWN, image_versions
from recap_fast.shards.locate import InputFile, locate
from recap_fast.shards.remote.access import absolute
from recap_fast.shards.table.finding import without_tables_of_metadata


def expand(values: Sequence[str], selection: Selection | None = None, outputs: Sequence[str] = ()) -> Inputs:
    """The inputs that the values of `--shards` stand for.

    `outputs` are folders of captions. A folder of inputs may hold them, and other processes write there: their files
    are passed over, unless there is nothing else.

    Raises ConfigError, with the value, if it stands for nothing, or if neither a Parquet file nor anything beside it
    has images.
    """
    selection = selection or Selection()
    files = without_tables_of_metadata(_without(outputs, locate(values)), selection)
    images = _by_folder(file for file in files if file.kind == "image")
    root = _common([*images, *(file.base for file in files if file.kind != "image")])
    sources = [Source(file.url, file.kind) for file in files if file.kind != "image"]
    for folder, paths in images.items():
        # a link that leads nowhere is listed, and is no image that is gone
        versions = (version or UNKNOWN for version in image_versions(folder, paths))
        sources.append(Source(folder, "folder", tuple(zip(paths, versions, strict=True))))
    given = dict.fromkeys(file.folder for file in files if file.folder is not None)
    return Inputs(root, tuple(sources), selection, tuple(given))


def _without(outputs: Sequence[str], files: list[InputFile]) -> list[InputFile]:
    """The files that lie in none of the outputs; all, if there are no others."""
    folders = tuple(f"{absolute(output)}/" for output in outputs)
    return [file for file in files if not file.url.startswith(folders)] or files


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
