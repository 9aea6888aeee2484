"""Links within a tar: which member's content each of them has.

A hard link has the content of the last member of that name before it, or of the first behind it where none is. A
symbolic link has that of the last of all, which is what lies there once the tar is extracted. Names are those of all
members: hidden ones and those without extension too.
"""

import posixpath
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recap_fast.shards.tar.index import Member

MAX_HOPS = 40
"""As many as Linux follows."""


@dataclass(frozen=True, slots=True)
class Link:
    """A member that is a link, and its number among all members."""

    number: int
    member: Member

    @property
    def target(self) -> bytes | None:
        """The name of what it stands for, as `normal` writes it; None where that is outside of the tar."""
        link = self.member.link or b""
        if not self.member.symbolic:
            return normal(link)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(normal(self.member.name)), link))
        return None if path.startswith(b"/") or path.split(b"/")[0] == b".." else path


@dataclass(frozen=True, slots=True)
class Target:
    """What a link stands for: a member with content and its number among all, or why there is none."""

    member: Member | None = None
    number: int = -1
    reason: str = ""


def normal(name: bytes) -> bytes:
    """A member's name as it is below the folder that the tar is extracted into."""
    return posixpath.normpath(name.lstrip(b"/") or b".")


def resolve(links: Sequence[Link], members: Iterable[Member]) -> list[Target]:
    """The target of each link. `members` are all of the tar, in order."""
    targets = {link.number: link.target for link in links}
    wanted = set(targets.values())
    found: dict[bytes, list[Link]] = {}
    for number, member in enumerate(members):
        name = normal(member.name)
        if name in wanted:
            found.setdefault(name, []).append(Link(number, member))
    return [_follow(link, targets, found) for link in links]


def _follow(link: Link, targets: dict[int, bytes | None], found: dict[bytes, list[Link]]) -> Target:
    at = link
    for _ in range(MAX_HOPS):
        name = targets[at.number]
        kind = "a symbolic link" if at.member.symbolic else "a link"
        shown = (at.member.link or b"")[:200].decode("utf-8", "backslashreplace")
        if name is None:
            return Target(reason=f"{kind} out of the tar, to {shown}")
        next_one = _choose(at, found.get(name, []))
        if next_one is None:
            return Target(reason=f"{kind} to {shown}, which is not a file in the tar")
        if next_one.member.link is None:
            special = next_one.member.special
            if special is not None:
                return Target(reason=f"{kind} to {special}")
            return Target(next_one.member, next_one.number)
        at = next_one
    return Target(reason="a link in a circle of links")


def _choose(link: Link, named: Sequence[Link]) -> Link | None:
    if not named or link.member.symbolic:
        return named[-1] if named else None
    place = bisect_left(named, link.number, key=lambda other: other.number)
    if place > 0:
        return named[place - 1]
    return named[1] if named[0].number == link.number and len(named) > 1 else named[0]
