"""A terminal that a test looks at."""

import contextlib
import fcntl
import os
import pty
import struct
import termios
import threading


class Terminal:
    """Its `slave` is what a program writes to, `path` its name."""

    def __init__(self, columns: int = 80):
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.path = os.ttyname(self.slave)
        self._parts: list[bytes] = []
        self._reading = threading.Thread(target=self._read)  # a terminal that nobody reads stops its writers
        self._reading.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # Linux says so when the last writer has closed it
            while part := os.read(self._master, 1 << 16):
                self._parts.append(part)

    @property
    def text(self) -> str:
        """What was written to it so far."""
        return b"".join(self._parts).decode(errors="replace")

    def close(self) -> str:
        """All that was written to it, by programs that have ended."""
        os.close(self.slave)
        self._reading.join()
        os.close(self._master)
        return b"".join(self._parts).decode()
