"""What becomes of a tar's samples: chosen rows in, edits of the tar out, in the order of their places.

A sample's json gets fields, or its txt another text. A member that is missing is put behind the sample's last one.
Of a sample that is left out all members go.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from recap_fast.errors import ShardError
from recap_fast.export import tar_headers
from recap_fast.export.choice import LIST, Chosen
from recap_fast.export.json_fields import set_fields
from recap_fast.shards.tar.headers import BLOCK
from recap_fast.shards.tar.layout import TarLayout
from recap_fast.write.caption_lists import texts_by_label

WRITTEN, REMOVED, ADDED = "members written", "members removed", "members added"
"""Names of counts: members with another content, those of samples left out, and new ones."""
SHARED = "captions of one sample"
"""The count of captions besides the first one of a sample: it has a row for each image."""


class Edit(NamedTuple):
    """Other bytes, or none, in the place of a stretch of the tar."""

    start: int
    end: int
    new: bytes


def column_fields(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Columns of a row as the json of a sample gets them: the captions as texts by their labels."""
    return {name: texts_by_label(row[name]) if name == LIST else row[name] for name in columns}


class TarEdits:
    """The edits of one tar. `columns` go into the json; `in_txt`: the caption goes into the txt, the json stays."""

    def __init__(self, layout: TarLayout, columns: Sequence[str], counts: Counter[str], *, in_txt: bool) -> None:
        self._layout, self._columns, self._counts, self._in_txt = layout, columns, counts, in_txt

    def of(self, rows: Iterable[Chosen]) -> Iterator[Edit]:
        """The edits for all rows of the tar, in order. Raises ShardError where rows and samples are not the same."""
        layout, waiting = self._layout, list[Edit]()
        num = 0
        for sample, group in groupby(self._joined(rows), key=lambda item: item[1]):
            first = layout.start(int(layout.members.order[layout.members.starts[sample]]))
            while waiting and waiting[0].start < first:
                yield heapq.heappop(waiting)
            chosen = [(row, each) for row, _, each in group]
            num += len(chosen)
            captions = sum(each.caption is not None for _, each in chosen if each.skipped is None)
            if captions > 1:
                self._counts[SHARED] += captions - 1
            for edit in self._of_sample(sample, chosen):
                heapq.heappush(waiting, edit)
        while waiting:
            yield heapq.heappop(waiting)
        if num != len(layout.rows.samples):
            raise ShardError(
                f"has {len(layout.rows.samples):,} samples, but the output {num:,} rows of it: it was changed"
            )

    def _joined(self, rows: Iterable[Chosen]) -> Iterator[tuple[int, int, Chosen]]:
        """Each row with its number and its sample."""
        layout = self._layout
        for number, chosen in enumerate(rows):
            sample = int(layout.rows.samples[number]) if number < len(layout.rows.samples) else -1
            if chosen.row["index"] != number or sample < 0 or layout.key(sample) != chosen.row["key"]:
                raise ShardError(f"has another sample at index {chosen.row['index']} than the one that was captioned")
            yield number, sample, chosen

    def _of_sample(self, sample: int, rows: Sequence[tuple[int, Chosen]]) -> Iterator[Edit]:
        kept = [(number, chosen) for number, chosen in rows if chosen.skipped is None]
        if not kept:
            for member in self._layout.members.of(sample).values():
                self._counts[REMOVED] += 1
                yield self._edit(member, None)
            return
        places: dict[int | None, list[Chosen]] = {}
        for number, chosen in kept:
            members, parts = self._layout.parts(number)
            name = ("txt" if parts.caption is None else parts.caption) if self._in_txt else parts.json
            place = None if name is None or (self._in_txt and not name.endswith("txt")) else members.get(name)
            places.setdefault(place, []).append(chosen)
        last = next(reversed(members.values()))
        for place, chosens in places.items():
            edit = self._text(place, last, chosens) if self._in_txt else self._json(place, last, chosens)
            if edit is not None:
                yield edit

    def _json(self, place: int | None, last: int, chosens: Sequence[Chosen]) -> Edit:
        fields = self._fields(chosens)
        if place is None:
            return self._add(last, b"json", set_fields(b"{}", fields))
        return self._edit(place, set_fields(self._layout.read(place), fields))

    def _text(self, place: int | None, last: int, chosens: Sequence[Chosen]) -> Edit | None:
        caption = chosens[0].caption
        if place is None:
            return None if caption is None else self._add(last, b"txt", caption.encode())
        if caption is None:
            self._counts[REMOVED] += 1
        return self._edit(place, None if caption is None else caption.encode())

    def _fields(self, chosens: Sequence[Chosen]) -> Mapping[str, Any]:
        first = chosens[0]
        fields = {"re_caption": first.recaption, "org_caption": first.row["org_caption"]}
        if len(chosens) > 1:
            fields["re_captions"] = [chosen.recaption for chosen in chosens]
        fields |= column_fields(first.row, (name for name in self._columns if name not in fields))
        if len(chosens) > 1 and LIST in fields and any(chosen.row[LIST] for chosen in chosens):
            fields[LIST] = [texts_by_label(chosen.row[LIST]) for chosen in chosens]
        return fields

    def _add(self, last: int, extension: bytes, content: bytes) -> Edit:
        layout, end = self._layout, self._layout.end(last)
        self._counts[ADDED] += 1
        return Edit(
            end, end, tar_headers.member(layout.beside(last, extension), content, layout.headers(last)[-BLOCK:])
        )

    def _edit(self, member: int, content: bytes | None) -> Edit:
        """Another content in the place of a member, or none."""
        layout = self._layout
        layout.check_changeable(member)
        start, end = layout.start(member), layout.end(member)
        if content is None:
            return Edit(start, end, b"")
        self._counts[WRITTEN] += 1
        headers = layout.headers(member)
        new = tar_headers.with_content(headers, layout.members.sizes[member], content)
        return Edit(start, end, new or tar_headers.member(layout.path(member), content, headers[-BLOCK:]))
