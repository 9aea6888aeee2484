"""What an export is asked to do: one frozen record, checked when it is made."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, get_args

from recap_fast.addresses import is_remote, public_url
from recap_fast.errors import ConfigError
from recap_fast.shards.sample import is_image_name

Kind = Literal["webdataset", "txt", "jsonl", "csv", "parquet", "coco", "hub"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Sentence = Literal["first", "random"]
Place = Literal["json", "txt"]
FAILED = "failed"
"""Stands in `skip` for rows without a caption."""
_EXTENSION = re.compile(r"\.[A-Za-z0-9_-]{1,20}")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """The options of `recap-fast export` as they were typed. Patterns are not expanded."""

    output: str
    """The output of a run: a local folder, or a URL of an object store."""
    to: Kind
    target: Path | None = None
    """The local folder to write to; None: beside the images."""
    beside: bool = False
    """For txt: whether the target is the folder of the images."""
    extension: str = ".txt"
    """For txt: extension of the files."""
    shards: tuple[str, ...] = ()
    """Values of `--shards`; none: the inputs are where the run found them."""
    relocate: tuple[str, ...] = ()
    """Folders of inputs that were moved, each as 'OLD=NEW'."""
    caption: str | None = None
    """The caption to take where a row has several, by the name of its prompt; None: the first."""
    skip: tuple[str, ...] = ()
    """Flags of rows to leave out; FAILED means without a caption."""
    columns: tuple[str, ...] = ()
    """Columns of the output to export besides the captions."""
    caption_in: Place | None = None
    """For webdataset: the member that gets the captions. None: txt with `mix_p`, else json."""
    mix_p: float | None = None
    """Write one caption: the original with this probability, else the new one. None: no draw."""
    seed: int = 0
    """Random seed for `mix_p` and for `sub_caption` 'random'."""
    sub_caption: Sentence | None = None
    """Write one sentence of each new caption."""
    repo: str | None = None
    """For hub: the dataset to upload to, 'NAME/DATASET'."""
    private: bool = False
    """For hub: whether a new dataset is private."""
    license: str | None = None
    """For hub: the Hub's name of the license; None: that of the model, if it is known."""
    images: bool = True
    """For parquet and hub: whether to include the images."""
    overwrite: bool = False
    """Replace files that this program did not write, and an export with other settings."""
    verify: bool = True
    """Read back and compare what was copied."""
    workers: int = 1
    """Number of processes that write."""
    read_timeout: float = 30.0
    """Seconds after which a read of an input that brings no data is given up."""

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        _check_name("--to", self.to, KINDS)
        _check_columns(self.columns)
        _check_skip(self.skip)
        if self.mix_p is not None and not 0.0 <= self.mix_p <= 1.0:
            raise ConfigError(f"--mix-p {self.mix_p:g}: give the probability of the original caption, from 0 to 1.")
        if self.mix_p is not None and self.caption_in == "json":
            raise ConfigError(
                "--mix-p writes one caption, but --caption-in json writes both: leave one of the two out."
            )
        if (self.target is None) != self.beside:
            given = "--target and --beside were both given" if self.beside else "--target is missing"
            raise ConfigError(f"{given}: give --target DIR, or with --to txt --beside to write beside the images.")
        self._check_kind()
        if self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: give a count of at least 1.")
        if not self.read_timeout > 0 or math.isnan(self.read_timeout):
            raise ConfigError(f"--read-timeout {self.read_timeout}: give a number of seconds above 0.")

    def _check_kind(self) -> None:
        """Raises ConfigError for an option of another kind."""
        tables = "jsonl", "csv", "parquet", "hub"
        for option, is_given, kinds in (
            ("--caption-in", self.caption_in is not None, ("webdataset",)),
            ("--beside", self.beside, ("txt",)),
            ("--extension", self.extension != ".txt", ("txt",)),
            ("--repo", self.repo is not None, ("hub",)),
            ("--private", self.private, ("hub",)),
            ("--license", self.license is not None, ("hub",)),
            ("--no-images", not self.images, ("parquet", "hub")),
            ("--columns", bool(self.columns), ("webdataset", *tables)),
            ("--mix-p", self.mix_p is not None, ("webdataset", "txt", *tables)),
        ):
            if is_given and self.to not in kinds:
                listed = " or ".join([", ".join(kinds[:-1]), kinds[-1]]) if kinds[1:] else kinds[0]
                raise ConfigError(f"{option} is for --to {listed}, not for {self.to}: leave it out.")
        if not _EXTENSION.fullmatch(self.extension):
            raise ConfigError(f"--extension {self.extension}: give one such as .txt or .caption.")
        if is_image_name(self.extension):
            raise ConfigError(f"--extension {self.extension} is that of images: give one such as .txt or .caption.")
        if self.to == "hub" and self.repo is None:
            raise ConfigError("--to hub needs --repo NAME/DATASET, the dataset to upload to.")
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise ConfigError(
                f"--license {self.license!r}: give a name that the Hub uses, such as llama3, cc-by-4.0 or other."
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From the values of options by their names; None is the default. A list may also be a text with commas.

        Raises ConfigError.
        """
        flat = {name: value for name, value in given.items() if value is not None}
        for name in ("skip", "columns"):
            flat[name] = _words(flat.get(name, ()))
        for name in ("shards", "relocate"):
            flat[name] = tuple(map(str, flat.get(name, ())))
        if "target" in flat:
            if is_remote(target := str(flat["target"])):
                raise ConfigError(f"--target {public_url(target)}: give a local folder, and copy the files from there.")
            flat["target"] = Path(target)
        return cls(**flat)

    @property
    def place(self) -> Place:
        """For webdataset: the member that gets the captions."""
        return self.caption_in or ("json" if self.mix_p is None else "txt")

    @property
    def record_name(self) -> str:
        """Name of the records in the target. Exports with different names may share a target."""
        return f"{self.to}{self.extension}" if self.to == "txt" else self.to

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides what is written, by the names of the options."""
        names = ("to", "skip", "columns", "mix_p", "seed", "sub_caption")
        more = {"txt": ("extension",), "parquet": ("images",), "hub": ("images",)}
        drawn = {"caption_in": self.place} if self.to == "webdataset" else {}
        asked = {} if self.caption is None else {"caption": self.caption}
        return {**{name: _plain(getattr(self, name)) for name in (*names, *more.get(self.to, ()))}, **drawn, **asked}


def _plain(value: Any) -> Any:
    """The value as JSON reads it back."""
    return list(value) if isinstance(value, tuple) else value


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    words = given.split(",") if isinstance(given, str) else given
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


def _check_columns(columns: Sequence[str]) -> None:
    from recap_fast.write.schema import SCHEMA  # pyarrow: not for the help

    for name in columns:
        _check_name("--columns", name, SCHEMA.names)


def _check_skip(flags: Sequence[str]) -> None:
    if set(flags) <= {FAILED}:
        return
    from recap_fast.write.flags import FLAGS

    for name in flags:
        _check_name("--skip", name, (*FLAGS, FAILED))


def _check_name(option: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(f"{option} {name}: give one of {', '.join(known)}.{near(name, known)}")


def near(name: str, known: Sequence[str]) -> str:
    """' Did you mean ...?', if one of the known names is like this one."""
    found = get_close_matches(name, known, 1)
    return f" Did you mean {found[0]}?" if found else ""
