"""Files up to a bucket and down from it: whole, of one version, and checked."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from recap_fast import atomic
from recap_fast.store.failures import failure_of

PART_BYTES, NUM_PARTS = 8 << 20, 4
"""A larger file is uploaded in parts, several at a time. Each must get through within the read timeout, which takes
1 MiB/s, and after a failure a quarter of that, because they go one by one then."""
CHUNK_BYTES = 1 << 20
MAX_TRIES = 3
"""What is damaged, or replaced while it is read, so many times is given up."""


def checked_upload(file: Path) -> Callable[[Any, str], None]:
    """An action that uploads a file to a bucket's path, reads it back and compares its SHA-256; it can be repeated.

    S3, Google and Azure each have checksums of their own, which differ for files in parts, and some servers have none.
    Reading back is the same for all, and captions are small beside the images that they are made from. A file that
    another process has replaced by then is not ours to check. Raises OSError where what is there is damaged.
    """
    size_bytes, sha256, count = file.stat().st_size, atomic.sha256_of(file), itertools.count(1)

    def upload(bucket: Any, path: str) -> None:
        number = next(count)
        written = bucket.put(path, file, chunk_size=PART_BYTES, max_concurrency=NUM_PARTS if number == 1 else 1)
        found = _summary(bucket, path, written["e_tag"])
        if found not in (None, (size_bytes, sha256)):
            text = "what was uploaded is damaged: its SHA-256 is another one"
            raise ConnectionError(text) if number < MAX_TRIES else OSError(f"{path}: {text}, {number} times")

    return upload


def _summary(bucket: Any, path: str, e_tag: str | None) -> tuple[int, str] | None:
    """The size and the SHA-256 of this version of a file; None if it was replaced."""
    digest, num_bytes = hashlib.sha256(), 0
    try:
        for chunk in bucket.get(path, options={"if_match": e_tag} if e_tag else None).stream(CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    except Exception as error:
        if failure_of(error).kind == "replaced":
            return None
        raise
    return num_bytes, digest.hexdigest()


class Download:
    """Copies a bucket's file to a local one, in as many steps as it takes."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._e_tag: str | None = None
        self._size_bytes, self._restarts = -1, 0

    def tell(self) -> int:
        """How many bytes are there."""
        return self._file.tell()

    def copy_rest(self, bucket: Any, path: str) -> None:
        """Appends what is missing. Where the file was replaced meanwhile it begins again; it raises OSError when that
        has happened too often."""
        try:
            self._copy(bucket, path)
        except Exception as error:
            if failure_of(error).kind != "replaced":
                raise
            self._restarts += 1
            text = f"it was replaced {self._restarts} times while it was read"
            self._restart()
            raise (ConnectionError(text) if self._restarts < MAX_TRIES else OSError(f"{path}: {text}")) from None

    def _copy(self, bucket: Any, path: str) -> None:
        if self._e_tag is None:
            self._restart()
        if (start := self.tell()) == self._size_bytes:
            return
        options: dict[str, Any] = {"if_match": self._e_tag} if self._e_tag else {}
        if start:
            options["range"] = {"offset": start}
        result = bucket.get(path, options=options)
        self._e_tag, self._size_bytes = result.meta["e_tag"], result.meta["size"]
        for chunk in result.stream(CHUNK_BYTES):
            self._file.write(chunk)
        if self.tell() != self._size_bytes:
            raise ConnectionError(f"the connection ended after {self.tell():,} of {self._size_bytes:,} bytes")

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._e_tag, self._size_bytes = None, -1
