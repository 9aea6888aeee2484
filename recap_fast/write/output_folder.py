"""Names of everything in an output folder, local or on an object store; no other file spells these names.

run.json, local.json, README.md, data/<shard>.parquet, manifests/<shard>.json, partial/<shard>/<stretch>.parquet,
decoding/<process>.json, workers/<process>.json, metrics.jsonl, for loose images units/<shard>.<digest>.json, and from
`recap-fast score` scores/<kind>/<shard>.parquet with the settings in scores/<kind>.json.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recap_fast.addresses import is_remote
from recap_fast.store.opening import open_store
from recap_fast.store.store import Store, StoredFile, has_any

RUN_FILE = "run.json"
"""What the runs into a folder have in common, and their shards."""
LOCAL_FILE = "local.json"
"""What belongs to this machine, and is not to be published."""
CARD = "README.md"
"""The dataset card."""
_DATA, _RECORDS, _UNITS, _PARTIAL, _DECODING = "data", "manifests", "units", "partial", "decoding"
DATA_FILES, PARTIAL_FILES = f"{_DATA}/**/*.parquet", f"{_PARTIAL}/**/*.parquet"
"""Globs of the captions of finished shards, and of unfinished ones."""
WORK_FOLDERS = _RECORDS, _DATA, _PARTIAL
"""The folders of done-records, captions and stretches."""
WORKERS = "workers"
"""The folder of notes about the processes at work. They name hosts, and are not to be published."""
_SCORES = "scores"
FOLDERS = *WORK_FOLDERS, _DECODING, WORKERS, _UNITS, _SCORES
"""All folders, in the order in which to remove them."""


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """What all runs with one `--output` write."""

    store: Store

    @classmethod
    def at(cls, address: str | Path) -> "OutputFolder":
        """The output folder at a local path or a URL. Raises ConfigError for a URL where captions cannot go."""
        return cls(open_store(address))

    @property
    def address(self) -> str:
        """The folder's path or URL, as people know it."""
        return self.store.address

    @property
    def decoding(self) -> Path:
        """The local folder of what processes are decoding."""
        return self.store.scratch / _DECODING

    def is_out_of_reach(self, error: Exception) -> bool:
        """Whether an error says of an object store that it does not answer, denies access, or the like.

        That is no fault of the file that was asked for. It ends a run, or whatever else is done.
        """
        return is_remote(self.address) and isinstance(error, OSError) and not isinstance(error, FileNotFoundError)

    def data(self, shard: str) -> str:
        """The captions of a shard."""
        return f"{_DATA}/{shard}.parquet"

    def record(self, shard: str) -> str:
        """The done-record of a shard."""
        return f"{_RECORDS}/{shard}.json"

    def unit(self, shard: str, digest: str) -> str:
        """The file that says which loose images a shard has; other shards have none."""
        return f"{_UNITS}/{shard}.{digest}.json"

    def scores(self, kind: str, shard: str) -> str:
        """The scores of one kind of a shard's captions."""
        return f"{_SCORES}/{kind}/{shard}.parquet"

    def has_scores(self, kind: str) -> bool:
        """Whether a shard has scores of that kind."""
        return has_any(self.store, f"{_SCORES}/{kind}")

    def score_settings(self, kind: str) -> str:
        """What the scores of one kind were made with."""
        return f"{_SCORES}/{kind}.json"

    def score_files(self, kind: str) -> str:
        """A glob of all files with scores of one kind."""
        return f"{_SCORES}/{kind}/**/*.parquet"

    def partial(self, shard: str) -> str:
        """The folder of a shard's stretches."""
        return f"{_PARTIAL}/{shard}"

    def shard_of(self, name: str) -> str:
        """The shard that a file of captions or a done-record belongs to."""
        return name.partition("/")[2].rpartition(".")[0]

    def data_files(self) -> Iterator[StoredFile]:
        """All files of captions that are there, sorted."""
        return (file for file in self.store.list(_DATA) if file.name.endswith(".parquet"))

    def record_files(self) -> Iterator[StoredFile]:
        """All done-records that are there, sorted."""
        return (file for file in self.store.list(_RECORDS) if file.name.endswith(".json"))

    def partial_files(self) -> Iterator[StoredFile]:
        """All stretches that are there, sorted."""
        return (file for file in self.store.list(_PARTIAL) if file.name.endswith(".parquet"))

    def metrics(self, part: tuple[int, int]) -> str:
        """The figures over time of the process that does this part, counted from 0."""
        index, num = part
        return "metrics.jsonl" if num == 1 else f"metrics-{index + 1}-of-{num}.jsonl"

    def is_metrics(self, name: str) -> bool:
        """Whether a file has the figures of any part."""
        return name.startswith("metrics") and name.endswith(".jsonl")

    @property
    def row_folders(self) -> tuple[str, str]:
        """The addresses of the folders with rows, there or not."""
        return self.store.shown(_DATA), self.store.shown(_PARTIAL)

    @property
    def has_data(self) -> bool:
        """Whether a shard is finished."""
        return next(self.data_files(), None) is not None

    @property
    def has_work(self) -> bool:
        """Whether anything was made of a shard."""
        return any(has_any(self.store, folder) for folder in WORK_FOLDERS)

    @property
    def filled(self) -> list[str]:
        """The addresses of the folders with rows: of finished shards, and of unfinished ones."""
        found = [_DATA] * self.has_data + [_PARTIAL] * (next(self.partial_files(), None) is not None)
        return [self.store.shown(folder) for folder in found]
