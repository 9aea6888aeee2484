"""How many workers there are to be: as many as fit and are of use, within what the user allows."""

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The workers at one moment, and what is left for them."""

    placed: int
    """Workers that have their place in the cluster."""
    starting: int
    """Of these, those whose engine is not open yet: each will want a shard."""
    fits: int
    """Workers for which the cluster has room now."""
    pending: int
    """Shards that nobody has."""
    boot_s: float | None = None
    """How long a worker takes to open its engine; None where none has yet."""
    rest_s: float | None = None
    """How long the rest takes at the present rate; None where nothing is known."""

    @property
    def useful(self) -> int:
        """How many workers more would each find a shard, and be ready before the rest is done."""
        is_late = self.boot_s is not None and self.rest_s is not None and self.boot_s > self.rest_s
        return 0 if is_late and self.placed > 0 else max(0, self.pending - self.starting)

    def wanted(self, least: int, most: int | None) -> int:
        """How many workers should wait for a place or be given one now.

        One more than fits, so that an autoscaler sees that there is work for it; `most` where that is given.
        """
        total = max(least, self.placed + self.fits + 1) if most is None else most
        return max(0, min(total - self.placed, self.useful))


class BootTimes:
    """How long workers take to open their engines, in seconds from when their process was there."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def note(self, worker: str, seconds: float) -> None:
        """One worker's time."""
        self._seconds[worker] = seconds

    @property
    def usual(self) -> float | None:
        """The median; None where none is known."""
        return median(self._seconds.values()) if self._seconds else None

    def __len__(self) -> int:
        return len(self._seconds)
