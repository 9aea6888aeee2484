"""Where the bytes of a tar's samples lie, headers and all: for whoever copies a tar and changes some of its members.

In goes an open tar; out come its rows, as the reader counts them, and the stretch of the file that each member takes.
"""

import os
from array import array
from typing import IO

from recap_fast.errors import ShardError
from recap_fast.records import Selection
from recap_fast.shards.tar.chunks import Chunks
from recap_fast.shards.tar.headers import BLOCK
from recap_fast.shards.tar.index import TarIndexer
from recap_fast.shards.tar.links import Link, normal
from recap_fast.shards.tar.members import TarMembers
from recap_fast.shards.tar.rows import HEAD_BYTES, TarRows, choose_rows
from recap_fast.shards.tar.side_files import Parts, sample_files


class TarLayout:
    """Of one tar. Members are known by their numbers in `members`. Raises ShardError where it is damaged or cut off."""

    def __init__(self, file: IO[bytes], selection: Selection) -> None:
        self.chunks, self._all_images = Chunks(file.fileno()), selection.images == "all"
        self.size_bytes = os.fstat(file.fileno()).st_size
        self.members = TarMembers()
        self._spans = array("q")
        """Of each member three places: its first byte, extended headers included; its header; what follows it."""
        self.num_members = 0
        """Those that are files or links, also without a sample."""
        self._prefixes: dict[int, bytes] = {}
        self._link_targets: set[bytes | None] = set()
        indexer = TarIndexer(file, self.size_bytes)
        for member in indexer:
            number = len(self.members.samples)
            self.members.add(member)
            self.num_members += 1
            if member.link is not None:
                self._link_targets.add(Link(0, member).target)
            if len(self.members.samples) > number:
                self._spans.extend(indexer.span)
                if member.name[:1] in (b".", b"/"):
                    self._prefixes[number] = member.name[: len(member.name) - len(self.members.name(number))]
        if indexer.problem is not None:
            raise ShardError(f"is {indexer.problem}: replace it with a whole one, and run again with --redo-changed")
        self.members.finish(lambda: TarIndexer(file, self.size_bytes), dots_in_keys=selection.image_key is None)
        self.rows: TarRows = choose_rows(self.members, selection, self._head, is_cut=False)

    def start(self, member: int) -> int:
        """The first byte of a member, its extended headers included."""
        return self._spans[3 * member]

    def end(self, member: int) -> int:
        """The first byte behind a member: a whole number of blocks."""
        return self._spans[3 * member + 2]

    def key(self, sample: int) -> str:
        """The key of a sample, as its rows have it."""
        return self.members.keys[sample].decode("utf-8", "backslashreplace")

    def path(self, member: int) -> bytes:
        """The name of a member as the tar has it, with what stands before its key."""
        return self._prefixes.get(member, b"") + self.members.name(member)

    def beside(self, member: int, extension: bytes) -> bytes:
        """The name of another member of the same sample."""
        key = self.members.keys[self.members.samples[member]]
        return self._prefixes.get(member, b"") + key + b"." + extension

    def parts(self, row: int) -> tuple[dict[str, int], Parts]:
        """The members of a row's sample by their extensions in lower case, in order; and what they are to the row."""
        members = self.members.of(int(self.rows.samples[row]))
        image = int(self.rows.images[row])
        extension = None if image < 0 else self.members.extension_names[self.members.extensions[image]]
        return members, sample_files(tuple(members), self._all_images).parts(extension)

    def read(self, member: int) -> bytes:
        """The content of a member. Raises ShardError where it has none of its own, and cannot be read."""
        if (special := self.members.special.get(member)) is not None:
            raise ShardError(f"has {self._shown(member)}, which is {special}: it cannot be changed")
        content = self.chunks.read(self.members.offsets[member], self.members.sizes[member])
        sparse = self.members.sparse.get(member)
        return content if sparse is None else sparse.fill(content)

    def headers(self, member: int) -> bytes:
        """The headers of a member, of which the last block is its own."""
        start, block, _ = self._spans[3 * member : 3 * member + 3]
        return self.chunks.read(start, block + BLOCK - start)

    def check_changeable(self, member: int) -> None:
        """Raises ShardError where a link stands for a member that is to change, or to be left out."""
        if self._link_targets and normal(self.members.name(member)) in self._link_targets:
            raise ShardError(
                f"has a link to {self._shown(member)}, which would change: extract the tar and pack it anew"
            )

    def _shown(self, member: int) -> str:
        return repr(self.members.name(member).decode("utf-8", "backslashreplace"))[:200]

    def _head(self, member: int) -> bytes:
        if member in self.members.special:
            return b""
        return self.chunks.read(self.members.offsets[member], min(HEAD_BYTES, self.members.sizes[member]))
