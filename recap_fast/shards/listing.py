"""Lists the files in a folder, and the lines of a text file with inputs, local or remote."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recap_fast.addresses import is_remote, public_url, scrub
from recap_fast.defaults import EXPORT_FOLDER
from recap_fast.errors import ConfigError
from recap_fast.shards.patience import progress
from recap_fast.shards.remote.access import absolute, file_system, persistently
from recap_fast.shards.remote.failures import ListingError
from recap_fast.shards.sample import is_image_name

logger = logging.getLogger(__name__)


def url_of(system: Any, start: str, path: str) -> str:
    """The URL of a path of a file system's listing, spelled as the user spelled the URL that it starts with."""
    prefix: str = system._strip_protocol(start)
    return f"{start}/{path[len(prefix) :].lstrip('/')}"


def remote_files(folder: str) -> list[str]:
    """All files below a folder, hidden ones apart, sorted by path. Raises as `persistently` does."""
    system, path = file_system(folder)

    def find() -> list[str]:
        with _outages_told(system):
            return sorted(system.find(path))

    urls = [url_of(system, folder, file) for file in persistently(find, folder)]
    return [url for url in urls if not any(part.startswith(".") for part in url[len(folder) :].split("/"))]


def remote_glob(pattern: str) -> list[str]:
    """The paths that match a pattern, sorted. Raises as `persistently` does, and ValueError for odd patterns."""
    system, path = file_system(pattern)

    def find() -> list[str]:
        with _outages_told(system):
            return sorted(system.glob(path))

    return persistently(find, pattern)


def is_remote_folder(url: str) -> bool:
    """Whether a URL is one of a folder. Raises as `persistently` does, but no FileNotFoundError."""
    system, path = file_system(url)
    if url.startswith(("http://", "https://")):  # where a folder is a page with links
        return bool(persistently(lambda: system.isdir(path), url))
    try:
        return bool(persistently(lambda: system.info(path), url).get("type") == "directory")
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _outages_told(system: Any) -> Iterator[None]:
    """Within this, a folder that cannot be listed is an error: fsspec passes over it in silence."""
    name = "_ls" if hasattr(system, "_ls") else "ls"
    listed = getattr(system, name)

    async def list_async(*arguments: Any, **options: Any) -> Any:
        with _told():
            return await listed(*arguments, **options)

    def list_now(*arguments: Any, **options: Any) -> Any:
        with _told():
            return listed(*arguments, **options)

    setattr(system, name, list_async if name == "_ls" else list_now)
    try:
        yield
    finally:
        vars(system).pop(name, None)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ListingError from error


def local_files(folder: str) -> list[str]:
    """All files below a folder, hidden ones apart, sorted by path.

    Links to folders are followed, but not in circles. Hidden folders, hidden images and folders that cannot be read
    are skipped with a warning; the folder in which `export` keeps its records is skipped without one. Raises
    ConfigError if the given folder cannot be read.
    """
    files = []
    num_hidden = 0
    seen: set[str] = set()

    def tell(error: OSError) -> None:
        if error.filename == folder:
            raise ConfigError(f"--shards {folder}: the folder cannot be read: {error.strerror}") from error
        logger.warning("%s is skipped: it cannot be read: %s", error.filename, error.strerror)

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=tell):
        progress()
        real = os.path.realpath(parent)
        shown = sorted(name for name in folders if not name.startswith("."))  # of two links to a folder always the same
        if real not in seen:
            files += [f"{parent.rstrip('/')}/{name}" for name in names if not name.startswith(".")]
            num_hidden += sum(name.startswith(".") and name != EXPORT_FOLDER for name in folders)
            num_hidden += sum(name.startswith(".") and is_image_name(name) for name in names)
        folders[:] = [] if real in seen else shown
        seen.add(real)
    if num_hidden:
        logger.warning("%s: hidden files and folders are skipped: %d", folder, num_hidden)
    return sorted(files)


def read_list(address: str) -> list[str]:
    """The lines of a text file without comments, empty lines, and what editors add: byte-order marks, spaces, CRs.

    Raises ConfigError where it cannot be read, and as `persistently` does.
    """
    address = absolute(address)
    shown = f"--shards @{public_url(address)}"
    try:
        if is_remote(address):
            system, path = file_system(address)
            content: bytes = persistently(lambda: system.cat_file(path), address)
        else:
            content = _read(address)
        text = content.decode("utf-8")
    except (ConnectionError, TimeoutError):
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: the list cannot be read: {scrub(str(error))}") from error
    if "\0" in text:
        raise ConfigError(f"{shown}: the list cannot be read: it is not UTF-8 text.")
    lines = (raw.strip().strip("\ufeff").strip() for raw in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def _read(path: str) -> bytes:
    """The content of a file, or of a pipe such as a shell's `<(find ...)`, which may take its time."""
    content = b""
    with Path(path).open("rb") as file:
        while chunk := file.read1():
            content += chunk
            progress()
    return content
