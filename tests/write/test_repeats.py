from collections import Counter, defaultdict

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import share

from recap_fast.write.flags import FLAGS
from recap_fast.write.repeats import MIN_SAME_CAPTION, MIN_SAME_IMAGE, add_shard_flags, find_repeats
from recap_fast.write.schema import SCHEMA


def row(caption, image, flags=(), width=640, own=None, duplicate_of=None):
    return {
        "re_caption": caption,
        "sha256": image,
        "image_sha256": own,
        "width": width,
        "flags": list(flags),
        "duplicate_of": duplicate_of,
    }


def flagged(rows, size=7):
    """The flags of each row, where they come in batches of this size."""
    for index, each in enumerate(rows):
        each["index"] = index
    batches = [pa.RecordBatch.from_pylist(rows[i : i + size], schema=SCHEMA) for i in range(0, len(rows), size)]
    found = list(add_shard_flags(iter(batches), find_repeats(iter(batches))))
    assert [batch.num_rows for batch in found] == [batch.num_rows for batch in batches]
    for new, old in zip(found, batches, strict=True):
        new.validate(full=True)
        assert new.schema == SCHEMA
        assert new.drop_columns("flags") == old.drop_columns("flags")
    return [flags for batch in found for flags in batch["flags"].to_pylist()]


@pytest.mark.parametrize(("num", "expected"), [(MIN_SAME_CAPTION - 1, []), (MIN_SAME_CAPTION, ["same_caption"])])
def test_a_caption_is_flagged_where_enough_images_that_differ_have_it(num, expected):
    others = [row("another", f"other {i}") for i in range(MIN_SAME_CAPTION - 1)]
    assert flagged([row("one", f"image {i}") for i in range(num)] + others) == [expected] * num + [[]] * len(others)


def test_identical_images_count_once_and_have_the_flag_of_their_caption():
    few = [row("few", "a", duplicate_of=None if i == 0 else "s:0") for i in range(5)] + [
        row("few", "b"),
        row("few", "c"),
    ]
    many = [row("many", "a" if i < 3 else f"image {i}") for i in range(6)]
    assert flagged(few) == [[]] * len(few)
    assert flagged(many) == [["same_caption"]] * 6


def test_the_bytes_of_an_image_count_and_not_the_hash_that_came_with_it():
    assert flagged([row("one", f"given {i}", own="same") for i in range(5)]) == [[]] * 5
    assert flagged([row("one", "given", own=f"own {i}") for i in range(5)]) == [["same_caption"]] * 5


@pytest.mark.parametrize(("num", "expected"), [(MIN_SAME_IMAGE - 1, []), (MIN_SAME_IMAGE, ["placeholder"])])
def test_an_image_that_is_there_many_times_is_a_placeholder_with_and_without_a_caption(num, expected):
    rows = [row(None if i % 2 else f"caption {i}", "same") for i in range(num)]
    assert flagged([*rows, row("x", "other")]) == [expected] * num + [[]]


def test_what_was_not_there_or_is_no_image_is_no_placeholder():
    assert flagged([row(None, "same", width=None) for _ in range(20)]) == [[]] * 20
    assert flagged([row(None, None) for _ in range(20)]) == [[]] * 20


def test_flags_of_an_earlier_run_are_replaced_and_others_stay():
    rows = [
        row("a", "1", ["cut", "same_caption"]),
        row("b", "2", ["placeholder"]),
        row("c", "3", ["flat_color", "placeholder"]),
        row("d", "4", ["flat_color"]),
    ]
    assert flagged(rows) == [["cut"], [], ["flat_color", "placeholder"], ["flat_color", "placeholder"]]


def by_definition(rows):
    images, times = defaultdict(set), Counter(each["sha256"] for each in rows)
    for each in rows:
        images[each["re_caption"]].add(each["sha256"])
    for each in rows:
        found = {flag for flag in each["flags"] if flag not in ("same_caption", "placeholder")}
        if each["re_caption"] is not None and len(images[each["re_caption"]]) >= MIN_SAME_CAPTION:
            found.add("same_caption")
        if times[each["sha256"]] >= MIN_SAME_IMAGE or "flat_color" in found:
            found.add("placeholder")
        yield [flag for flag in FLAGS if flag in found]


ROWS = st.builds(
    row,
    st.sampled_from([None, "", *"abc"]),
    st.sampled_from("123456"),
    st.sets(st.sampled_from(FLAGS), max_size=3).map(lambda flags: sorted(flags, key=FLAGS.index)),
)


@share(2)
@given(st.lists(ROWS, max_size=60), st.integers(1, 20), st.randoms(use_true_random=False))
def test_flags_are_those_of_the_definition_whatever_the_batches_and_the_order(rows, size, random_):
    assert flagged(rows, size) == list(by_definition(rows))
    random_.shuffle(rows)
    assert flagged(rows, size) == list(by_definition(rows))
