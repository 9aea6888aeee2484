"""Which Parquet files are shards: those with images. Tables of metadata are fine beside what they describe.

In go the files that were found; out come those that are shards. A file that cannot be read is one: it fails by name.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing

from recap_fast.addresses import public_url
from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import Selection
from recap_fast.shards.folder.metadata_files import NAMES as METADATA_FILES
from recap_fast.shards.locate import FileKind, InputFile, base_name, parent
from recap_fast.shards.patience import side_by_side

logger = logging.getLogger(__name__)

NUM_THREADS = 16
_NAMING = ("file_name", "file_names")


def without_tables_of_metadata(files: list[InputFile], selection: Selection) -> list[InputFile]:
    """The files but for the Parquet files without images.

    Raises ConfigError where one of these is beside nothing, and where a file with images has none in the column that
    the user names. Says which it passes over, but for those beside their tar, as img2dataset writes them.
    """
    tables = _of_kind(files, "parquet")
    if not tables:
        return files
    tars = set(map(_stem, _of_kind(files, "tar")))
    folders = _folders_above(_of_kind(files, "image"))
    complaints = side_by_side(lambda file: _why_no_shard(file, selection, tars, folders), tables, NUM_THREADS)
    refused = {file.url: why for file, why in zip(tables, complaints, strict=True) if why is not None}
    kept = [file for file in files if file.url not in refused]
    passed_over = [file for file in tables if file.url in refused]
    _refuse_lone_tables(passed_over, kept, refused)
    for file in passed_over:
        if _stem(file) not in tars and base_name(file.url) not in METADATA_FILES:
            logger.warning("%s is skipped: it %s", public_url(file.url), refused[file.url])
    return kept


def _of_kind(files: Iterable[InputFile], kind: FileKind) -> list[InputFile]:
    return [file for file in files if file.kind == kind]


def _stem(file: InputFile) -> str:
    return file.url.rpartition(".")[0]


def _refuse_lone_tables(tables: list[InputFile], kept: list[InputFile], refused: Mapping[str, str]) -> None:
    """Metadata is fine beside what it describes: in a folder above it, or found by the same value."""
    values = {file.value for file in kept}
    folders = _folders_above(kept)
    for file in tables:
        if file.value not in values and parent(file.url) not in folders:
            raise ConfigError(f"--shards {public_url(file.value)}: {public_url(file.url)} {refused[file.url]}")


def _why_no_shard(file: InputFile, selection: Selection, tars: Collection[str], folders: Collection[str]) -> str | None:
    """Why a Parquet file is no shard; None where it is one.

    `tars`: the stems of tars. `folders`: those with images, where a file of that name that names files is metadata.
    """
    from recap_fast.shards.table.file import TableFile, shard_errors  # pyarrow: only where there is a Parquet file
    from recap_fast.shards.table.images import NoImagesError
    from recap_fast.shards.table.layout import find_layout

    beside_tar = _stem(file) in tars
    try:
        with closing(TableFile(file.url)) as table, shard_errors():
            if _is_metadata(file, folders) and any(column.name.endswith(_NAMING) for column in table.columns):
                return "is the metadata of images beside it"
            try:
                find_layout(table, selection)
            except ConfigError as error:
                find_layout(table, Selection())
                if not beside_tar:
                    raise ConfigError(f"{public_url(file.url)}: {error}") from error
                return str(error)
    except NoImagesError as error:
        return str(error)
    except ShardError as error:
        return str(error) if beside_tar else None
    return None


def _is_metadata(file: InputFile, folders: Collection[str]) -> bool:
    return base_name(file.url) in METADATA_FILES and parent(file.url) in folders


def _folders_above(files: Iterable[InputFile]) -> set[str]:
    """Also for the millionth file of a folder, that is looked at once."""
    return {above for folder in {parent(file.url) for file in files} for above in (folder, *_parents(folder))}


def _parents(url: str) -> Iterator[str]:
    while (above := parent(url)) != url and not above.endswith(":/"):
        url = above
        yield url
