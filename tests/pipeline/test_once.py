"""Images of the same bytes are captioned once, whatever the order, the threads and the end of the run."""

import dataclasses
import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import shard_files
from support.engines import FakeEngine
from support.examples import share
from support.fake_runs import FakeDecoder, FakeRun, caption_of, captions, expected_copies, image, write_copies
from support.guard import GUARD_S, guarded, wait_until
from support.runs import read_rows

from recap_fast.pipeline.once import Once
from recap_fast.records import GENERATION_ERROR, Completion, ImageOutcome, Request, Row, Sample


def row(index, digest, shard="a", **more):
    return Row(order=index, sample=Sample(shard=shard, index=index, key="", image=b"", sha256=digest * 64, **more))


def finish(row, **changed):
    """The row as the engine finishes it."""
    row.outcome = ImageOutcome(4, 3, warning="reduced")
    made = {"id": 7, "token_ids": np.arange(3), "finish_reason": "stop", "num_tokens": 4, **changed}
    row.complete([Completion(**made)])
    return row


# -- who is captioned --------------------------------------------------------------------------------------------------


def test_the_first_goes_on_others_wait_for_it_and_later_ones_have_its_caption():
    once = Once(())
    first, second, third, other = row(0, "1"), row(1, "1"), row(2, "1"), row(3, "2")
    assert [once.claim(each) for each in (first, second, other)] == ["first", "waits", "first"]
    first.warning = "a field was cut"
    assert once.settle(finish(first)) == [first, second]
    assert once.claim(third) == "known"
    for each in (second, third):
        assert each.completion is first.completion
        assert (each.outcome, each.warning, each.duplicate_of) == (first.outcome, "a field was cut", "a:0")
    assert first.duplicate_of is None
    assert other.completion is None


def test_it_is_the_hash_of_the_bytes_that_counts():
    once = Once(())
    assert once.claim(row(0, "1", image_sha256="2" * 64)) == "first"
    assert once.claim(row(1, "1", image_sha256="3" * 64)) == "first"
    assert once.claim(row(2, "4", image_sha256="2" * 64)) == "waits"
    assert once.claim(row(3, "3")) == "waits"


def test_another_value_of_a_field_of_the_prompt_is_another_caption():
    once = Once(("org_caption", "size"))
    rows = [
        row(0, "1", org_caption="a", metadata='{"size": 1}'),
        row(1, "1", org_caption="a", metadata='{"size": 1, "unused": 5}'),
        row(2, "1", org_caption="b", metadata='{"size": 1}'),
        row(3, "1", org_caption="a", metadata='{"size": 2}'),
        row(4, "1", org_caption="a"),
        row(5, "1", org_caption="a", metadata='{"size": ""}'),
        row(6, "1", org_caption="\udc80", metadata='{"size": 1}'),
        row(7, "1", org_caption="\\udc80", metadata='{"size": 1}'),
    ]
    assert [once.claim(each) for each in rows] == ["first", "waits", *["first"] * 6]


def test_what_has_no_image_takes_no_part():
    once = Once(())
    missing = [
        Row(order=i, sample=Sample(shard="a", index=i, key="", image=b"", status="missing_image")) for i in (0, 1)
    ]
    assert [once.claim(each) for each in missing] == ["first", "first"]
    assert once.settle(missing[1]) == [missing[1]]


def test_where_it_is_off_every_image_is_captioned():
    once = Once(None)
    first, second = row(0, "1"), row(1, "1")
    assert (once.claim(first), once.claim(second)) == ("first", "first")
    assert (once.settle(first), once.settle(second)) == ([first], [second])


def test_an_engines_error_is_that_of_those_that_waited_and_the_next_is_tried():
    once = Once(())
    first, second, third, fourth = (row(index, "1") for index in range(4))
    assert [once.claim(each) for each in (first, second)] == ["first", "waits"]
    once.settle(finish(first, finish_reason="error", error="out of pages"))
    assert (second.status, second.outcome.error, second.duplicate_of) == (GENERATION_ERROR, "out of pages", None)
    assert once.claim(third) == "first"
    assert once.claim(fourth) == "waits"
    assert once.settle(finish(third)) == [third, fourth]
    assert (fourth.status, fourth.duplicate_of) == ("ok", "a:2")


def test_a_row_that_was_not_claimed_settles_itself_alone():
    once = Once(())
    first, second, stranger = (row(index, "1") for index in range(3))
    once.claim(first)
    once.claim(second)
    assert once.settle(stranger) == [stranger]
    assert once.settle(finish(first)) == [first, second]
    assert once.settle(first) == [first], "it is not there twice"


def test_only_the_captions_that_were_met_last_are_remembered():
    once = Once((), max_known=2)
    for index, digest in enumerate("123"):
        settled = row(index, digest)
        once.claim(settled)
        once.settle(finish(settled))
        if digest == "2":
            assert once.claim(row(9, "1")) == "known", "now 2 was met longest ago"
    assert [once.claim(row(9, digest)) for digest in "132"] == ["known", "known", "first"]


def test_all_captions_of_an_image_count_where_it_has_several():
    once = Once((), max_known=5)
    for index, digest in enumerate("123"):
        settled = row(index, digest)
        settled.prompts = (("short", "What?"), ("long", "All?"))
        once.claim(settled)
        settled.complete([Completion(number, np.arange(3), "stop", 4) for number in range(2)])
        once.settle(settled)
    assert [once.claim(row(9, digest)) for digest in "321"] == ["known", "known", "first"]


# -- in a pipeline -----------------------------------------------------------------------------------------------------


def test_identical_images_of_all_shards_go_to_the_engine_once_and_each_has_its_row(tmp_path):
    shards = [[1, 2, 1, 1], [1, 3, 2], [1] * 100]
    write_copies(tmp_path / "in", *shards)
    run = FakeRun(tmp_path / "in", tmp_path / "out", dedup=True)
    decoded = []
    decode = run.captioner.decoder.decode
    run.captioner.decoder.decode = lambda images: decoded.extend(images) or decode(images)
    reports = guarded(run.run)
    assert captions(tmp_path / "out") == expected_copies(*shards)
    assert run.engine.submitted == 3
    assert sorted(decoded) == [image(number) for number in (1, 2, 3)]
    assert [(report.status, report.rows, report.captioned) for report in reports] == [
        ("complete", len(numbers), len(numbers)) for numbers in shards
    ]
    snapshot = run.counters.snapshot()
    assert (snapshot.captioned, snapshot.shared, snapshot.num_tokens, snapshot.tokens_per_caption) == (107, 104, 12, 4)
    rows = read_rows(tmp_path / "out")
    own = {row["re_caption"]: f"{row['shard']}:{row['index']}" for row in rows if row["duplicate_of"] is None}
    assert len(own) == 3
    assert {row["duplicate_of"] for row in rows} == {None, own[caption_of(image(1))], own[caption_of(image(2))]}
    assert all(row["duplicate_of"] in (None, own[row["re_caption"]]) for row in rows)
    without = FakeRun(tmp_path / "in", tmp_path / "alone")
    guarded(without.run)
    assert without.engine.submitted == 107
    assert read_rows(tmp_path / "alone") == [{**row, "duplicate_of": None} for row in rows]


@share(0.2)
@given(
    st.lists(st.lists(st.integers(-1, 4), max_size=40), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 40)
)
def test_every_sample_has_its_row_whatever_is_the_same(tmp_path_factory, shards, num_slots, window):
    folder = tmp_path_factory.mktemp("any")
    write_copies(folder / "in", *shards)
    run = FakeRun(folder / "in", folder / "out", FakeEngine(num_slots), window=window, dedup=True)
    pipeline = run.pipeline()
    guarded(lambda: pipeline.run(run.pending))
    assert captions(folder / "out") == expected_copies(*shards)
    assert run.engine.submitted == len({number for numbers in shards for number in numbers if number >= 0})
    assert pipeline.reading.channels.window.content == (0, 0)
    assert run.ledger.pending() == []


@pytest.mark.parametrize("window", [4, 400], ids=["window full of them", "all there"])
def test_rows_that_wait_for_a_caption_under_way_come_out_with_it(tmp_path, window):
    shards = [[1] * 30, [2, 1] * 20]
    write_copies(tmp_path / "in", *shards)
    engine = FakeEngine(num_slots=2, length=lambda number: float("inf") if number == 0 else 1)
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine, window=window, dedup=True)
    pipeline, step = run.pipeline(), engine.step

    def step_when_all_wait(**told):
        wait_until(lambda: pipeline.reading.num_read == min(window, 70) or engine._released)
        wait_until(lambda: not len(pipeline.reading.channels.samples))
        engine.release()
        return step(**told)

    engine.step = step_when_all_wait
    guarded(lambda: pipeline.run(run.pending))
    assert captions(tmp_path / "out") == expected_copies(*shards)
    assert engine.submitted == 2


def test_a_prompt_with_fields_is_asked_for_each_of_their_values(tmp_path):
    write_copies(tmp_path / "in", [1, 1, 2, 1], [1])
    texts = (b'{"caption": "x"}', b'{"caption": "y"}', b'{"caption": "x"}', b'{"caption": "x"}')
    pairs = [((f"{i}.jpg", image((1, 1, 2, 1)[i])), (f"{i}.json", text)) for i, text in enumerate(texts)]
    shard_files.write_tar(tmp_path / "in" / "00000.tar", [member for pair in pairs for member in pair])
    run = FakeRun(tmp_path / "in", tmp_path / "out", dedup=True)
    run.captioner.prepared.prompts.fields = ("org_caption",)
    asked = []

    def requests(row, pixels, fields, *, noise_key=0):
        asked.append(fields["org_caption"])
        row.warning = f"asked {asked[-1]}"
        return [Request(len(asked), pixels, np.array([len(asked[-1])], np.int32), 9, noise_key)]

    run.captioner.requests = requests
    guarded(run.run)
    assert sorted(asked) == ["alt 1000", "x", "x", "y"]
    rows = read_rows(tmp_path / "out")
    assert [row["duplicate_of"] for row in rows] == [None, None, None, "00000:0", None]
    assert [row["warning"][-7:] for row in rows] == ["asked x", "asked y", "asked x", "asked x", "lt 1000"]


def test_a_bad_image_is_bad_each_time(tmp_path):
    write_copies(tmp_path / "in", [-1, -1, 1, -1], [-1])
    run = FakeRun(tmp_path / "in", tmp_path / "out", dedup=True)
    reports = guarded(run.run)
    assert [report.failed for report in reports] == [{"not_an_image": 3}, {"not_an_image": 1}]
    rows = read_rows(tmp_path / "out")
    assert [row["error"] for row in rows] == ["It is not an image."] * 2 + [None] + ["It is not an image."] * 2
    assert {row["duplicate_of"] for row in rows} == {None}
    assert run.counters.snapshot().shared == 0


@pytest.mark.parametrize("pillow_too", [False, True])
def test_what_has_ended_a_process_is_decoded_by_itself(tmp_path, pillow_too):
    write_copies(tmp_path / "in", [1, 2, 2, 3, 2])

    class Deadly(FakeDecoder):
        def decode(self, images, *, only_pillow=False):
            if image(2) in images and (pillow_too or not only_pillow):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().decode(images, only_pillow=only_pillow)

    def start():
        run = FakeRun(tmp_path / "in", tmp_path / "out", dedup=True)
        run.captioner.decoder = Deadly()
        run.run()

    ends = []
    while 0 not in ends:
        process = multiprocessing.get_context("fork").Process(target=start)
        process.start()
        process.join(GUARD_S)
        ends.append(process.exitcode)
        assert len(ends) <= 7, "the copies end one process or two each"
    rows = read_rows(tmp_path / "out")
    crashed = ["ok", "crashed", "crashed", "ok", "crashed"]
    assert [row["status"] for row in rows] == (crashed if pillow_too else ["ok"] * 5)
    assert [row["duplicate_of"] for row in rows] == [None] * 5


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_caption_that_is_remembered_takes_little_memory_whatever_its_row_has():
    import tracemalloc

    once = Once((), max_known=500)
    ids = np.arange(128, dtype=np.int32)

    def meet(numbers):
        for number in numbers:
            settled = row(number, "1", metadata="x" * 100_000)
            digest = f"{number:064x}"
            settled.sample = dataclasses.replace(settled.sample, sha256=digest)
            once.claim(settled)
            once.settle(finish(settled, token_ids=ids.copy(), num_tokens=129))

    tracemalloc.start()
    try:
        meet(range(500))
        full = tracemalloc.get_traced_memory()[0]
        meet(range(500, 5000))
        later = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert full < 500 * 1600
    assert later < 1.2 * full
    assert sys.getsizeof(ids.copy()) > 600, "its tokens alone"
