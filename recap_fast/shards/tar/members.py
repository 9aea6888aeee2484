"""The members of a tar by sample, in some tens of bytes each. In go members in order; out come those of each sample."""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recap_fast.shards.tar.index import Member
from recap_fast.shards.tar.keys import inner_keys, kind_of, split_name
from recap_fast.shards.tar.links import Link, resolve

_MASK_BITS = 64


@dataclass(slots=True)
class TarMembers:
    """Add all members, then `finish`, then ask for those of a sample. A member is known by its number among those that
    have a key and an extension."""

    keys: list[bytes] = field(default_factory=list)
    """Of each sample."""
    current: dict[bytes, int] = field(default_factory=dict)
    """The latest sample of each key."""
    repeated: set[int] = field(default_factory=set)
    """Samples whose key an earlier one has too."""
    extension_ids: dict[bytes, int] = field(default_factory=dict)
    """Of each extension, its number in the next three."""
    extensions_as_written: list[bytes] = field(default_factory=list)
    extension_names: list[str] = field(default_factory=list)
    """In lower case."""
    lower_ids: "array[int]" = field(default_factory=lambda: array("I"))
    """The number of the same extension in lower case."""
    masks: "array[int]" = field(default_factory=lambda: array("Q"))
    """Per sample, which of the first 64 extensions it has; `rare` holds the others."""
    rare: set[tuple[int, int]] = field(default_factory=set)
    samples: "array[int]" = field(default_factory=lambda: array("i"))
    """Of each member; so are the next three."""
    extensions: "array[int]" = field(default_factory=lambda: array("I"))
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    """Bytes."""
    special: dict[int, str] = field(default_factory=dict)
    """Members without content of their own, and what they are."""
    sparse: dict[int, Member] = field(default_factory=dict)
    """Members whose content has holes."""
    links: list[tuple[int | None, Link]] = field(default_factory=list)
    """With the member that each is, where it is one."""
    linked: set[int] = field(default_factory=set)
    """Members whose content a link has."""
    aside: "array[int]" = field(default_factory=lambda: array("q"))
    """What has no key or no extension, by its number in the tar."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Such by kind, but for those whose content a link has."""
    order: NDArray[np.int64] = field(init=False)
    starts: NDArray[np.int64] = field(init=False)
    """Sample i has the members `order[starts[i] : starts[i + 1]]`, in tar order."""

    def add(self, member: Member) -> None:
        """Takes the next member of the tar."""
        row = len(self.samples)
        parts = split_name(member.name)
        if member.link is not None:
            self.links.append((None if parts is None else row, Link(row + len(self.aside), member)))
        if parts is None:
            self.aside.append(row + len(self.aside))
            self.left_out[kind_of(member.name)] += 1
            return
        key, extension_name = parts
        extension = self.extension_ids.get(extension_name)
        if extension is None:
            extension = self._new_extension(extension_name)
        lower = self.lower_ids[extension]
        sample = self.current.get(key)
        if sample is None or self._has(sample, lower):
            if sample is not None:
                self.repeated.add(len(self.keys))
            sample = self.current[key] = len(self.keys)
            self.keys.append(key)
            self.masks.append(0)
        if lower < _MASK_BITS:
            self.masks[sample] |= 1 << lower
        else:
            self.rare.add((sample, lower))
        if member.special is not None:
            self.special[row] = member.special
        if member.pieces is not None:
            self.sparse[row] = member
        self.samples.append(sample)
        self.extensions.append(extension)
        self.offsets.append(member.offset)
        self.sizes.append(member.size)

    def _has(self, sample: int, extension: int) -> bool:
        if extension < _MASK_BITS:
            return bool(self.masks[sample] >> extension & 1)
        return (sample, extension) in self.rare

    def _new_extension(self, name: bytes) -> int:
        lower = name.lower()
        lower_id = self.extension_ids.get(lower)
        if lower_id is None and lower != name:
            lower_id = self._new_extension(lower)
        number = self.extension_ids[name] = len(self.extension_names)
        self.extensions_as_written.append(name)
        self.extension_names.append(lower.decode("utf-8", "backslashreplace"))
        self.lower_ids.append(number if lower_id is None else lower_id)
        return number

    def finish(self, again: Callable[[], Iterable[Member]], *, dots_in_keys: bool) -> None:
        """Gives each link the content that it stands for, and sorts the members by sample.

        `again` gives all members once more. `dots_in_keys`: whether a key may go beyond the first dot (`tar_keys`).
        """
        if self.links:
            self._resolve(again())
        samples = np.array(self.samples, np.int64)
        if dots_in_keys:
            samples = self._move_dots(samples)
        self.order = np.argsort(samples, kind="stable")
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(samples, minlength=len(self.keys)))])
        self.samples = array("i", samples.astype(np.int32).tobytes())
        # all this was for grouping, and would stay for as long as the shard is read
        self.current, self.rare, self.links = {}, set(), []
        del self.masks[:], self.aside[:]

    def of(self, sample: int) -> dict[str, int]:
        """Extension, in lower case, to member, of one sample in tar order."""
        rows: list[int] = self.order[self.starts[sample] : self.starts[sample + 1]].tolist()
        return {self.extension_names[self.extensions[row]]: row for row in rows}

    def name(self, row: int) -> bytes:
        """A member's name, without `./` or `/` before it."""
        return self.keys[self.samples[row]] + b"." + self.extensions_as_written[self.extensions[row]]

    def _resolve(self, members: Iterable[Member]) -> None:
        used: set[int] = set()
        for (row, _), target in zip(self.links, resolve([link for _, link in self.links], members), strict=True):
            found = target.member
            if found is None:
                if row is not None:
                    self.special[row] = target.reason
                continue
            if row is not None:
                self.offsets[row], self.sizes[row] = found.offset, found.size
                if found.pieces is not None:
                    self.sparse[row] = found
            if target.number not in used:
                used.add(target.number)
                place = bisect_left(self.aside, target.number)
                if place < len(self.aside) and self.aside[place] == target.number:
                    self.left_out[kind_of(found.name)] -= 1
                else:
                    self.linked.add(target.number - place)

    def _move_dots(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sample of each member once keys have the dots that belong to them."""
        names = self.extensions_as_written
        plain = np.array([b"." not in name for name in names], bool)
        dotted = np.ones(len(self.keys), bool)
        dotted[samples[plain[np.array(self.extensions, np.int64)]]] = False
        if not dotted.any():
            return samples
        rows_of: dict[int, list[int]] = {}
        for row in np.flatnonzero(dotted[samples]).tolist():
            rows_of.setdefault(int(samples[row]), []).append(row)
        samples = samples.copy()
        made: dict[tuple[int, bytes], int] = {}
        for sample, rows in rows_of.items():
            extensions = [names[self.extensions[row]] for row in rows]
            for row, extension, inner in zip(rows, extensions, inner_keys(extensions) or (), strict=False):
                if (sample, inner) not in made:
                    made[sample, inner] = len(self.keys)
                    self.keys.append(self.keys[sample] + b"." + inner)
                samples[row] = made[sample, inner]
                rest = extension[len(inner) + 1 :]
                number = self.extension_ids.get(rest)
                self.extensions[row] = self._new_extension(rest) if number is None else number
        return self._in_order(samples) if made else samples

    def _in_order(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers the samples anew, by their first members."""
        old, first, inverse = np.unique(samples, return_index=True, return_inverse=True)
        by_first = np.argsort(first)
        self.keys = [self.keys[sample] for sample in old[by_first].tolist()]
        seen: set[bytes] = set()
        self.repeated = set()
        for sample, key in enumerate(self.keys):
            if key in seen:
                self.repeated.add(sample)
            seen.add(key)
        rank = np.empty(len(old), np.int64)
        rank[by_first] = np.arange(len(old))
        renumbered: NDArray[np.int64] = rank[inverse]
        return renumbered
