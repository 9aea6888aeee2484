"""What may become of a JSON file: by name, what does it to the file at a path."""

import os
from collections.abc import Callable
from pathlib import Path


def _folder(path: Path) -> None:
    path.unlink()
    (path / "deep").mkdir(parents=True)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _sparse(path: Path) -> None:
    os.truncate(path, 1 << 40)


def _content(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": _content(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "no object": _content(b"[]"),
    "null": _content(b"null"),
    "no fields": _content(b"{}"),
    "format only": _content(b'{"format": 1}'),
    "another format": _content(b'{"format": 2}'),
    "not UTF-8": _content(b'{"format": 1, "shard": "\xff"}'),
    "NaN": _content(b'{"format": 1, "rows": NaN}'),
    "deep": _content(b'{"format": 1, "shard": ' + b"[" * 100_000),
    "deep objects": _content(b'{"a":' * 100_000),
    "many digits": _content(b'{"format": 1, "rows": ' + b"9" * 5000 + b"}"),
    "a terabyte": _sparse,
    "folder": _folder,
    "pipe": _pipe,
    "loop of links": _loop,
}
