"""The pipeline's flow: order, batches that never drain, the window, limits. Its failures are in test_failures.py."""

import dataclasses
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import runs, shard_files
from support.engines import FakeEngine
from support.examples import share
from support.fake_runs import FakeRun, captions, expected_captions, write_shards
from support.guard import guarded, wait_until

from recap_fast.pipeline.counters import Gauges
from recap_fast.records import ImageBatch


@share(0.2)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 9), st.integers(8, 80))
def test_every_sample_has_its_row_whatever_the_sizes(tmp_path_factory, sizes, num_slots, window):
    folder = tmp_path_factory.mktemp("any")
    write_shards(folder / "in", sizes, bad=(3, 7))
    run = FakeRun(folder / "in", folder / "out", FakeEngine(num_slots), window=window)
    reports = guarded(run.run)
    assert captions(folder / "out") == expected_captions(folder / "in", sizes, bad=(3, 7))
    assert [r.status for r in reports] == ["complete"] * len(sizes)
    assert run.ledger.pending() == []


def test_the_batch_never_drains_between_shards(tmp_path):
    write_shards(tmp_path / "in", [10] * 6)
    engine = FakeEngine(num_slots=4, length=lambda number: 2 + number % 3)
    together: list[set[str]] = []
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine)
    pipeline = run.pipeline()
    step = engine.step

    def slow_step(**told):
        left = 60 - engine.submitted
        wait_until(
            lambda: len(pipeline.generating.channels.ready._items) >= min(4, left)
        )  # as beside a real, slow step
        together.append({begun.row.sample.shard for begun, _ in pipeline.generating.in_flight.values()})
        return step(**told)

    engine.step = slow_step
    guarded(lambda: pipeline.run(run.pending))
    assert sum(len(names) >= 2 for names in together) >= 5, "shards were never in flight together"
    first, last = engine.occupied.index(4), len(engine.occupied) - engine.occupied[::-1].index(4)
    assert min(engine.occupied[first:last]) == 4, f"the batch drained: {engine.occupied}"


def test_shards_smaller_than_the_batch_are_in_flight_together(tmp_path):
    write_shards(tmp_path / "in", [1] * 12)
    engine = FakeEngine(num_slots=8, length=lambda _: float("inf"))  # until eight of them are there

    def release_when_full():
        wait_until(lambda: engine.submitted == 8)
        engine.release()

    threading.Thread(target=release_when_full, daemon=True).start()
    guarded(FakeRun(tmp_path / "in", tmp_path / "out", engine).run)
    assert max(engine.occupied) == 8


def test_the_engine_is_told_whether_more_is_on_its_way(tmp_path):
    write_shards(tmp_path / "in", [6])
    engine = FakeEngine(num_slots=4)
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine)
    pipeline = run.pipeline()
    step, told = engine.step, []

    def step_when_all_is_read(*, more):
        told.append((engine.submitted, more))
        wait_until(lambda: pipeline.generating.channels.ready._closed)
        return step(more=more)

    engine.step = step_when_all_is_read
    guarded(lambda: pipeline.run(run.pending))
    assert {more for submitted, more in told if submitted < 6} == {True}
    assert {more for submitted, more in told[1:] if submitted == 6} == {False}


@pytest.mark.parametrize("window", [8, 40])
def test_what_is_admitted_and_not_yet_in_order_is_bounded(tmp_path, window):
    write_shards(tmp_path / "in", [200])
    engine = FakeEngine(num_slots=4, length=lambda number: float("inf") if number == 5 else 1)
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine, window=window)
    pipeline = run.pipeline()
    seen: list[tuple[int, int]] = []

    def watch():
        wait_until(lambda: engine.completed >= window + 4)  # all that the window lets in, but the straggler
        for _ in range(20):  # and for a while after
            seen.append((pipeline.reading.num_read, engine.completed))
            time.sleep(0.01)
        engine.release()

    watcher = threading.Thread(target=watch)
    watcher.start()
    guarded(lambda: pipeline.run(run.pending))
    watcher.join()
    assert set(seen) == {(5 + window, 4 + window)}, "more was read than the window allows behind a straggler"
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [200])


def test_images_that_cannot_be_decoded_are_rows(tmp_path):
    write_shards(tmp_path / "in", [5], bad=(0, 4))
    (report,) = FakeRun(tmp_path / "in", tmp_path / "out").run()
    assert (report.rows, report.captioned, report.failed) == (5, 3, {"not_an_image": 2})
    rows = runs.read_rows(tmp_path / "out")
    assert [row["status"] for row in rows] == ["not_an_image", "ok", "ok", "ok", "not_an_image"]
    assert rows[0]["error"] == "It is not an image."
    assert rows[0]["org_caption"] == "alt 0"


def test_a_sample_without_an_image_is_a_row_and_goes_to_no_decoder(tmp_path):
    members = shard_files.webdataset_members(3)
    shard_files.write_tar(tmp_path / "in" / "00000.tar", [m for m in members if m[0] != "000000001.jpg"])
    (report,) = FakeRun(tmp_path / "in", tmp_path / "out").run()
    assert report.failed == {"missing_image": 1}
    assert runs.read_rows(tmp_path / "out")[1]["status"] == "missing_image"


def test_a_shard_of_failures_alone_is_finished(tmp_path):
    write_shards(tmp_path / "in", [3], bad=(0, 1, 2))
    (report,) = guarded(FakeRun(tmp_path / "in", tmp_path / "out").run)
    assert (report.status, report.captioned) == ("complete", 0)


def test_a_limit_leaves_its_shard_undone_and_the_next_run_goes_on_in_it(tmp_path):
    write_shards(tmp_path / "in", [10, 10, 10])
    reports = FakeRun(tmp_path / "in", tmp_path / "out", limit=13).run()
    assert sorted((r.shard, r.status) for r in reports) == [("00000", "complete"), ("00001", "interrupted")]
    assert not (tmp_path / "out" / "manifests" / "00001.json").exists()
    assert not (tmp_path / "out" / "data" / "00001.parquet").exists()
    again = FakeRun(tmp_path / "in", tmp_path / "out")
    again.run()
    assert again.engine.submitted == 17
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [10, 10, 10])
    assert not (tmp_path / "out" / "partial" / "00001").exists()


def test_a_snapshot_says_what_each_stage_holds(tmp_path):
    write_shards(tmp_path / "in", [10, 30])
    engine = FakeEngine(num_slots=4, length=lambda _: float("inf"))
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine, window=20)
    assert run.counters.snapshot().gauges == Gauges()
    pipeline, seen, step = run.pipeline(), [], engine.step

    def watched_step(**told):
        if not seen and not engine.free_slots:
            wait_until(lambda: run.counters.snapshot().gauges.queues["window"] == 20)
            wait_until(lambda: run.counters.snapshot().gauges.queues["requests"] == 16)
            wait_until(lambda: not run.counters.snapshot().gauges.queues["rows"])  # it had the end of the first shard
            engine.statistics.idle_s["input"] = 1.5
            seen.append(run.counters.snapshot())
            engine.release()
        return step(**told)

    engine.step = watched_step
    guarded(lambda: pipeline.run(run.pending))
    (gauges,) = [snapshot.gauges for snapshot in seen]
    assert gauges.queues == {"samples": 0, "requests": 16, "rows": 0, "window": 20}
    assert (gauges.slots, gauges.slots_in_use, gauges.window_bytes > 0) == (4, 4, True)
    assert (gauges.idle_s["input"], gauges.open_shards) == (1.5, ("00000", "00001"))
    end = run.counters.snapshot()
    assert (end.gauges.slots_in_use, set(end.gauges.queues.values()), end.gauges.open_shards) == (0, {0}, ())
    assert min(end.stage_s.values()) > 0


def test_a_limit_at_the_end_of_a_shard_finishes_it(tmp_path):
    write_shards(tmp_path / "in", [10, 10])
    (report,) = FakeRun(tmp_path / "in", tmp_path / "out", limit=10).run()
    assert (report.shard, report.status) == ("00000", "complete")


def test_noise_keys_tell_every_sample_of_every_shard_and_never_change(tmp_path):
    write_shards(tmp_path / "in", [20, 20])
    keys = []
    for _ in range(2):
        run = FakeRun(tmp_path / "in", tmp_path / f"out{len(keys)}")
        submit, seen = run.engine.submit, []
        run.engine.submit = lambda requests, s=submit, k=seen: (k.extend(r.noise_key for r in requests), s(requests))
        run.run()
        keys.append(seen)
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 40
    assert all(0 <= key < 2**64 for key in keys[0])


def test_pixels_of_a_gpu_decoder_reach_the_engine_without_a_copy(tmp_path):
    write_shards(tmp_path / "in", [40], bad=(3,))
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    decode, submit = run.captioner.decoder.decode, run.engine.submit
    made: list[torch.Tensor] = []
    submitted: set[int] = set()

    def decode_to_tensors(images):
        batch = decode(images)
        made.append(torch.from_numpy(batch.pixels))
        return ImageBatch(made[-1], batch.outcomes)

    def submit_tensors(requests):
        submitted.update(request.pixels.untyped_storage().data_ptr() for request in requests)
        submit([dataclasses.replace(request, pixels=request.pixels.numpy()) for request in requests])

    run.captioner.decoder.decode, run.engine.submit = decode_to_tensors, submit_tensors
    run.run()
    assert submitted <= {pixels.untyped_storage().data_ptr() for pixels in made}
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [40], bad=(3,))
