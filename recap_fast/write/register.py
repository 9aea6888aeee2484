"""Says which input is which shard of an output folder: known inputs keep their names, new ones get one, for good.

What the folder has recorded and the inputs of a run go in. The run's shards come out, and the register with the new
ones. Nothing is read or written here.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from recap_fast.addresses import common_parts, is_below, path_parts, public_url, relative
from recap_fast.errors import ConfigError
from recap_fast.inputs import Inputs, Source
from recap_fast.records import Shard
from recap_fast.write.names import folded, safe_name, unused
from recap_fast.write.units import Unit, make_units

VersionsOf = Callable[[str, Sequence[str]], Sequence[str | None]]
"""Gives `Identity.text` of the images at some paths below a folder, as they are now; None for one that is gone."""


@dataclass(slots=True, frozen=True)
class Register:
    """What an output folder has recorded of its shards."""

    root: str
    """The inputs' common parent in the first run; file names are paths below it."""
    shards: Mapping[str, str] = field(default_factory=dict)
    """Name to URL; for a unit, that of its folder."""
    units: Mapping[str, Unit] = field(default_factory=dict)
    """The shards that are units of loose images, by name."""

    def relocated(self, old: str, new: str) -> "Register":
        """The register after inputs have moved from folder `old` to folder `new`; inputs already there stay.

        Raises ConfigError if no input lay in either folder, or if two inputs would become one.
        """

        def move(url: str) -> str:
            is_moved = is_below(url, old) and (is_below(old, new) or not is_below(url, new))
            return f"{new}/{relative(url, old)}".rstrip("/") if is_moved else url

        if not any(is_below(url, old) or is_below(url, new) for url in self.shards.values()):
            raise ConfigError(
                f"--relocate {old}={new}: no input of this output folder lay in {old}; run.json says where they lay."
            )
        moved = Register(move(self.root), {name: move(url) for name, url in self.shards.items()}, self.units)
        if moved.shards != self.shards and (both := moved.first_repeated()):
            raise ConfigError(f"--relocate {old}={new}: the output folder has rows of {both} already.")
        return moved

    def first_repeated(self) -> str | None:
        """The URL of an input that is there twice, or None."""
        seen: set[str] = set()
        for name, url in self.shards.items():
            unit = self.units.get(name)
            for each in [url] if unit is None else [_join(url, unit.files[place]) for place in unit.places]:
                if each in seen:
                    return each
                seen.add(each)
        return None


@dataclass
class Registration:
    """Finds the shards of a run, and gives names to those that are new."""

    register: Register
    versions_of: VersionsOf
    prune: bool = False
    """Whether to prune images that are gone from their units."""
    changed_units: dict[str, Unit] = field(default_factory=dict)
    """Units that are new, or have lost files: these are to be written."""

    def __post_init__(self) -> None:
        self._names = dict(self.register.shards)
        self._units = dict(self.register.units)

    def add(self, inputs: Inputs) -> tuple[Shard, ...]:
        """The shards of a run. Raises ConfigError for addresses that differ only in secret parts."""
        _refuse_equal_addresses(inputs)
        listed: dict[str, str] = {}
        for source in inputs.sources:
            folder = public_url(source.url)
            listed.update((_join(folder, path), version) for path, version in source.images)
        shards: dict[str, Shard] = {}
        for source in inputs.sources:
            if source.kind != "folder":
                name = self._of_file(source)
                shards.setdefault(name, Shard(name, source.url, source.kind))
                continue
            for name in self._of_folder(source):
                shards.setdefault(name, self._unit_shard(name, source.url, listed))
        folders = [*inputs.folders, *(source.url for source in inputs.sources if source.kind == "folder")]
        for url in dict.fromkeys(folders):
            for name in self._bereft(url, listed):
                shards.setdefault(name, self._unit_shard(name, url, listed))
        # in order of registration, so that processes which list the inputs at different moments agree on their parts
        return tuple(shards[name] for name in self._names if name in shards)

    @property
    def result(self) -> Register:
        """The register with all that was added."""
        return Register(self.register.root, self._names, self._units)

    @cached_property
    def _by_url(self) -> dict[str, str]:
        return {url: name for name, url in self._names.items() if name not in self._units}

    @cached_property
    def _located(self) -> dict[str, str]:
        """The unit of each loose image, by its URL."""
        return {
            _join(self._names[name], unit.files[place]): name
            for name, unit in self._units.items()
            for place in unit.places
        }

    @cached_property
    def _used_keys(self) -> set[str]:
        return {unit.key(place) for unit in self._units.values() for place in unit.places}

    def _of_file(self, source: Source) -> str:
        url = public_url(source.url)
        if url not in self._by_url:
            stem = url.rpartition(".")[0] if "." in url.rpartition("/")[2] else url
            name = self._unused(safe_name(self._path(stem)))
            self._by_url[url] = name
            self._names[name] = url
        return self._by_url[url]

    def _of_folder(self, source: Source) -> list[str]:
        folder = public_url(source.url)
        located = [self._located.get(_join(folder, image)) for image, _ in source.images]
        names = list({name for name in located if name is not None})
        new = [image for (image, _), name in zip(source.images, located, strict=True) if name is None]
        if not new:
            return names
        path = self._path(folder)
        for unit in make_units(relative(folder, self.register.root), new, self._used_keys):
            name = self._unit_name(f"{safe_name(path)}/" if path else "")
            self._names[name] = folder
            self._units[name] = self.changed_units[name] = unit
            self._located.update((_join(folder, image), name) for image in unit.files)
            names.append(name)
        return names

    def _bereft(self, url: str, listed: Mapping[str, str]) -> Iterator[str]:
        """Units with images below a folder of which none is listed and some are gone, and units without any image.

        This finds units that a killed run has pruned without removing their rows.
        """
        url = public_url(url)
        for name, unit in self._units.items():
            folder, paths = self._names[name], [unit.files[place] for place in unit.places]
            if any(_join(folder, path) in listed for path in paths):
                continue
            inside = [path for path in paths if is_below(_join(folder, path), url)]
            if (inside and None in self.versions_of(folder, inside)) or (not paths and is_below(folder, url)):
                yield name

    def _unit_name(self, prefix: str) -> str:
        """The number after that of the folder's last unit, or a name like it if a tar has that one."""
        number = self._next_numbers[prefix]
        self._next_numbers[prefix] += 1
        name = f"{prefix}{number:05d}"
        return self._unused(f"{prefix}images-{number:05d}" if folded(name) in self._folded else name)

    def _unused(self, name: str) -> str:
        """The name, or one like it that collides with no other shard on any disk."""
        found = unused(name, self._folded, folded)
        self._folded.add(folded(found))
        return found

    @cached_property
    def _folded(self) -> set[str]:
        return {folded(name) for name in self._names}

    @cached_property
    def _next_numbers(self) -> dict[str, int]:
        """The next number of a unit, by the prefix of its name."""
        numbers: dict[str, int] = defaultdict(int)
        for name in self._units:
            prefix, _, last = name.rpartition("/")
            if match := re.fullmatch(r"(?:images-)?(\d+)", last):
                prefix = f"{prefix}/" if prefix else ""
                numbers[prefix] = max(numbers[prefix], int(match[1]) + 1)
        return numbers

    def _path(self, url: str) -> str:
        """The path below the recorded root, or below what the two have in common."""
        parts = path_parts(url)
        return "/".join(parts[len(common_parts([parts, path_parts(self.register.root)])) :])

    def _unit_shard(self, name: str, url: str, listed: Mapping[str, str]) -> Shard:
        folder, unit = self._names[name], self._units[name]
        # the URL of this run may have a login or a query, which the recorded one lacks
        url = url if public_url(url) == folder else folder
        versions: dict[int, str | None] = {place: listed.get(_join(folder, unit.files[place])) for place in unit.places}
        unlisted = [place for place, version in versions.items() if version is None]
        if unlisted:
            found = self.versions_of(url, [unit.files[place] for place in unlisted])
            versions.update(zip(unlisted, found, strict=True))
        gone = [place for place in unlisted if versions[place] is None]
        if gone and self.prune:
            unit = self._units[name] = self.changed_units[name] = unit.without(gone)
        return Shard(name, url, "folder", unit.image_files(versions))


def _refuse_equal_addresses(inputs: Inputs) -> None:
    seen: dict[str, str] = {}
    for source in inputs.sources:
        url = public_url(source.url)
        if seen.setdefault(url, source.url) != source.url:
            raise ConfigError(
                f"two inputs are {url} and differ only in their login or in what follows the '?'. Such parts may be "
                "secret and are not recorded, so nothing would tell the two apart: give each an --output of its own."
            )


def _join(folder: str, path: str) -> str:
    return f"{folder}/{path}"
