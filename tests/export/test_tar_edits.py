import json
from collections import Counter

import pytest
from support import tars
from support.tars import chosen, entry

from recap_fast.errors import ShardError
from recap_fast.export.tar_edits import TarEdits
from recap_fast.records import Selection
from recap_fast.shards.tar.layout import TarLayout

ENTRIES = [entry(f"{key}.{suffix}", b"{}" if suffix == "json" else b"x") for key in "ab" for suffix in ("jpg", "json")]


def edits(tmp_path, rows, *entries, in_txt=False, columns=()):
    """The edits as (start, end, name of the new member or None), and the counts."""
    path, counts = tars.write(tmp_path / "x.tar", *(entries or ENTRIES)), Counter()
    with path.open("rb") as file:
        layout = TarLayout(file, Selection())
        made = list(TarEdits(layout, columns, counts, in_txt=in_txt).of(rows))
    return made, counts


def name_of(edit):
    return edit.new[:100].rstrip(b"\0").decode()


def test_one_edit_a_sample_in_the_order_of_the_tar(tmp_path):
    made, counts = edits(tmp_path, [chosen(0, "a"), chosen(1, "b")])
    assert [(edit.start, edit.end, name_of(edit)) for edit in made] == [(1024, 2048, "a.json"), (3072, 4096, "b.json")]
    assert counts == {"members written": 2}
    assert json.loads(made[0].new[512:].rstrip(b"\0")) == {"re_caption": "A cat.", "org_caption": "alt"}


def test_columns_come_along_and_captions_only_once(tmp_path):
    made, _ = edits(tmp_path, [chosen(0, "a", uid="u0"), chosen(1, "b", uid=None)], columns=("uid", "org_caption"))
    fields = [json.loads(edit.new[512:].rstrip(b"\0")) for edit in made]
    assert [each["uid"] for each in fields] == ["u0", None]
    assert list(fields[0]) == ["re_caption", "org_caption", "uid"]


def test_of_a_sample_that_is_left_out_all_members_go(tmp_path):
    made, counts = edits(tmp_path, [chosen(0, "a", skipped="loop"), chosen(1, "b")])
    assert [(edit.start, edit.end, edit.new == b"") for edit in made[:2]] == [(0, 1024, True), (1024, 2048, True)]
    assert counts == {"members removed": 2, "members written": 1}


def test_a_txt_is_added_replaced_or_taken_away(tmp_path):
    entries = [
        entry("a.jpg", b"x"),
        entry("b.jpg", b"x"),
        entry("b.txt", b"alt"),
        entry("c.jpg"),
        entry("c.txt", b"alt"),
    ]
    rows = [chosen(0, "a"), chosen(1, "b"), chosen(2, "c", None)]
    made, counts = edits(tmp_path, rows, *entries, in_txt=True)
    assert [(name_of(edit), edit.start, edit.end) for edit in made] == [
        ("a.txt", 1024, 1024),
        ("b.txt", 2048, 3072),
        ("", 3584, 4608),
    ]
    assert counts == {"members added": 1, "members written": 1, "members removed": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([chosen(0, "a"), chosen(1, "c")], "has another sample at index 1 than the one that was captioned"),
        ([chosen(0, "a"), chosen(2, "b")], "has another sample at index 2"),
        ([chosen(0, "a"), chosen(1, "b"), chosen(2, "c")], "has another sample at index 2"),
        ([chosen(0, "a")], "has 2 samples, but the output 1 rows of it: it was changed"),
    ],
)
def test_rows_of_other_samples_are_refused(tmp_path, rows, message):
    with pytest.raises(ShardError, match=message):
        edits(tmp_path, rows)
