"""The rows of the gallery are those that a sort of all rows would choose, in whatever batches they come."""

import random

import pyarrow as pa
import pytest
from support.captioned import row, several

from recap_fast.report.choice import COLUMNS, MAX_CAPTIONS, MAX_TEXT, Choice
from recap_fast.write.schema import SCHEMA


def table(rows):
    return pa.Table.from_pylist(rows, schema=SCHEMA).select(COLUMNS)


def draw_rows(count, seed=1):
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        given = {
            "shard": f"{number // 40:05d}",
            "index": number % 40,
            "finish_reason": rng.choice(["stop", "stop", "loop", "length"]),
            "flags": rng.choice([[], ["refusal"], ["loop", "refusal"]]),
            "re_clip_score": rng.choice([None, rng.random()]),
        }
        caption = None if rng.random() < 0.1 else " ".join(["word"] * rng.randrange(50))
        given |= (
            {} if caption is not None else {"status": rng.choice(["corrupt", "too_small"]), "finish_reason": "error"}
        )
        rows.append({**row(number, caption), **given})
    return rows


def chosen(rows, num=4, seed=0, batch=10_000):
    choice = Choice(num, seed)
    for first in range(0, len(rows), batch):
        choice.add(table(rows[first : first + batch]))
    return {section.name: section for section in choice.sections()}


def test_sections_have_the_rows_they_say():
    rows = draw_rows(200)
    found = chosen(rows)
    ok = [each for each in rows if each["status"] == "ok"]
    lengths = sorted(each["re_length"] for each in ok)
    assert [each["re_length"] for each in found["shortest"].rows] == lengths[:4]
    assert [each["re_length"] for each in found["longest"].rows] == lengths[::-1][:4]
    scores = sorted(each["re_clip_score"] for each in ok if each["re_clip_score"] is not None)
    assert [each["re_clip_score"] for each in found["re_clip_score"].rows] == scores[:4]
    assert found["re_clip_score"].total == len(scores)
    conditions = {
        "random": lambda each: each["status"] == "ok",
        "loop": lambda each: each["finish_reason"] == "loop",
        "length": lambda each: each["finish_reason"] == "length",
        "flag:loop": lambda each: "loop" in each["flags"],
        "flag:refusal": lambda each: "refusal" in each["flags"],
        "status:corrupt": lambda each: each["status"] == "corrupt",
        "status:too_small": lambda each: each["status"] == "too_small",
    }
    for name, condition in conditions.items():
        assert found[name].total == sum(map(condition, rows)), name
        assert len(found[name].rows) == min(4, found[name].total)
        assert all(map(condition, found[name].rows))
    assert [*found] == [
        *("random", "longest", "shortest", "loop", "length", "re_clip_score"),
        *("flag:loop", "flag:refusal", "status:corrupt", "status:too_small"),
    ]


@pytest.mark.parametrize("batch", [2, 40])
def test_an_image_that_is_there_many_times_fills_no_section(batch):
    """But for those drawn at random, and where there is nothing else."""
    texts = [" ".join(["word"] * (40 - n // 8)) for n in range(40)]
    rows = [{**row(n, text), "shard": "00000", "index": n, "flags": ["loop"]} for n, text in enumerate(texts)]
    for n, each in enumerate(rows):
        each["duplicate_of"] = f"00000:{n - n % 8}" if n % 8 else None
    found = chosen(rows, batch=batch)
    assert [each["index"] for each in found["longest"].rows] == [0, 8, 16, 24]
    assert {each["index"] % 8 for each in found["flag:loop"].rows} == {0}
    assert (found["longest"].total, found["random"].total) == (40, 40)
    assert {each["index"] % 8 for each in found["random"].rows} != {0}
    assert len(chosen([each for each in rows if each["duplicate_of"]])["longest"].rows) == 4


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_make_no_difference(batch):
    rows = draw_rows(150)
    assert chosen(rows, batch=batch) == chosen(rows)


def test_another_seed_draws_other_rows_and_the_same_seed_the_same():
    rows = draw_rows(300)
    places = [[(r["shard"], r["index"]) for r in chosen(rows, seed=seed)["random"].rows] for seed in (0, 0, 1)]
    assert places[0] == places[1] != places[2]


def test_each_row_is_drawn_equally_often():
    """640 draws of 4 out of 32 rows: 80 are expected of each; the variance of one count is below 80."""
    rows, counts = [{**row(n), "shard": "00000", "index": n} for n in range(32)], [0] * 32
    for seed in range(640):
        for each in chosen(rows, seed=seed)["random"].rows:
            counts[each["index"]] += 1
    assert sum(counts) == 2560
    assert all(abs(count - 80) < 5 * 80**0.5 for count in counts)


def test_long_texts_are_cut():
    (kept,) = chosen([{**row(0, "word " * MAX_TEXT), "shard": "00000", "index": 0}])["random"].rows
    assert len(kept["re_caption"]) == MAX_TEXT


def test_so_are_the_texts_of_a_list_and_the_list():
    captions = [{"name": "n" * 9000, "prompt": "p" * 9000, "text": "word " * MAX_TEXT}] * (MAX_CAPTIONS + 5)
    (kept,) = chosen([several({**row(0), "shard": "00000", "index": 0}, captions)])["random"].rows
    assert len(kept["captions"]) == MAX_CAPTIONS
    assert {len(kept["captions"][0][name]) for name in ("name", "prompt", "text")} == {MAX_TEXT}


def test_no_rows_have_no_sections():
    assert chosen([]) == {}
