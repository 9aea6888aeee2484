"""Finds the files that the values of `--shards` stand for, in order and each once.

A value is a path, a URL, a folder, a glob, a brace pattern, or `@list.txt` with one of these a line.
"""

import glob
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recap_fast.addresses import is_remote, public_url, scrub, without_query
from recap_fast.errors import ConfigError, InputError
from recap_fast.shards.braces import expand_braces
from recap_fast.shards.folder.beside import owner
from recap_fast.shards.listing import is_remote_folder, local_files, read_list, remote_files, remote_glob, url_of
from recap_fast.shards.patience import patience, patiently, progress
from recap_fast.shards.remote.access import absolute, exists, file_system, network_errors
from recap_fast.shards.sample import is_image_name

logger = logging.getLogger(__name__)

FileKind = Literal["tar", "parquet", "image"]
MAX_PROBES = 16
"""So many of many remote names are looked for before they all count as missing."""
MAX_SUFFIXES, MAX_SUFFIX = 8, 12
"""How many suffixes are listed, and how long a suffix may be."""
_COMPRESSED = re.compile(r"\.(tgz|tar\.\w+)$", re.IGNORECASE)
_MAGIC, _WEB_MAGIC = re.compile(r"[*?[]"), re.compile(r"[*[]")
_BESIDE = re.compile(
    r"(readme|license)(\..*)?|thumbs\.db|desktop\.ini|metadata\.(jsonl|csv)|.*\.(txt|json|tgz|tar\.\w+)",
    re.DOTALL,
)
"""Names, in lower case, of files that often lie beside images."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that a value stands for."""

    url: str
    kind: FileKind
    value: str
    """What the user wrote."""
    folder: str | None = None
    """The folder that the user gave; None if the user gave the file."""

    @property
    def base(self) -> str:
        """The folder that the user gave, or the one that the file is in."""
        return self.folder or parent(self.url)


def locate(values: Sequence[str]) -> list[InputFile]:
    """The files of all values. A file that is found twice, for example by a link to its folder, is there once.

    Raises ConfigError for a value that stands for no file, or for files of other kinds, and InputError if a server
    cannot be reached.
    """
    found: dict[str, InputFile] = {}
    places: dict[str, str] = {}
    for value in values:
        shown = _public(value)
        try:
            files = patiently(_Value(value, shown).files)
        except (ConnectionError, TimeoutError) as error:
            raise InputError(f"--shards {shown}: cannot be reached: {scrub(str(error))}") from error
        except network_errors() as error:
            if isinstance(error, PermissionError) and error.filename is None:  # a server has said so
                raise InputError(f"--shards {shown}: {error}") from error
            raise ConfigError(f"--shards {shown}: cannot be listed: {scrub(str(error))}") from error
        if not files:
            raise ConfigError(f"--shards {shown}: nothing matches it: no tar, Parquet file or image is there.")
        for file in files:
            found.setdefault(_place(file, places), file)
    return list(found.values())


def file_kind(url: str) -> FileKind | None:
    """The kind by suffix, in upper or lower case; None for every other file."""
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


def _place(file: InputFile, places: dict[str, str]) -> str:
    """Where a file is, with links in the user's folder resolved; `places` remembers folders."""
    base = file.base
    if is_remote(base):
        return file.url
    if base not in places:
        places[base] = os.path.realpath(base)
    return places[base] + file.url.removeprefix(base)


class _Value:
    """What one value stands for."""

    def __init__(self, value: str, shown: str):
        """`shown`: the value without secrets."""
        self._value, self._shown = value, shown
        self._literal: dict[str, bool] = {}
        """Folders whose names have characters of patterns, and whether they exist."""

    def files(self) -> list[InputFile]:
        """In the order of the lines of a list, of the braces, and of the names that a pattern matches."""
        names: list[str] = []
        found: list[tuple[str, str | None, bool]] = []
        """Files with the folder that the user gave, and whether a pattern or folder has shown that they exist."""
        for address in self._addresses():
            progress()
            pattern = self._pattern(address)
            for url in self._glob(address, pattern) if pattern else [address]:
                if self._is_folder(url):
                    found += [(below, url, True) for below in self._below(url)]
                elif pattern:
                    found.append((url, None, True))
                else:
                    names.append(url)
                    found.append((url, None, False))
        self._check_names(names)
        self._warn_of_compressed([url for url, _, exists in found if exists])
        # those that are missing among others stay: each is recorded as a shard that failed
        if not any(exists and file_kind(url) for url, _, exists in found) and not _any_exists(names):
            return []
        return [InputFile(url, kind, self._shown, folder) for url, folder, _ in found if (kind := file_kind(url))]

    def _addresses(self) -> Iterator[str]:
        """The addresses that the braces, or the lines of the list, stand for."""
        if self._value.startswith("@"):
            lines = read_list(self._value[1:])
        else:
            lines = [self._value] if self._value.strip() else []
        for line in lines:
            for text in [line] if os.path.lexists(line) else expand_braces(line):
                yield absolute(text)

    def _pattern(self, address: str) -> str | None:
        """The address as a pattern, if it is one; what exists, up to the first part that does not, is meant literally.

        So a missing file in a folder called `[2023]` is a missing file.
        """
        magic = _magic(address)
        if not magic.search(address):
            return None
        start = address.index("://") + 3 if is_remote(address) else 0
        parts = address[start:].split("/")
        for number, part in enumerate(parts):
            if magic.search(part) and not self._exists(address[:start] + "/".join(parts[: number + 1])):
                escaped = [glob.escape(literal) if magic.search(literal) else literal for literal in parts[:number]]
                return address[:start] + "/".join([*escaped, *parts[number:]])
        return None

    def _exists(self, address: str) -> bool:
        if not is_remote(address):
            return os.path.lexists(address)
        if "*" in address.rpartition("/")[2]:  # no name of a folder that anybody has
            return False
        if address not in self._literal:
            try:
                self._literal[address] = exists(address)
            except PermissionError:  # what is not to be seen is there
                self._literal[address] = True
        return self._literal[address]

    def _glob(self, address: str, pattern: str) -> list[str]:
        if not is_remote(address):
            with patience(math.inf):  # files that do not match are no progress
                return patiently(lambda: sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207 - as in a shell
        match = _magic(address).search(address)
        start = address[: match.start() if match else None].rpartition("/")[0]
        try:
            paths = remote_glob(pattern)
        except ValueError as error:  # a ** that is not a whole folder name
            raise ConfigError(f"--shards {self._shown}: {error}") from error
        if not paths and exists(address):  # in a folder that the server does not show
            return [address]
        if not paths:
            exists(start)  # it may be out of reach: some file systems pass over what they cannot list
        system, _ = file_system(start)
        return [url_of(system, start, path) for path in paths]

    def _is_folder(self, address: str) -> bool:
        if not is_remote(address):
            return Path(address).is_dir()
        if file_kind(address) is not None:
            return False
        return is_remote_folder(address)

    def _below(self, folder: str) -> list[str]:
        """All files below a folder, hidden ones apart, sorted by path."""
        files = remote_files(folder) if is_remote(folder) else local_files(folder)
        _warn_of_others(folder, files)
        return files

    def _check_names(self, names: Sequence[str]) -> None:
        for name in names:
            shown = public_url(name)
            if _COMPRESSED.search(shown):
                text = f"{shown} is compressed; tars are read by offset, so unpack it first."
                raise ConfigError(f"--shards {self._shown}: {text}")
            if file_kind(name) is None:
                there = exists(name) if is_remote(name) else Path(name).exists()
                what = "is not a tar, Parquet file, image or folder" if there else "does not exist"
                raise ConfigError(f"--shards {self._shown}: {shown} {what}.")

    def _warn_of_compressed(self, urls: Sequence[str]) -> None:
        compressed = [url for url in urls if _COMPRESSED.search(base_name(url))]
        if compressed:
            logger.warning(
                "--shards %s: compressed tars are left out, unpack them first: %s%s",
                self._shown,
                public_url(compressed[0]),
                f" and {len(compressed) - 1:,} more" if len(compressed) > 1 else "",
            )


def _public(value: str) -> str:
    return f"@{public_url(value[1:])}" if value.startswith("@") else public_url(value)


def _magic(address: str) -> re.Pattern[str]:
    """What makes a part of an address a pattern; a '?' in a URL of the web begins its query."""
    return _WEB_MAGIC if address.startswith(("http://", "https://")) else _MAGIC


def _any_exists(names: Sequence[str]) -> bool:
    """Whether one of many names exists; of remote names some are tried. Raises as `exists` does if none can be seen."""
    remote = [name for name in names if is_remote(name)]
    if any(Path(name).exists() for name in names if not is_remote(name)):
        return True
    problem: OSError | None = None
    for name in remote[:: max(1, len(remote) // MAX_PROBES)]:
        try:
            if exists(name):
                return True
        except PermissionError as error:  # this one's alone, perhaps
            problem = error
    if problem is not None:
        raise problem
    return False


def _warn_of_others(folder: str, files: Sequence[str]) -> None:
    """Warns of skipped files, with their suffixes; not of files that belong to images or tars."""
    stems = frozenset() if is_remote(folder) else frozenset(f.rpartition(".")[0] for f in files if is_image_name(f))
    others = (base_name(file).lower() for file in files if owner(file, stems) is None and file_kind(file) is None)
    suffixes = Counter(_suffix(name) for name in others if not _BESIDE.fullmatch(name))
    if total := suffixes.total():
        listed = [f"{count:,} {suffix}" for suffix, count in suffixes.most_common(MAX_SUFFIXES)]
        rest = total - sum(count for _, count in suffixes.most_common(MAX_SUFFIXES))
        are = "files are skipped because of their suffixes" if total > 1 else "file is skipped because of its suffix"
        text = ", ".join([*listed, f"{rest:,} others"] if rest else listed)
        logger.warning("%s: %s %s: %s", public_url(folder), f"{total:,}", are, text)


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix}" if stem and dot and 0 < len(suffix) <= MAX_SUFFIX else "without suffix"
