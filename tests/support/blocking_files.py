"""A file system of fsspec whose operations can hang, fail and be slow, as those of a cloud or of a dead mount."""

import io
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import fsspec
from support.guard import GUARD_S


class BlockingFiles(fsspec.AbstractFileSystem):
    """`blocking://`: its files are those of a dictionary. Operations: info, ls, open, read."""

    protocol = "blocking"
    cachable = False
    shared: ClassVar[dict[str, Any]] = {}
    """What all instances have in common: fsspec makes one for each thread."""

    def __init__(self, **options: Any):
        if self.shared:
            self.__dict__ = self.shared
            return
        super().__init__(**options)
        self.files: dict[str, bytes] = {}
        self.slow_above = 1 << 60
        """Larger reads take for ever."""
        self.after_read: Callable[[], object] = lambda: None
        self.num_blocked = self._num_taken = 0
        self._faults: dict[str, deque[Exception | None]] = {}
        self._always: set[str] = set()
        self._released = threading.Event()
        type(self).shared = self.__dict__

    def block(self, operation: str, times: int | None = None) -> None:
        """Makes an operation hang until `release`, so many times or always."""
        if times is None:
            self._always.add(operation)
        else:
            self._faults.setdefault(operation, deque()).extend([None] * times)

    def fail(self, operation: str, *errors: Exception) -> None:
        """Makes an operation raise these, one after another."""
        self._faults.setdefault(operation, deque()).extend(errors)

    def release(self) -> None:
        """Ends whatever hangs."""
        self._released.set()

    def happen(self, operation: str) -> None:
        """Hangs or raises where the operation is to."""
        faults = self._faults.get(operation)
        if faults:
            error = faults.popleft()
            if error is not None:
                raise error
            self._hang()
        elif operation in self._always:
            self._hang()

    def take_hang(self) -> bool:
        """Whether something new hangs: in place of a deadline, which a busy machine could miss."""
        new = self.num_blocked > self._num_taken
        self._num_taken += new
        return new

    def _hang(self) -> None:
        self.num_blocked += 1
        self._released.wait(GUARD_S)
        raise ConnectionAbortedError("released")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        self.happen("info")
        if path in self.files:
            content = self.files[path]
            return {"name": path, "size": len(content), "type": "file", "ETag": f"{hash(content)}"}
        if any(name.startswith(f"{path}/") for name in self.files):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        self.happen("ls")
        if path in self.files:
            return [self.info(path)] if detail else [path]
        below = {name[: (name + "/").index("/", len(path) + 1)] for name in self.files if name.startswith(f"{path}/")}
        if not below:
            raise FileNotFoundError(path)
        return [self.info(name) for name in sorted(below)] if detail else sorted(below)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> "_File":
        self.happen("open")
        if path not in self.files:
            raise FileNotFoundError(path)
        return _File(self, self.files[path])


class _File(io.BytesIO):
    def __init__(self, system: BlockingFiles, content: bytes):
        super().__init__(content)
        self._system = system

    def read(self, size: int | None = -1) -> bytes:
        self._system.happen("read")
        if size is not None and size > self._system.slow_above:
            self._system._hang()
        content = super().read(size)
        self._system.after_read()
        return content


fsspec.register_implementation("blocking", BlockingFiles, clobber=True)
