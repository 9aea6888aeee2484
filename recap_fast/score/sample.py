"""The random sample of images that --sample scores. The same seed always gives the same images."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sample:
    """About `number` images, chosen at random."""

    number: int
    seed: int = 0

    @property
    def settings(self) -> dict[str, int]:
        """The settings that decide about scores."""
        return {"sample": self.number, "seed": self.seed}

    def expected(self, number: int, total: int) -> int:
        """About how many of `number` images are in the sample, if all shards have `total` images."""
        return round(number * min(1.0, self.number / max(1, total)))

    def chosen(self, shard: str, indices: NDArray[np.int64], total: int) -> NDArray[np.bool_]:
        """Which rows of a shard are in the sample, if all shards have `total` images.

        Each row has a random number, made of seed, shard and index by SplitMix64 (Steele, Lea and Flood, "Fast
        splittable pseudorandom number generators", 2014). So neither the order nor other shards matter.
        """
        start = int.from_bytes(hashlib.sha256(f"{self.seed}\n{shard}".encode("utf-8", "surrogateescape")).digest()[:8])
        bits = np.uint64(start) + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
        picked: NDArray[np.bool_] = (bits >> np.uint64(11)) * 2.0**-53 < self.number / max(1, total)
        return picked
