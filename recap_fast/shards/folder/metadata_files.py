"""Metadata files of folders of images, as `datasets` reads them: metadata.jsonl, metadata.csv, metadata.parquet.

In go the paths of images below a folder; out comes what the nearest such file, in the image's folder or one above,
says of each. Its entries name images by `file_name` or `*_file_name`, below the folder that it lies in. An entry that
cannot be read costs itself.
Format: https://huggingface.co/docs/datasets/image_dataset, and `folder_based_builder.py` of `datasets`.
"""

import logging
import posixpath
import stat
import unicodedata
from array import array
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recap_fast.addresses import is_remote, public_url, scrub
from recap_fast.records import READ_AGAIN, Identity
from recap_fast.shards.folder.metadata_entries import CsvRows, JsonLines, ParquetRows
from recap_fast.shards.identity import of_stat
from recap_fast.shards.local import is_absent
from recap_fast.shards.remote.access import network_errors, read_file, remote_identity

logger = logging.getLogger(__name__)

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
MAX_METADATA_BYTES = 256 << 20
"""Larger files are not read."""
NUM_OPEN = 8
"""So many are held at a time: the images of a folder come one after another."""
_SHOWN = 5


class Entries(Protocol):
    """The entries of one file."""

    bad: list[str]
    """Places of those that cannot be read, as 'line 7'."""

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """All of them, each with its number; of each at least the names of images."""

    def entry(self, number: int, warnings: list[str]) -> Mapping[str, Any]:
        """One of them. Warnings say what of it cannot be read."""


class MetadataFiles:
    """Those below one folder, a local path or a URL."""

    def __init__(self, url: str) -> None:
        self.problem: str | None = None
        """Why one of them could not be read."""
        self._url = url
        self._found: dict[str, list[tuple[str, Identity]]] = {}
        self._failed: dict[str, str] = {}

    def record(self, path: str, warnings: list[str]) -> Mapping[str, Any] | None:
        """What is said of the image at a path below the folder; None where nothing is."""
        folder = path
        while folder:
            folder = posixpath.dirname(folder)
            for url, version in self._files(folder):
                try:
                    found = open_file(url, version).find(path[len(folder) :].lstrip("/"), warnings)
                except network_errors() as error:
                    self._fail(folder, url, error)
                    break
                if found is not None:
                    return found
            if folder in self._failed:
                warnings.append(f"{self._failed[folder]} {READ_AGAIN}")
                return None
        return None

    def _files(self, folder: str) -> list[tuple[str, Identity]]:
        if folder in self._found:
            return self._found[folder]
        self._found[folder] = []
        for name in NAMES:
            url = posixpath.join(self._url, folder, name)
            try:
                self._found[folder].append((url, _version(url)))
            except network_errors() as error:
                if not is_absent(error):
                    self._fail(folder, url, error)
        return self._found[folder]

    def _fail(self, folder: str, url: str, error: Exception) -> None:
        why = self._failed[folder] = f"{public_url(url)} cannot be read: {scrub(str(error))}"
        self.problem = self.problem or why


class MetadataFile:
    """Where the entries of one file lie, by the images that they name."""

    def __init__(self, url: str, entries: Entries) -> None:
        """`url` is for warnings."""
        self._entries, shown_url = entries, public_url(url)
        hashes, numbers, nameless = array("q"), array("q"), 0
        for number, entry in entries:
            names = images_of(entry)
            nameless += not names
            for image in dict.fromkeys(names):
                hashes.append(hash(image))
                numbers.append(number)
        order = np.argsort(np.array(hashes, np.int64), kind="stable")
        self._hashes, self._numbers = np.array(hashes, np.int64)[order], np.array(numbers, np.int64)[order]
        if entries.bad:
            shown = ", ".join(entries.bad[:_SHOWN]) + (", ..." if len(entries.bad) > _SHOWN else "")
            logger.warning("%s: entries that cannot be read: %d (%s)", shown_url, len(entries.bad), shown)
        if repeated := len(self._hashes) - len(np.unique(self._hashes)):
            logger.warning("%s: entries of an image that an earlier one names: %d", shown_url, repeated)
        if nameless:
            logger.warning("%s: entries without a file_name: %d", shown_url, nameless)

    def find(self, path: str, warnings: list[str]) -> Mapping[str, Any] | None:
        """The first entry that names the image at a path below the file's folder."""
        image = _spelled(path)
        first, last = (int(np.searchsorted(self._hashes, hash(image), side)) for side in ("left", "right"))
        for number in self._numbers[first:last].tolist():
            entry = self._entries.entry(number, warnings)
            if image in images_of(entry):
                return entry
        return None


@lru_cache(NUM_OPEN)
def open_file(url: str, version: Identity) -> MetadataFile:
    """The file in that version. Raises what reading raises."""
    kinds: dict[str, Any] = {"jsonl": JsonLines, "csv": CsvRows, "parquet": ParquetRows}
    content = b""
    if version.size_bytes > MAX_METADATA_BYTES:
        logger.warning("%s has %s bytes and is not read", public_url(url), f"{version.size_bytes:,}")
    elif is_remote(url):
        content = read_file(url, MAX_METADATA_BYTES)[0] or b""
    else:
        content = Path(url).read_bytes()
    try:
        return MetadataFile(url, kinds[url.rpartition(".")[2]](content) if content else JsonLines(b""))
    except (ValueError, NotImplementedError, OSError) as error:  # of pyarrow: the bytes are here
        logger.warning("%s cannot be read: %s", public_url(url), error)
        return MetadataFile(url, JsonLines(b""))


def _version(url: str) -> Identity:
    if is_remote(url):
        return remote_identity(url)
    status = Path(url).stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")  # a pipe would be waited for
    return of_stat(status)


def images_of(entry: Mapping[str, Any]) -> list[str]:
    """The paths of the images that an entry names."""
    images: list[str] = []
    for name, value in entry.items():
        if name == "file_name" or name.endswith("_file_name"):
            images += [value] if isinstance(value, str) else []
        elif (name == "file_names" or name.endswith("_file_names")) and isinstance(value, list):
            images += [path for path in value if isinstance(path, str)]
    return [_spelled(path) for path in images]


def _spelled(path: str) -> str:
    """One spelling of a path: file systems and editors do not compose accents alike."""
    return unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/")))
