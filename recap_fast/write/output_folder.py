"""Names and places of everything in an output folder; no other file spells these names.

run.json, local.json, README.md, data/<shard>.parquet, manifests/<shard>.json, partial/<shard>/<stretch>.parquet,
decoding/<process>.json, decoding/<shards>.lock, and for loose images units/<shard>.json.
"""

from dataclasses import dataclass
from pathlib import Path

_DATA, _RECORDS, _UNITS, _PARTIAL = "data", "manifests", "units", "partial"
DATA_FILES, PARTIAL_FILES = f"{_DATA}/**/*.parquet", f"{_PARTIAL}/**/*.parquet"
"""Globs of the captions of finished shards, and of unfinished ones."""


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """What all runs with one `--output` write."""

    root: Path

    @property
    def run_file(self) -> Path:
        """What the runs have in common, and their shards."""
        return self.root / "run.json"

    @property
    def local_file(self) -> Path:
        """What belongs to this machine, and is not to be published."""
        return self.root / "local.json"

    @property
    def card(self) -> Path:
        """The dataset card."""
        return self.root / "README.md"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders, in the order in which to remove them."""
        return *self.work_folders, self.decoding, self.units_folder

    @property
    def work_folders(self) -> tuple[Path, ...]:
        """The folders of done-records, captions and stretches."""
        return self.root / _RECORDS, self.root / _DATA, self.root / _PARTIAL

    @property
    def decoding(self) -> Path:
        """The folder of what processes are working on."""
        return self.root / "decoding"

    @property
    def units_folder(self) -> Path:
        """The folder of the files that say which loose images a shard has."""
        return self.root / _UNITS

    def data(self, name: str) -> Path:
        """The captions of a shard."""
        return self.root / _DATA / f"{name}.parquet"

    def record(self, name: str) -> Path:
        """The done-record of a shard."""
        return self.root / _RECORDS / f"{name}.json"

    def unit(self, name: str) -> Path:
        """The file that says which loose images a shard has; other shards have none."""
        return self.units_folder / f"{name}.json"

    def name_of(self, path: Path) -> str:
        """The shard that a file of captions or a done-record belongs to."""
        place = path.relative_to(self.root)
        return place.relative_to(place.parts[0]).with_suffix("").as_posix()

    def partial(self, name: str) -> Path:
        """The folder of a shard's stretches."""
        return self.root / _PARTIAL / name

    def data_files(self) -> list[Path]:
        """All files of captions that are there, sorted."""
        return sorted(self.root.glob(DATA_FILES))

    def partial_files(self) -> list[Path]:
        """All stretches that are there, sorted."""
        return sorted(self.root.glob(PARTIAL_FILES))

    @property
    def has_data(self) -> bool:
        """Whether a shard is finished."""
        return next(self.root.glob(DATA_FILES), None) is not None

    @property
    def filled(self) -> list[Path]:
        """The folders with rows: of finished shards, and of unfinished ones."""
        has_partial = next(self.root.glob(PARTIAL_FILES), None) is not None
        return [self.root / _DATA] * self.has_data + [self.root / _PARTIAL] * has_partial

    def record_files(self) -> list[Path]:
        """All done-records that are there, sorted."""
        return sorted((self.root / _RECORDS).rglob("*.json"))
