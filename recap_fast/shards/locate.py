"""What the user writes after `--shards`, in; the files that it stands for, out, in order and each once.

A value is a path, a URL, a folder, a glob, a brace pattern, or `@list.txt` with one of these a line.
"""

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recap_fast.errors import ConfigError
from recap_fast.shard_set import is_remote, without_query
from recap_fast.shards.braces import expand_braces
from recap_fast.shards.remote import absolute, file_system, network_errors
from recap_fast.shards.sample import is_image_name

logger = logging.getLogger(__name__)

FileKind = Literal["tar", "parquet", "image"]
MAX_PROBES = 16
"""Of many remote names, so many are asked for before it is said that none exists."""
_COMPRESSED = re.compile(r"\.(tgz|tar\.\w+)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that a value stands for."""

    url: str
    kind: FileKind
    value: str
    """What the user wrote."""
    folder: str | None = None
    """The folder that the user gave; None where it was the file."""

    @property
    def base(self) -> str:
        """The folder that the user gave, else the one that the file is in."""
        return self.folder or parent(self.url)


def locate(values: Sequence[str]) -> list[InputFile]:
    """The files of all values. Raises ConfigError for a value that stands for none, or for files of other kinds."""
    found: dict[str, InputFile] = {}
    for value in values:
        try:
            files = _of_value(value)
        except network_errors() as error:
            raise ConfigError(f"--shards {value}: cannot be listed: {error}") from error
        if not files:
            raise ConfigError(f"--shards {value}: nothing matches it: no tar, Parquet file, image or folder of these.")
        for file in files:
            found.setdefault(file.url, file)
    return list(found.values())


def file_kind(url: str) -> FileKind | None:
    """By suffix, in any case of letters; None for every other file."""
    name = base_name(url).lower()
    if name.endswith((".tar", ".parquet")):
        return "tar" if name.endswith(".tar") else "parquet"
    return "image" if is_image_name(name) else None


def base_name(url: str) -> str:
    """The last part of a path or URL."""
    return without_query(url).rpartition("/")[2]


def parent(url: str) -> str:
    """The folder that a file is in."""
    return without_query(url).rpartition("/")[0] or "/"


def _of_value(value: str) -> list[InputFile]:
    names: list[str] = []
    found: list[tuple[str, str | None]] = []
    for address in _addresses(value):
        is_glob = _is_glob(address)
        for url in _glob(address) if is_glob else [address]:
            if _is_folder(url):
                found += [(below, url) for below in (_remote_files if is_remote(url) else _local_files)(url)]
            elif is_glob:
                found.append((url, None))
            else:
                names.append(url)
    _check_names(names, value)
    _warn_of_compressed([url for url, _ in found], value)
    # those that are missing among others stay: each is recorded as a shard that failed
    if any(file_kind(url) for url, _ in found) or _any_exists(names):
        found += [(name, None) for name in names]
    return [InputFile(url, kind, value, folder) for url, folder in found if (kind := file_kind(url))]


def _addresses(value: str) -> Iterator[str]:
    """Those that the braces, or the lines of the list, stand for."""
    for line in _lines(value[1:]) if value.startswith("@") else [value] if value.strip() else []:
        for text in [line] if os.path.lexists(line) else expand_braces(line):
            yield absolute(text)


def _lines(address: str) -> list[str]:
    address = absolute(address)
    try:
        if is_remote(address):
            system, path = file_system(address)
            text = system.cat_file(path).decode()
        else:
            text = Path(address).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--shards @{address}: the list cannot be read: {error}") from error
    return [line for raw in text.splitlines() if (line := raw.strip()) and not line.startswith("#")]


def _check_names(names: Sequence[str], value: str) -> None:
    for name in names:
        if _COMPRESSED.search(name):
            raise ConfigError(f"--shards {value}: {name} is compressed; tars are read by offset, so unpack it first.")
        if file_kind(name) is None:
            exists = is_remote(name) or Path(name).exists()
            what = "is no tar, Parquet file, image or folder" if exists else "does not exist"
            raise ConfigError(f"--shards {value}: {name} {what}.")


def _any_exists(names: Sequence[str]) -> bool:
    remote = [name for name in names if is_remote(name)]
    if any(Path(name).exists() for name in names if not is_remote(name)):
        return True
    probes = remote[:: max(1, len(remote) // MAX_PROBES)]
    return any(system.exists(path) for system, path in map(file_system, probes))


def _is_glob(address: str) -> bool:
    if not is_remote(address):
        return glob.has_magic(address) and not os.path.lexists(address)
    return any(letter in address for letter in ("*[" if address.startswith("http") else "*?["))


def _is_folder(address: str) -> bool:
    if not is_remote(address):
        return Path(address).is_dir()
    if file_kind(address) is not None:
        return False
    system, path = file_system(address)
    return bool(system.isdir(path))


def _glob(address: str) -> list[str]:
    if not is_remote(address):
        return sorted(glob.glob(address, recursive=True))  # noqa: PTH207 - Path.glob has no absolute patterns
    match = re.search(r"[*?\[]", address)
    start = address[: match.start() if match else None].rpartition("/")[0]
    system, pattern = file_system(address)
    try:
        paths = sorted(system.glob(pattern))
    except ValueError as error:  # a ** that is not a whole folder name
        raise ConfigError(f"--shards {address}: {error}") from error
    return [_url(system, start, path) for path in paths]


def _url(system: Any, start: str, path: str) -> str:
    """The URL of a path of a file system's listing, spelled as the user spelled the URL that it starts with."""
    prefix: str = system._strip_protocol(start)
    return f"{start}/{path[len(prefix) :].lstrip('/')}"


def _warn_of_compressed(urls: Sequence[str], value: str) -> None:
    compressed = [url for url in urls if _COMPRESSED.search(url)]
    if compressed:
        logger.warning(
            "--shards %s: compressed tars are left out, unpack them first: %s and %d more",
            value,
            compressed[0],
            len(compressed) - 1,
        )


def _remote_files(folder: str) -> Iterator[str]:
    system, path = file_system(folder)
    for file in sorted(system.find(path)):
        url = _url(system, folder, file)
        if not any(part.startswith(".") for part in url[len(folder) :].split("/")):
            yield url


def _local_files(folder: str) -> list[str]:
    """All files below, hidden ones apart, sorted by path; links to folders are followed, but not in circles."""
    files = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            files += [f"{parent.rstrip('/')}/{name}" for name in names if not name.startswith(".")]
        seen.add(real)
    return sorted(files)


def _refuse(error: OSError) -> None:
    raise ConfigError(f"--shards: a folder cannot be read: {error}") from error
