"""Whole runs that make several captions an image: each equals that of a run with its prompt alone, whatever happens."""

import dataclasses
import json
import random
import shutil
from collections import Counter

import datasets
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import pictures, runs, shard_files
from support.launches import Launch, make_config
from support.runs import read_rows, run_arguments
from support.verdicts import faults_of

import recap_fast
from recap_fast.errors import ConfigError, ExitCode
from recap_fast.generate.engine import EngineOptions, Sampling
from recap_fast.generate.prompts import choose
from recap_fast.generate.spec import EngineSpec, SamplingSpec
from recap_fast.write.schema import SCHEMA

NUM_SHARDS, NUM_SAMPLES, NUM_KINDS, BAD = 2, 12, 9, 3
PROMPTS = {"short": "What is it?", "alt": "Is it {org_caption}?", "tags": "List tags, many of them."}
WEIGHTS = {"short": 2.0, "alt": 1.0, "tags": 1.0}
SAMPLED = Sampling(temperature=1.5, seed=3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory, tiny_engine):
    """The tiny engine with prompts by name, a list of all of them, and a set that one is drawn from."""
    folder = tmp_path_factory.mktemp("named") / "engine"
    shutil.copytree(tiny_engine, folder)
    spec = EngineSpec.load(folder)
    prompt = dataclasses.replace(spec.prompt, prompts=PROMPTS, sets={"all": tuple(PROMPTS), "mixed": WEIGHTS})
    limits = dataclasses.replace(spec.limits, max_text_tokens=200)
    dataclasses.replace(spec, prompt=prompt, limits=limits).save(folder)
    return folder


@pytest.fixture(scope="module")
def pictures_in_order():
    """Pictures with copies among them, and one that is none."""
    rng = random.Random(1)
    kinds = [pictures.encode(pictures.noise(20, 16, seed=kind), "PNG") for kind in range(NUM_KINDS)]
    found = [rng.choice(kinds) for _ in range(NUM_SHARDS * NUM_SAMPLES)]
    found[BAD] = runs.BAD
    return found


def write_tars(folder, images, size):
    """The images in tars of so many samples, each with a text."""
    for first in range(0, len(images), size):
        members = []
        for number, image in enumerate(images[first : first + size], first):
            key = f"{number:09d}"
            fields = {"uid": f"u{number}", "caption": f"alt text {number % 2}"}
            members += [(f"{key}.png", image), (f"{key}.json", json.dumps(fields).encode())]
        shard_files.write_tar(folder / f"{first // size:05d}.tar", members)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, pictures_in_order):
    return write_tars(tmp_path_factory.mktemp("in"), pictures_in_order, NUM_SAMPLES)


def launch(engine, inputs, output, *prompts, **changed):
    options = EngineOptions(device="cpu", max_new_tokens=8, sampling=changed.pop("sampling", Sampling()))
    given = {"options": options, "max_error_rate": 1.0, "output": output, "prompt": prompts, **changed}
    return Launch(make_config(engine, inputs, **given))


def caption_of(row):
    return {name: row[name] for name in ("re_caption", "finish_reason", "num_tokens", "status", "error", "flags")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, engine, inputs):
    """Rows of a run with each prompt alone that captions each image by itself, by name."""
    found = {}
    for name in PROMPTS:
        output = tmp_path_factory.mktemp(name)
        launch(engine, inputs, output, name, dedup=False)
        found[name] = read_rows(output)
        assert {row["captions"] for row in found[name]} == {None}
        assert len({row["re_caption"] for row in found[name]}) >= NUM_KINDS, "captions that are all alike prove little"
    return found


def assert_equal(rows, alone, names):
    """Each row has the captions of the runs alone, in the order of these names."""
    for number, row in enumerate(rows):
        first = alone[names[0]][number]
        assert caption_of(row) == caption_of(first)
        if row["status"] != "ok":
            assert row["captions"] is None
            continue
        expected = [(name, PROMPTS[name], *alone_caption(alone[name][number])) for name in names]
        assert [tuple(each.values()) for each in row["captions"]] == expected


def alone_caption(row):
    return row["re_caption"], row["finish_reason"], row["num_tokens"]


@pytest.mark.parametrize(
    ("prompts", "changed"),
    [
        (("all",), {}),
        (("tags", f"alt={PROMPTS['alt']}"), {}),
        (("alt", "short", "tags"), {"dedup": False}),
        (("all",), {"options": EngineOptions(device="cpu", max_new_tokens=8, num_slots=2)}),  # more than the slots
        (("short", "alt"), {"options": EngineOptions(device="cpu", max_new_tokens=8, num_slots=3, prefill_images=3)}),
    ],
)
def test_each_caption_is_that_of_a_run_with_its_prompt_alone(tmp_path, engine, inputs, alone, prompts, changed):
    run = launch(engine, inputs, tmp_path / "out", *prompts, **changed)
    assert run.outcome == ExitCode.COMPLETE
    names = list(PROMPTS) if prompts == ("all",) else [prompt.partition("=")[0] for prompt in prompts]
    rows = read_rows(tmp_path / "out")
    assert_equal(rows, alone, names)
    assert not faults_of(tmp_path / "out", inputs)
    assert run["prompts"] == f"prompts  {', '.join(names)}"
    snapshot, own = run.result.snapshot, [row for row in rows if row["captions"] and row["duplicate_of"] is None]
    assert snapshot.generated == len(own) * len(names)
    assert snapshot.num_tokens == sum(each["num_tokens"] for row in own for each in row["captions"])
    counted = sum(each["num_tokens"] for row in rows for each in row["captions"] or ())
    assert sum(report.num_tokens for report in run.result.reports) == counted
    assert run["summary"].startswith(f"{len(rows) - 1} images with {snapshot.generated} new captions, 1 failed (")


def test_the_column_is_read_by_duckdb_and_datasets(tmp_path, engine, inputs, alone, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    launch(engine, inputs, tmp_path / "out", "all")
    expected = Counter(row["re_caption"] for row in alone["tags"] if row["status"] == "ok")
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert Counter(c["text"] for row in loaded for c in row["captions"] or [] if c["name"] == "tags") == expected
    files = f"{tmp_path}/out/data/**/*.parquet"
    found = duckdb.sql(
        f"SELECT c.text FROM (SELECT unnest(captions) AS c FROM '{files}') WHERE c.name = 'tags'"
    ).fetchall()
    assert Counter(text for (text,) in found) == expected
    assert "`captions` has all captions of the image" in (tmp_path / "out/README.md").read_text()


# -- drawn prompts -----------------------------------------------------------------------------------------------------


def drawn(rows):
    """By uid the prompt that was drawn, of rows that have a caption."""
    return {row["uid"]: row["captions"][-1]["name"] for row in rows if row["status"] == "ok"}


def test_a_drawn_prompt_follows_from_the_bytes_and_the_seed(tmp_path, engine, inputs, alone, pictures_in_order):
    run = launch(engine, inputs, tmp_path / "out", "mixed")
    rows = read_rows(tmp_path / "out")
    (asked,) = choose(EngineSpec.load(engine).prompt, ["mixed"])
    for number, row in enumerate(rows):
        if row["status"] == "ok":
            (caption,) = row["captions"]
            assert caption["name"] == asked.draw(bytes.fromhex(row["image_sha256"] or row["sha256"]), 0)
            assert alone_caption(row) == alone_caption(alone[caption["name"]][number])
            assert row["flags"] == alone[caption["name"]][number]["flags"]
    assert len(set(drawn(rows).values())) > 1
    assert run["prompts"] == "prompts  mixed (drawn for each image)"
    assert not faults_of(tmp_path / "out", inputs)
    both = launch(engine, inputs, tmp_path / "both", "mixed", "x=What?", limit=1)
    assert both["prompts"] == "prompts  mixed (drawn for each image), x"

    other = write_tars(tmp_path / "other", pictures_in_order[::-1], 7)
    launch(engine, other, tmp_path / "out2", "mixed", limit=10)
    launch(engine, other, tmp_path / "out2", "mixed")
    by_bytes = {row["sha256"]: row["captions"] for row in rows}
    again = read_rows(tmp_path / "out2")
    assert all(
        (row["captions"] or [{}])[0].get("name") == (by_bytes[row["sha256"]] or [{}])[0].get("name") for row in again
    )
    launch(engine, inputs, tmp_path / "out3", "mixed", sampling=Sampling(seed=1))
    assert drawn(read_rows(tmp_path / "out3")) != drawn(rows)


def test_copies_share_what_was_drawn_for_them(tmp_path, engine, inputs):
    found = {}
    for dedup in (True, False):
        run = launch(engine, inputs, tmp_path / str(dedup), "all", dedup=dedup)
        found[dedup] = [{**row, "duplicate_of": None} for row in read_rows(tmp_path / str(dedup))]
        assert (run.result.snapshot.shared > 0) == dedup
    assert found[True] == found[False]
    for dedup in (True, False):
        launch(engine, inputs, tmp_path / f"drawn {dedup}", "mixed", dedup=dedup)
        found[dedup] = [{**row, "duplicate_of": None} for row in read_rows(tmp_path / f"drawn {dedup}")]
    assert found[True] == found[False]


def test_another_weight_or_seed_is_another_run(tmp_path, engine, inputs):
    launch(engine, inputs, tmp_path / "out", "mixed", limit=5)
    with pytest.raises(ConfigError, match=r"  prompts\.0\.seed: 0 there, 1 now\nGive"):
        launch(engine, inputs, tmp_path / "out", "mixed", sampling=Sampling(seed=1))
    with pytest.raises(ConfigError, match=r"  prompt: 'one of mixed, .* there, 'What is it\?' now\nGive"):
        launch(engine, inputs, tmp_path / "out", "short")


# -- several of one prompt ---------------------------------------------------------------------------------------------


def test_samples_of_a_prompt_differ_and_do_not_depend_on_what_else_is_asked(tmp_path, engine, inputs):
    run = launch(engine, inputs, tmp_path / "three", "all", num_captions=3, sampling=SAMPLED)
    launch(engine, inputs, tmp_path / "alone", "tags", num_captions=2, sampling=SAMPLED)
    launch(engine, inputs, tmp_path / "one", "short", sampling=SAMPLED)
    three, two, one = (read_rows(tmp_path / name) for name in ("three", "alone", "one"))
    names = [name for name in PROMPTS for _ in range(3)]
    for row, tags, first in zip(three, two, one, strict=True):
        if row["status"] == "ok":
            assert [each["name"] for each in row["captions"]] == names
            assert row["captions"][6:8] == tags["captions"]
            assert caption_of(row) == caption_of(first)
            assert len({each["text"] for each in row["captions"][:3]}) == 3
    assert not faults_of(tmp_path / "three", inputs)
    assert run["prompts"].endswith(", 3 captions of each")
    assert run["sampling"] == "sampling temperature 1.5, top_k 0, top_p 1 (seed 3)"


def test_greedy_captions_of_a_prompt_would_be_the_same(engine, inputs, tmp_path):
    with pytest.raises(ConfigError, match="--num-captions 2 needs --temperature above 0"):
        launch(engine, inputs, tmp_path / "out", num_captions=2)
    with pytest.raises(ConfigError, match="--num-captions 0: give a count of at least 1"):
        launch(engine, inputs, tmp_path / "out", num_captions=0)


def test_an_engine_may_sample_by_default(tmp_path, engine, inputs):
    folder = tmp_path / "engine"
    shutil.copytree(engine, folder)
    spec = dataclasses.replace(EngineSpec.load(folder), sampling=SamplingSpec(temperature=0.6, top_p=0.9))
    spec.save(folder)

    def settings(**options):
        output = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        recap_fast.run(folder, inputs, output, device="cpu", max_new_tokens=4, limit=2, max_error_rate=1, **options)
        return json.loads((output / "run.json").read_text())["fingerprint"]["sampling"]

    assert settings() == "temperature 0.6, top_k 0, top_p 0.9, seed 0"
    assert settings(top_k=5, seed=2) == "temperature 0.6, top_k 5, top_p 0.9, seed 2"
    assert settings(temperature=1.0) == "temperature 1.0, top_k 0, top_p 0.9, seed 0"
    assert settings(temperature=0.0) == "greedy"
    with pytest.raises(ConfigError, match="--top-k and --top-p need --temperature above 0"):
        settings(temperature=0.0, top_k=5)


# -- verify and resume -------------------------------------------------------------------------------------------------


def test_verify_finds_captions_that_are_not_the_runs(tmp_path, engine, inputs):
    output = tmp_path / "out"
    launch(engine, inputs, output, "all")
    path = output / "data/00001.parquet"
    table = pq.ParquetFile(path).read()
    rows = table.to_pylist()
    del rows[4]["captions"][1]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    findings = [fault.finding for fault in recap_fast.verify(output).faults if fault.kind == "wrong rows"]
    assert len(findings) == 1
    assert findings[0].startswith(
        "has captions that are not as a run writes them in the row with index 4: they are of "
    )
    run_file = output / "run.json"
    run_file.write_text(run_file.read_text().replace('"num_captions": 1', '"num_captions": "x"'))
    with pytest.raises(ConfigError, match="not as a run wrote it: its num_captions is no count"):
        recap_fast.verify(output)


@pytest.mark.parametrize("num_kills", [4, pytest.param(50, marks=pytest.mark.fuzz)])
def test_kill_9_at_any_moment_changes_no_caption(tmp_path, server, engine, inputs, num_kills):
    options = ("--max-new-tokens", 8, "--prompt", "mixed", "--prompt", "What?", "--max-error-rate", 1)
    undisturbed = tmp_path / "undisturbed"
    assert server.run(*run_arguments(engine, inputs, undisturbed, *options)).code == 0
    expected = [{**row, "duplicate_of": None} for row in read_rows(undisturbed)]
    kills = outputs = 0
    while kills < num_kills:
        output = tmp_path / f"out{outputs}"
        command = run_arguments(engine, inputs, output, *options)
        *killed, _, _ = server.run_killed(*command, moments=60, most_kills=num_kills - kills)
        kills += len(killed)
        outputs += 1
        assert [{**row, "duplicate_of": None} for row in read_rows(output)] == expected
        assert not faults_of(output, inputs)
