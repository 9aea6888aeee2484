"""Whole runs on tars with many copies: the rows are those of --no-dedup, whatever happens to the run."""

import json
import random
import signal
from collections import Counter

import pytest
from support import pictures, runs, shard_files
from support.launches import Launch, make_config
from support.runs import run_arguments

from recap_fast.generate.engine import EngineOptions, Sampling

NUM_SHARDS, NUM_SAMPLES, NUM_KINDS = 3, 40, 9
SHORT = ("--max-new-tokens", 8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Half of the pictures are copies of one, as placeholders are; the others are of a few kinds, one no picture."""
    folder, rng = tmp_path_factory.mktemp("in"), random.Random(1)
    kinds = [runs.BAD, *(pictures.encode(pictures.noise(20, 16, seed=kind), "PNG") for kind in range(1, NUM_KINDS))]
    for shard in range(NUM_SHARDS):
        members = []
        for index in range(NUM_SAMPLES):
            key = f"{shard:05d}{index:04d}"
            content = kinds[1] if rng.random() < 0.5 else rng.choice(kinds)
            fields = {"uid": f"u{key}", "caption": f"alt text {index % 2}"}
            members += [(f"{key}.png", content), (f"{key}.json", json.dumps(fields).encode())]
        shard_files.write_tar(folder / f"{shard:05d}.tar", members)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, server, tiny_engine, inputs):
    """Rows of a run that captions each image by itself."""
    output = tmp_path_factory.mktemp("out")
    command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT, "--max-error-rate", 1, "--no-dedup"))
    assert command.code == 0, command.stderr
    assert "identical images" not in command.stderr
    rows = runs.read_rows(output)
    assert {row["duplicate_of"] for row in rows} == {None}
    assert len({row["re_caption"] for row in rows}) == NUM_KINDS, "captions that are all alike prove little"
    return rows


def assert_same(rows, undisturbed):
    """The rows are the same, and each copy names a row that has its image and its caption."""
    assert [{**row, "duplicate_of": None} for row in rows] == undisturbed
    places = {f"{row['shard']}:{row['index']}": row for row in rows}
    for row in rows:
        if row["duplicate_of"] is not None:
            first = places[row["duplicate_of"]]
            assert first["duplicate_of"] is None
            assert (first["sha256"], first["re_caption"]) == (row["sha256"], row["re_caption"])


def launch(tiny_engine, inputs, output, **changed):
    options = EngineOptions(device="cpu", max_new_tokens=8, sampling=changed.pop("sampling", Sampling()))
    changed = {"options": options, "max_error_rate": 1.0, **changed}
    return Launch(make_config(tiny_engine, inputs, output=output, **changed))


def test_a_run_captions_each_image_once_and_says_so(tmp_path, tiny_engine, inputs, undisturbed):
    run = launch(tiny_engine, inputs, tmp_path / "out")
    rows = runs.read_rows(tmp_path / "out")
    assert_same(rows, undisturbed)
    ok = sum(row["status"] == "ok" for row in rows)
    shared = sum(row["duplicate_of"] is not None for row in rows)
    assert shared == ok - (NUM_KINDS - 1)
    snapshot = run.result.snapshot
    assert (snapshot.captioned, snapshot.shared, run.result.statistics.images) == (ok, shared, NUM_KINDS - 1)
    assert run["shared"] == f"{shared} images have what an identical one got (--no-dedup)."
    assert run.result.as_json()["shared"] == shared
    own = [row["num_tokens"] for row in rows if row["status"] == "ok" and row["duplicate_of"] is None]
    assert (snapshot.num_tokens, snapshot.tokens_per_caption) == (sum(own), sum(own) / len(own))
    assert sum(report.num_tokens for report in run.result.reports) == sum(row["num_tokens"] or 0 for row in rows)


def test_a_prompt_with_a_field_shares_where_the_field_is_the_same(tmp_path, tiny_engine, inputs):
    found = {}
    for dedup in (True, False):
        output = tmp_path / str(dedup)
        run = launch(tiny_engine, inputs, output, dedup=dedup, prompt="Is it {org_caption}?")
        found[dedup] = runs.read_rows(output), run.result.statistics.images
    (rows, num), (alone, num_alone) = found[True], found[False]
    assert_same(rows, alone)
    kinds = {(row["sha256"], row["org_caption"]) for row in rows if row["status"] == "ok"}
    assert (num, num_alone) == (len(kinds), sum(row["status"] == "ok" for row in rows))
    assert num > NUM_KINDS


def test_sampled_captions_are_never_shared(tmp_path, tiny_engine, inputs):
    run = launch(tiny_engine, inputs, tmp_path / "out", sampling=Sampling(temperature=1.0, seed=3))
    rows = runs.read_rows(tmp_path / "out")
    assert run.result.statistics.images == sum(row["status"] == "ok" for row in rows)
    assert {row["duplicate_of"] for row in rows} == {None}
    assert "shared" not in run.names
    assert max(Counter(row["re_caption"] for row in rows if row["re_caption"]).values()) < NUM_SAMPLES


def test_an_output_may_go_on_with_the_other_setting(tmp_path, tiny_engine, inputs, undisturbed):
    output = tmp_path / "out"
    launch(tiny_engine, inputs, output, limit=50)
    run = launch(tiny_engine, inputs, output, dedup=False)
    assert_same(runs.read_rows(output), undisturbed)
    assert run.result.snapshot.shared == 0
    assert 0 < run.result.snapshot.rows < NUM_SHARDS * NUM_SAMPLES


@pytest.mark.parametrize("num_kills", [4, pytest.param(50, marks=pytest.mark.fuzz)])
def test_kill_9_at_any_moment_loses_and_doubles_nothing(tmp_path, server, tiny_engine, inputs, undisturbed, num_kills):
    kills = outputs = 0
    options = (*SHORT, "--max-error-rate", 1)
    while kills < num_kills:
        output = tmp_path / f"out{outputs}"
        command = run_arguments(tiny_engine, inputs, output, *options)
        *killed, _, _ = server.run_killed(*command, moments=120, most_kills=num_kills - kills)
        kills += len(killed)
        outputs += 1
        assert_same(runs.read_rows(output), undisturbed)
        assert not list(output.glob("partial/**/*.parquet"))


def test_a_signal_drains_and_the_next_run_goes_on(tmp_path, server, tiny_engine, inputs, undisturbed):
    output, options = tmp_path / "out", (*SHORT, "--max-error-rate", 1)
    command = server.run(*run_arguments(tiny_engine, inputs, output, *options), send=(signal.SIGTERM, "step", 2))
    assert command.code == 75, command.stderr
    first = command.finished
    assert first
    command = server.run(*run_arguments(tiny_engine, inputs, output, *options))
    assert command.code == 0
    assert not set(first) & set(command.finished)
    assert_same(runs.read_rows(output), undisturbed)
