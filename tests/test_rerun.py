"""What a run does in a folder that has rows already, and what decides which rows are made: limits, parts, retries."""

import dataclasses
import functools
import os
from contextlib import closing

import numpy as np
import pytest
from support import pictures, runs, shard_files
from support.launches import files, make_config

from recap_fast.decode.pillow import PillowDecoder
from recap_fast.errors import ConfigError, ExitCode
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.launch.plan import plan
from recap_fast.records import ImageOutcome


def planned(start_config, **changed) -> list[tuple[str, str]]:
    """The shards that a run would do, and why."""
    with closing(plan(start_config(**changed))) as made:
        return [(p.shard.name, p.reason) for p in made.pending()]


@pytest.fixture
def config(tiny_engine, small_inputs):
    return functools.partial(make_config, tiny_engine, small_inputs)


def test_a_plan_loads_and_writes_nothing_and_knows_what_is_to_do(config, tmp_path, monkeypatch):
    monkeypatch.setattr(PreparedEngine, "open", None)
    assert planned(config) == [("00000", "new"), ("00001", "new")]
    assert not (tmp_path / "out").exists()


def test_a_plan_knows_what_is_done(start, config, tmp_path, small_inputs):
    start(limit=8)
    before = files(tmp_path / "out")
    assert planned(config) == [("00001", "new")]
    assert len(planned(config, overwrite=True)) == 2
    os.utime(small_inputs / "00000.tar", ns=(0, 0))
    assert ("00000", "changed") in planned(config, redo_changed=True)
    assert files(tmp_path / "out") == before
    assert start(redo_changed=True)["shards"] == "shards   2 of 2 to do (1 changed, 1 new)"


def test_rows_that_failed_are_redone_alone_on_request(start, monkeypatch, tmp_path):
    decode = PillowDecoder.decode
    decoded, broken = [], {pictures.encode(pictures.noise(20, 16, seed=seed), "PNG") for seed in (0, 3, 1005)}

    def fail_some(self, images):
        batch = decode(self, images)
        corrupt = ImageOutcome(status="corrupt", error="once")
        outcomes = [corrupt if image in broken else o for image, o in zip(images, batch.outcomes, strict=True)]
        return dataclasses.replace(batch, outcomes=tuple(outcomes))

    with monkeypatch.context() as patch:
        patch.setattr(PillowDecoder, "decode", fail_some)
        start(max_error_rate=1.0)
    failed = [(r["shard"], r["index"]) for r in runs.read_rows(tmp_path / "out") if r["status"] == "corrupt"]
    assert failed == [("00000", 0), ("00000", 3), ("00001", 5)]
    assert start().outcome == ExitCode.ERROR_RATE, "the rows that failed still count"
    monkeypatch.setattr(PillowDecoder, "decode", lambda self, images: (decoded.extend(images), decode(self, images))[1])
    outcome = start(retry_failed=("corrupt",))
    assert "retry" in outcome["shards"]
    assert {*decoded} == broken
    assert len(decoded) == len(broken)
    rows = runs.read_rows(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok"] * 12
    again = start(output=tmp_path / "other")
    assert again.outcome == 0
    assert runs.read_rows(tmp_path / "other") == rows


def test_the_parts_of_a_slurm_array_make_up_the_whole(start, monkeypatch, tmp_path):
    for task in range(2):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
        assert start()["shards"].startswith("shards   1 of 2 to do")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    monkeypatch.delenv("SLURM_ARRAY_TASK_COUNT")
    assert start()["done"]
    assert len(runs.read_rows(tmp_path / "out")) == 12


def test_a_question_with_fields_is_asked_of_each_sample(start, tmp_path):
    start(prompt="Someone called it {org_caption}. Describe it.", max_field_tokens=3)
    rows = runs.read_rows(tmp_path / "out")
    assert "org_caption cut from" in rows[0]["warning"]
    assert "| prompt | Someone called it {org_caption}. Describe it. |" in (tmp_path / "out/README.md").read_text()


def test_other_kinds_of_shards_go_the_same_way(start, tmp_path, small_inputs):
    images = [pictures.encode(pictures.noise(20, 16, seed=s), "PNG") for s in range(3)]
    (tmp_path / "mixed" / "sub").mkdir(parents=True)
    for i, image in enumerate(images):
        (tmp_path / "mixed" / "sub" / f"{i}.png").write_bytes(image)
    shard_files.write_table(tmp_path / "mixed" / "t.parquet", {"picture": images, "alt": ["a", "b", "c"]})
    start(shards=(str(tmp_path / "mixed"),), image_column="picture", caption_column="alt")
    rows = runs.read_rows(tmp_path / "out")
    by_shard = {shard: [r["re_caption"] for r in rows if r["shard"] == shard] for shard in {r["shard"] for r in rows}}
    assert len(by_shard) == 2
    (first, second) = by_shard.values()
    assert first == second
    assert len(first) == 3
    assert {r["org_caption"] for r in rows} == {None, "a", "b", "c"}


def test_captions_do_not_depend_on_how_the_run_is_cut_up(start, tmp_path):
    start(output=tmp_path / "one")
    start(output=tmp_path / "two", limit=5)
    start(output=tmp_path / "two", options=EngineOptions(device="cpu", max_new_tokens=4, num_slots=2, prefill_images=1))
    one, two = runs.read_rows(tmp_path / "one"), runs.read_rows(tmp_path / "two")
    assert [row["re_caption"] for row in one] == [row["re_caption"] for row in two]
    assert np.unique([row["re_caption"] for row in one]).size > 3


def test_overwrite_is_refused_to_one_of_several_processes(start, tmp_path):
    start()
    before = files(tmp_path / "out")
    with pytest.raises(
        ConfigError, match="--overwrite with part 1 of 2: one process would delete what the others have begun"
    ):
        start(overwrite=True, shard_index=0, num_shards=2)
    assert files(tmp_path / "out") == before
