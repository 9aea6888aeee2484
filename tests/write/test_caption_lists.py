"""The column `captions` against what a run makes: every fault of it is found, in the first row that has one."""

import pyarrow as pa
import pytest
from support.finished_rows import finished

from recap_fast.records import Completion
from recap_fast.write.caption_lists import CaptionLists, count_tokens
from recap_fast.write.captions import make_batches
from recap_fast.write.schema import SCHEMA

QUESTIONS = {"short": "In a word?", "long": "In detail?", "tags": "Tags?"}
FIXED = {"prompts": [{"prompts": {name: QUESTIONS[name]}} for name in ("short", "long")], "num_captions": 1}
DRAWN = {"prompts": [{"set": "s", "prompts": QUESTIONS, "weights": {}, "seed": 0}], "num_captions": 2}


def row(index: int, *names: str, **more):
    """A finished row with a caption for each name; its token ids are code points."""
    made = finished(index, "A cat.", **more)
    first = made.completions[0]
    made.prompts = tuple((name, QUESTIONS[name]) for name in names)
    made.completions = tuple(Completion(0, first.token_ids[:n], "stop", n) for n in (6, 5, 4)[: len(names) or 1])
    return made


def table(*rows) -> pa.RecordBatch:
    (batch,) = make_batches(rows, lambda ids: ["".join(map(chr, each)) for each in ids])
    return batch


def changed(batch: pa.RecordBatch, index: int, **values) -> pa.RecordBatch:
    """The batch with other values in the last caption of a row."""
    rows = batch.to_pylist()
    rows[index]["captions"][-1] |= values
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def test_rows_of_several_prompts_have_all_captions_in_order():
    batch = table(row(0, "short", "long"), finished(1, None), row(2, "short", "long"))
    first, failed, _ = batch["captions"].to_pylist()
    assert first == [
        {"name": "short", "prompt": "In a word?", "text": "A cat.", "finish_reason": "stop", "num_tokens": 6},
        {"name": "long", "prompt": "In detail?", "text": "A cat", "finish_reason": "stop", "num_tokens": 5},
    ]
    assert failed is None
    assert (batch["re_caption"][0].as_py(), batch["num_tokens"][0].as_py()) == ("A cat.", 6)
    assert count_tokens(batch) == 22
    assert CaptionLists.of(FIXED).fault(batch) == ""


def test_rows_of_one_prompt_have_no_list():
    batch = table(finished(0, "A cat."), finished(1, None))
    assert batch["captions"].to_pylist() == [None, None]
    assert count_tokens(batch) == 7
    assert CaptionLists.of({"prompt": "What?"}).fault(batch) == ""
    assert "the row with index 0: they are of none, and the run makes those of short, long" in CaptionLists.of(
        FIXED
    ).fault(batch)
    assert CaptionLists.of({}).fault(table(finished(4), row(5, "short"))) == (
        "has a list of captions in the row with index 5, which cannot have one"
    )


def test_a_drawn_prompt_is_one_of_its_set_and_the_same_for_all_captions_of_it():
    lists = CaptionLists.of(DRAWN)
    assert lists.fault(table(row(0, "long", "long"), row(1, "tags", "tags"))) == ""
    assert "index 1: they are of tags, long, and the run makes those of short or long or tags" in lists.fault(
        table(row(0, "long", "long"), row(1, "tags", "long"))
    )


@pytest.mark.parametrize(
    "values",
    [
        {"name": "tags"},
        {"name": None},
        {"prompt": "In other words?"},
        {"prompt": None},
        {"text": None},
        {"finish_reason": None},
        {"num_tokens": None},
    ],
)
def test_whatever_is_wrong_in_a_list_is_found(values):
    batch = table(row(0, "short", "long"), finished(1, None), row(7, "short", "long"), row(8, "short", "long"))
    assert "in the row with index 7: " in CaptionLists.of(FIXED).fault(changed(batch, 2, **values))


def test_what_is_wrong_is_said_as_it_is():
    lists, batch = CaptionLists.of(FIXED), table(row(0, "short", "long"))
    assert lists.fault(changed(batch, 0, name="tags")).endswith(
        "index 0: they are of short, tags, and the run makes those of short, long"
    )
    assert lists.fault(changed(batch, 0, text=None)).endswith(
        "index 0: one has another prompt or lacks a value, or the first is not re_caption"
    )
    rows = batch.to_pylist()
    rows[0]["captions"][1] = None
    assert "they are of short, None, and" in lists.fault(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))


@pytest.mark.parametrize("values", [{"text": "A dog."}, {"finish_reason": "length"}, {"num_tokens": 3}])
def test_the_first_caption_is_that_of_the_row(values):
    batch = table(row(0, "short"), row(3, "short"))
    lists = CaptionLists.of({"prompts": [{"prompts": {"short": "In a word?"}}]})
    assert lists.fault(batch) == ""
    assert "index 3" in lists.fault(changed(batch, 1, **values))


@pytest.mark.parametrize("names", [("long", "short"), ("short",), ("short", "long", "tags")])
def test_missing_further_and_moved_captions_are_found(names):
    assert "index 1" in CaptionLists.of(FIXED).fault(table(row(0, "short", "long"), row(1, *names)))


def test_a_row_without_a_caption_has_no_list():
    rows = table(row(0, "short", "long")).to_pylist()
    rows[0]["status"] = "corrupt"
    assert "cannot have one" in CaptionLists.of(FIXED).fault(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))


@pytest.mark.parametrize(
    "marks",
    [
        {"prompts": 5},
        {"prompts": {"short": "In a word?"}},
        {"prompts": ["short"]},
        {"prompts": [{}]},
        {"prompts": [{"prompts": {}}]},
        {"prompts": [{"prompts": {"a": 1}}]},
        {"num_captions": "2"},
        {"num_captions": 0},
    ],
)
def test_marks_that_no_run_wrote_are_refused(marks):
    with pytest.raises(ValueError, match=r"its (prompts are not as a run writes them|num_captions is no count)"):
        CaptionLists.of({**FIXED, **marks})
