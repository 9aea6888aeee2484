"""Two outputs are joined as plain Python joins them: by uid, then by the image's hash, the n-th with the n-th."""

import random
from collections import defaultdict
from statistics import fmean

import pyarrow as pa
import pytest

from recap_fast.report.beside import COLUMNS, SECTIONS, Join, Place
from recap_fast.report.database import connect
from recap_fast.write.schema import SCHEMA


def draw_rows(rng, count):
    rows = []
    for index in range(count):
        words = rng.choice([None, rng.randrange(5)])
        rows.append(
            {
                "shard": rng.choice("ab"),
                "index": index,
                "uid": rng.choice([None, f"uid {rng.randrange(8)}"]),
                "sha256": f"image {rng.randrange(8)}",
                "image_sha256": rng.choice([None, f"image {rng.randrange(8)}"]),
                "re_caption": None if words is None else " ".join(["word"] * words),
                "re_length": words,
                "status": "corrupt" if words is None else "ok",
            }
        )
    return rows


def pairs_of(this, other):
    """The slow twin."""
    pairs = []
    for key in (lambda r: r["uid"], lambda r: r["image_sha256"] or r["sha256"]):
        groups = defaultdict(lambda: ([], []))
        for side, rows in enumerate((this, other)):
            done = {id(pair[side]) for pair in pairs}
            for each in sorted(rows, key=lambda r: (r["shard"], r["index"])):
                if id(each) not in done and key(each) is not None:
                    groups[key(each)][side].append(each)
        pairs += [pair for group in groups.values() for pair in zip(*group, strict=False)]
    return pairs


def find(tmp_path, this, other, num=100, seed=0):
    with connect(tmp_path) as database:
        join = Join(database)
        for side, rows in (("this", this), ("other", other)):
            for some in (rows[:7], rows[7:]):
                join.add(side, pa.Table.from_pylist(some, schema=SCHEMA).select(COLUMNS))
        return join.find(num, seed)


def place(row):
    return Place(row["shard"], row["index"])


@pytest.mark.parametrize("seed", range(8))
def test_rows_are_joined_as_plain_python_joins_them(tmp_path, seed):
    rng = random.Random(seed)
    this, other = draw_rows(rng, 30), draw_rows(rng, 25)
    wanted = pairs_of(this, other)
    found = find(tmp_path, this, other)
    assert {*found.sections["random"][1]} == {(place(a), place(b)) for a, b in wanted}
    by_uid = sum(a["uid"] is not None and a["uid"] == b["uid"] for a, b in wanted)
    assert found.rows == len(wanted) == found.sections["random"][0]
    assert (found.by_uid, found.by_sha256) == (by_uid, len(wanted) - by_uid)
    both = [(a, b) for a, b in wanted if a["status"] == b["status"] == "ok"]
    assert (found.both, found.equal) == (len(both), sum(a["re_caption"] == b["re_caption"] for a, b in both))
    assert found.mean_words == tuple(fmean(pair[side]["re_length"] for pair in both) for side in (0, 1))
    conditions = {
        "longer": lambda a, b: (a or 0) > (b or 0) and None not in (a, b),
        "shorter": lambda a, b: (a or 0) < (b or 0) and None not in (a, b),
        "only_this": lambda a, b: a is not None and b is None,
        "only_other": lambda a, b: a is None and b is not None,
    }
    for name, condition in conditions.items():
        some = {(place(a), place(b)) for a, b in wanted if condition(a["re_length"], b["re_length"])}
        assert {*found.sections[name][1]} == some
        assert found.sections[name][0] == len(some)
    assert [*found.sections] == [*SECTIONS]


def test_the_largest_differences_come_first_and_the_seed_draws(tmp_path):
    rng = random.Random(5)
    this, other = draw_rows(rng, 40), draw_rows(rng, 40)
    lengths = {(side, place(r)): r["re_length"] for side, rows in enumerate((this, other)) for r in rows}
    found = find(tmp_path, this, other)
    gained = [lengths[0, a] - lengths[1, b] for a, b in found.sections["longer"][1]]
    assert gained == sorted(gained, reverse=True)
    few = [find(tmp_path, this, other, 3, seed).sections["random"][1] for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert few[0] == found.sections["random"][1][:3]


def test_outputs_with_nothing_in_common(tmp_path):
    rows = draw_rows(random.Random(0), 3)
    found = find(tmp_path, rows, [])
    assert (found.rows, found.both, found.mean_words) == (0, 0, (None, None))
