"""Where a download goes, as the downloads see it."""

from typing import Protocol


class Sink(Protocol):
    """What has come of a file so far."""

    def tell(self) -> int:
        """The bytes that it has."""

    def restart(self) -> None:
        """Drops them."""

    def reserve(self, num_bytes: int) -> None:
        """Raises NoRoomError where so many more have no room."""

    def write(self, chunk: bytes) -> None:
        """Appends. Raises NoRoomError."""
