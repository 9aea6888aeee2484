"""Object stores by obstore: what the inputs ask of fsspec's other file systems, and downloads of one version of a file.

Paths are URLs without their scheme: bucket and key. Keys that begin alike are a folder.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem

from recap_fast.addresses import public_url
from recap_fast.errors import ConfigError
from recap_fast.records import Identity
from recap_fast.shards.patience import check_stop, patiently, progress, read_timeout, unwatched
from recap_fast.shards.remote.blocks import Blocks
from recap_fast.shards.remote.failures import ReplacedError
from recap_fast.shards.remote.sink import Sink
from recap_fast.store.connection import SCHEMES, connect

CHUNK_BYTES = 256 << 10
"""What a read takes at once, at least: even a slow connection brings it within the read timeout."""
LIST_KEYS = 1000
"""What an answer of a server has."""


class ObjectFiles(AbstractFileSystem):  # type: ignore[misc]
    """The buckets of one scheme. Raises what obstore raises, and ConfigError where it cannot be used."""

    protocol = tuple(SCHEMES)
    cachable = False

    def __init__(self, scheme: str):
        super().__init__()
        self._scheme = scheme

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Of a file or a folder. Raises FileNotFoundError."""
        import obstore

        store, key = self._connect(path)
        if key:
            try:
                return _entry(path, obstore.head(store, key))
            except FileNotFoundError:
                pass
        if next(self._below(path), None) is None and key:
            raise FileNotFoundError(path)
        return _folder(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What lies in a folder, or the file itself. Raises FileNotFoundError."""
        import obstore

        path = self._strip_protocol(path)
        store, key = self._connect(path)
        bucket = path.partition("/")[0]
        with unwatched(), self._odd_keys_told(path):  # each of its requests has a deadline
            found = obstore.list_with_delimiter(store, key or None)
        entries = [_folder(f"{bucket}/{prefix}") for prefix in found["common_prefixes"] if prefix]
        entries += [_entry(f"{bucket}/{meta['path']}", meta) for meta in found["objects"] if not _is_marker(meta)]
        if not entries and key and (itself := self.info(path))["type"] == "file":
            entries = [itself]
        return entries if detail else sorted(entry["name"] for entry in entries)

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **options: Any
    ) -> Any:
        """All files below a folder, by few requests: a listing of keys knows no folders."""
        if maxdepth is not None:
            return super().find(path, maxdepth, withdirs, detail, **options)
        path = self._strip_protocol(path)
        found = {entry["name"]: entry for entry in self._below(path)}
        if withdirs:
            parents = {str(parent) for name in found for parent in PurePosixPath(name).parents}
            found |= {name: _folder(name) for name in parents if f"{name}/".startswith(f"{path}/")}
        if not found and self.isfile(path):
            found = {path: self.info(path)}
        return dict(sorted(found.items())) if detail else sorted(found)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The content of a file."""
        import obstore

        return _content(obstore.get(*self._connect(path)))

    def read(self, path: str, limit: int) -> tuple[bytes | None, dict[str, Any]]:
        """The content of a small file, None where it is over `limit` bytes, and its info, by one request."""
        import obstore

        result = obstore.get(*self._connect(path))
        entry = _entry(path, result.meta)
        return (None if entry["size"] > limit else _content(result)), entry

    def open(self, path: str, *, info: Mapping[str, Any], **_: Any) -> Blocks:
        """The version of a file that `info` is of. Reading raises ReplacedError where that is gone."""

        def fetch(start: int, end: int) -> bytes:
            return _content(self.get_from(path, start, end, info["ETag"]))

        return Blocks(fetch, info["size"])

    def get_from(self, path: str, start: int, end: int | None, e_tag: str | None) -> Any:
        """obstore's answer: a part of the version of a file, or of any version. Raises ReplacedError."""
        import obstore

        options: Any = {}
        if start or end is not None:
            options["range"] = {"offset": start} if end is None else (start, end)
        if e_tag and e_tag.startswith('"'):
            options["if_match"] = e_tag
        result = obstore.get(*self._connect(path), options=options)
        if e_tag and result.meta["e_tag"] != e_tag:
            raise ReplacedError
        return result

    def _below(self, path: str) -> Iterator[dict[str, Any]]:
        """All files below a folder."""
        import obstore

        store, key = self._connect(path)
        bucket = path.partition("/")[0]
        with self._odd_keys_told(path):
            for batch in obstore.list(store, key or None, chunk_size=LIST_KEYS):
                progress()
                check_stop()
                for meta in batch:
                    if not _is_marker(meta):
                        yield _entry(f"{bucket}/{meta['path']}", meta)

    def _connect(self, path: str) -> tuple[Any, str]:
        url = f"{self._scheme}://{path}"
        store, key = connect(url, read_timeout())
        if any(part in ("", ".", "..") for part in key.split("/")) and key:
            raise ConfigError(f"{public_url(url)} cannot be read: a part of it is empty, '.' or '..'.")
        return store, key

    @contextmanager
    def _odd_keys_told(self, path: str) -> Iterator[None]:
        from obstore.exceptions import InvalidPathError

        try:
            yield
        except InvalidPathError as error:
            text = str(error).partition("\n")[0].rpartition("invalid path: ")[2]
            shown = public_url(f"{self._scheme}://{path}")
            raise ConfigError(
                f"{shown} cannot be listed, because of a key that obstore cannot read: {text}. Name the files, or a "
                "folder without it."
            ) from error


class ObjectDownload:
    """Copies a file into a sink; each try goes on where the last one ended, if the file is still the same."""

    def __init__(self, system: ObjectFiles, path: str, sink: Sink):
        self._system, self._path, self._sink = system, path, sink
        self._e_tag: str | None = None
        self._size = 0

    @property
    def version(self) -> Identity | None:
        """Of what the sink has."""
        return Identity(self._size, self._e_tag) if self._e_tag else None

    def copy_rest(self) -> bool:
        """Appends what the sink lacks; whether it is complete then.

        Raises ReplacedError where the file is not the one whose begin the sink has, StoppedError, and what obstore
        raises.
        """
        if self._e_tag is None:  # nobody knows whether it is the same
            self._sink.restart()
        start = self._sink.tell()
        if start and start >= self._size:
            return True
        answer = patiently(lambda: self._system.get_from(self._path, start, None, self._e_tag if start else None))
        self._e_tag, self._size = answer.meta["e_tag"], answer.meta["size"]
        self._sink.reserve(self._size - start)
        chunks = answer.stream(CHUNK_BYTES)
        while (chunk := patiently(lambda: next(chunks, None))) is not None:
            self._sink.write(chunk)
        return self._sink.tell() >= self._size


def _content(answer: Any) -> bytes:
    chunks = []
    for chunk in answer.stream(CHUNK_BYTES):
        chunks.append(chunk)
        progress()
        check_stop()
    return b"".join(chunks)


def _entry(path: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    found = {"name": path, "size": meta["size"], "type": "file", "ETag": meta["e_tag"]}
    return {**found, "LastModified": meta["last_modified"]}


def _folder(path: str) -> dict[str, Any]:
    return {"name": path.rstrip("/"), "size": 0, "type": "directory"}


def _is_marker(meta: Mapping[str, Any]) -> bool:
    """Whether it is an empty object with the name of a folder, as consoles make them; obstore drops its last slash."""
    return not meta["size"] and "." not in meta["path"].rpartition("/")[2]
