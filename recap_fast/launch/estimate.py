"""What a run will take, before it: its images, hours of GPUs, days, money and disk. Nothing is loaded or written.

In go inputs and an output folder; out comes an `Estimate`, which knows of each number where it is from.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recap_fast.errors import ConfigError
from recap_fast.launch.plan import without_collections
from recap_fast.launch.remaining import Done, find_remaining
from recap_fast.launch.speeds import Speed
from recap_fast.progress import OnProgress, unwatched
from recap_fast.records import Selection
from recap_fast.shards.census import Census, take_census
from recap_fast.shards.expand import expand
from recap_fast.write.output_folder import OutputFolder

DEMO_ROW_BYTES = 215
"""Of a row in the output of the demo's shards (1,000 rows each, captions of 63 tokens, url, uid, sha256 and json)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the rest of a run will take. Without a speed or a price, what follows from it is None."""

    census: Census
    """Of the shards that are to be done."""
    done: Done
    speed: Speed | None = None
    workers: int = 1
    """GPUs, or CPUs, that work at the same time."""
    price_per_hour: float | None = None
    """Of one of them, in dollars."""

    @property
    def gpu_hours(self) -> float | None:
        """Of all workers together, without their start."""
        return None if self.speed is None else self.census.total.images / self.speed.images_per_s / 3600

    @property
    def seconds(self) -> float | None:
        """From start to end. A shard is done by one worker: so many rounds of shards of the mean size."""
        if self.gpu_hours is None:
            return None
        shards = self.census.total.shards - self.census.unreadable.shards
        return 3600 * self.gpu_hours * math.ceil(shards / self.workers) / max(shards, 1)

    @property
    def dollars(self) -> float | None:
        """For the GPU-hours."""
        return None if self.gpu_hours is None or self.price_per_hour is None else self.gpu_hours * self.price_per_hour

    @property
    def dollars_per_million(self) -> float | None:
        """For a million images."""
        if self.speed is None or self.price_per_hour is None:
            return None
        return 1e6 / self.speed.images_per_s / 3600 * self.price_per_hour

    @property
    def row_bytes(self) -> float:
        """Of a row of the output: as in its finished shards, else as in the demo's."""
        return self.done.size_bytes / self.done.rows if self.done.rows else DEMO_ROW_BYTES

    @property
    def output_bytes(self) -> int:
        """Of the rows that are to be written."""
        return round(self.row_bytes * self.census.total.images)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "to_do": asdict(self.census.total),
            "counted": {origin: asdict(tally) for origin, tally in self.census.counted.items()},
            "estimated": [asdict(each) for each in self.census.estimated],
            "unreadable": asdict(self.census.unreadable),
            "problems": [asdict(each) for each in self.census.problems],
            "done": asdict(self.done),
            "images_per_s": self.speed and self.speed.images_per_s,
            "images_per_s_from": self.speed and self.speed.origin,
            "workers": self.workers,
            "gpu_hours": self.gpu_hours,
            "seconds": self.seconds,
            "price_per_hour": self.price_per_hour,
            "dollars": self.dollars,
            "dollars_per_million_images": self.dollars_per_million,
            "row_bytes": round(self.row_bytes, 1),
            "output_bytes": self.output_bytes,
        }


@without_collections()
def estimate(
    shards: Sequence[str],
    selection: Selection,
    *,
    output: str | None = None,
    speed: Speed | None = None,
    workers: int = 1,
    price_per_hour: float | None = None,
    progress: OnProgress = unwatched,
) -> Estimate:
    """Estimates a run on `shards`, without the shards that `output` has finished.

    `progress` is told how many shards are looked at. Raises ConfigError for inputs, an output or numbers that cannot be
    used, and InputError where inputs cannot be reached.
    """
    if workers < 1:
        raise ConfigError(f"--workers {workers}: give a count of at least 1.")
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise ConfigError(f"--price-per-hour {price_per_hour:g}: give dollars, 0 or more.")
    inputs = expand(shards, selection, () if output is None else OutputFolder.at(output).row_folders)
    to_do, done = find_remaining(inputs, output)
    census = take_census(to_do, selection, progress)
    return Estimate(census=census, done=done, speed=speed, workers=workers, price_per_hour=price_per_hour)
