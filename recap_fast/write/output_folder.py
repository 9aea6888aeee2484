"""Where everything of an output lies, and what it is called; no other file spells these names.

run.json, README.md, data/<shard>.parquet, manifests/<shard>.json, partial/<shard>/<stretch>.parquet.
"""

from dataclasses import dataclass
from pathlib import Path

_DATA, _RECORDS, _PARTIAL = "data", "manifests", "partial"
DATA_FILES = f"{_DATA}/**/*.parquet"
"""The captions of all shards, as a glob."""


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """What all runs with one `--output` write."""

    root: Path

    @property
    def run_file(self) -> Path:
        """What the runs have in common, and their shards."""
        return self.root / "run.json"

    @property
    def card(self) -> Path:
        """The dataset card."""
        return self.root / "README.md"

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        """Of done-records, captions and stretches, in the order in which to remove them."""
        return self.root / _RECORDS, self.root / _DATA, self.root / _PARTIAL

    def data(self, name: str) -> Path:
        """The captions of a shard."""
        return self.root / _DATA / f"{name}.parquet"

    def record(self, name: str) -> Path:
        """The done-record of a shard."""
        return self.root / _RECORDS / f"{name}.json"

    def partial(self, name: str) -> Path:
        """The folder of a shard's stretches."""
        return self.root / _PARTIAL / name

    def data_files(self) -> list[Path]:
        """The captions of all shards that are there, sorted."""
        return sorted(self.root.glob(DATA_FILES))

    def record_files(self) -> list[Path]:
        """The done-records of all shards that are there, sorted."""
        return sorted((self.root / _RECORDS).rglob("*.json"))
