"""Units of loose images: the files of each are recorded once, so that files that come later change no other unit.

The images of a folder go in, units of up to 1,000 come out. A unit never gets other files, and only loses those that
are pruned. Each unit has a file, `{"format": 1, "base": "photos", "files": [...], "keys": {...}, "pruned": [...]}`.
Its name has a digest of its content: no two processes ever write different files of one name.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from recap_fast.errors import ConfigError
from recap_fast.records import ImageFile
from recap_fast.write.names import unused
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.typed_json import read_json, typed

FORMAT = 1
UNIT_IMAGES = 1000
MAX_BYTES = 64 << 20
"""Largest file of a unit that is read; a usual one has 50 kB."""
NUM_THREADS = 16
"""Files are read and written side by side: on an object store each takes its time."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Some images of a folder, each at a fixed place."""

    base: str
    """The folder's path from the inputs' common parent; '' if it is that parent."""
    files: tuple[str, ...]
    """Paths below the folder."""
    keys: Mapping[int, str]
    """Keys by place, for files whose key is not just their name without its suffix."""
    pruned: frozenset[int] = frozenset()
    """The places of files that are gone, and whose rows are."""

    def file_name(self, place: int) -> str:
        """A file's path from the inputs' common parent."""
        return f"{self.base}/{self.files[place]}" if self.base else self.files[place]

    def key(self, place: int) -> str:
        """A file's key."""
        return self.keys.get(place) or _without_suffix(self.file_name(place))

    @property
    def places(self) -> Iterator[int]:
        """The places of the files that were not pruned."""
        return (place for place in range(len(self.files)) if place not in self.pruned)

    def without(self, places: Iterable[int]) -> "Unit":
        """The same unit, with these files pruned."""
        return replace(self, pruned=self.pruned.union(places))

    def image_files(self, versions: Mapping[int, str | None]) -> tuple[ImageFile | None, ...]:
        """The images as a shard has them; `versions` are the files' as they are now."""
        return tuple(
            None if place in self.pruned else ImageFile(path, self.file_name(place), self.key(place), versions[place])
            for place, path in enumerate(self.files)
        )


def make_units(base: str, paths: Sequence[str], used_keys: set[str]) -> list[Unit]:
    """Units for images that have none yet; adds their keys, each of which is unique, to `used_keys`."""
    units = []
    for first in range(0, len(paths), UNIT_IMAGES):
        unit = Unit(base, tuple(paths[first : first + UNIT_IMAGES]), {})
        keys = {}
        for place in range(len(unit.files)):
            name = unit.file_name(place)
            key = _without_suffix(name)
            if key in used_keys:
                key = keys[place] = unused(name, used_keys)
            used_keys.add(key)
        units.append(replace(unit, keys=keys))
    return units


def read_units(output: OutputFolder, digests: Mapping[str, str]) -> dict[str, Unit]:
    """The units by name. Raises ConfigError for a file that is missing or cannot be read."""

    def read(name: str) -> Unit:
        file = output.unit(name, digests[name])
        try:
            return _unit(typed(_Content, read_json(output.store, file, FORMAT, MAX_BYTES)))
        except (OSError, ValueError) as error:
            if output.is_out_of_reach(error):
                raise
            raise ConfigError(
                f"{output.store.shown(file)} cannot be read ({error!r}), so the images of unit {name} are not known: "
                "put it back from a copy, or give another --output."
            ) from error

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return dict(zip(digests, pool.map(read, digests), strict=True))


def write_units(output: OutputFolder, units: Mapping[str, Unit]) -> dict[str, str]:
    """Writes the files of units; returns the digests by the units' names."""
    contents = {name: _content(unit) for name, unit in units.items()}
    digests = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in contents.items()}

    def write(name: str) -> None:
        output.store.put(output.unit(name, digests[name]), contents[name])

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(write, contents))
    return digests


def _content(unit: Unit) -> bytes:
    content = {
        "format": FORMAT,
        "base": unit.base,
        "files": unit.files,
        "keys": unit.keys,
        "pruned": sorted(unit.pruned),
    }
    return (json.dumps(content) + "\n").encode()


@dataclass(frozen=True, slots=True)
class _Content:
    """The content of a unit's file, where keys are strings: JSON has no others."""

    base: str
    files: tuple[str, ...]
    keys: Mapping[str, str]
    pruned: tuple[int, ...]


def _unit(content: _Content) -> Unit:
    keys = {int(place): key for place, key in content.keys.items()}
    return Unit(content.base, content.files, keys, frozenset(content.pruned))


def _without_suffix(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return name if not stem or "/" in suffix else stem
