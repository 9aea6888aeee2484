"""What a run does in a folder that has rows already, and what decides which rows are made: limits, parts, retries."""

import dataclasses
import os

import numpy as np
import pytest
from support import pictures, runs, shard_files
from support.launches import files

from recap_fast.decode.pillow import PillowDecoder
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions
from recap_fast.launch import execute as launch
from recap_fast.launch.execute import EXIT_ERRORS
from recap_fast.records import ImageOutcome


def test_a_dry_run_writes_nothing_and_lists_what_is_to_do(start, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "open_engine", None)
    outcome = start(dry_run=True)
    assert outcome.code == 0
    assert outcome["plan"] == "\n".join(
        f"{tmp_path}/in/{name}.tar -> {tmp_path}/out/data/{name}.parquet (new)" for name in ("00000", "00001")
    )
    assert outcome["dry_run"] == "2 of 2 shards to do; nothing was written."
    assert not (tmp_path / "out").exists()


def test_a_dry_run_knows_what_is_done(start, tmp_path, small_inputs):
    start(limit=8)
    before = files(tmp_path / "out")
    assert [e["shard"] for e in start(dry_run=True).events if e["event"] == "plan"] == ["00001"]
    assert start(dry_run=True, overwrite=True)["dry_run"].startswith("2 of 2 shards to do")
    os.utime(small_inputs / "00000.tar", ns=(0, 0))
    assert "00000.parquet (changed)" in start(dry_run=True, redo_changed=True)["plan"]
    assert files(tmp_path / "out") == before


def test_rows_that_failed_are_redone_alone_on_request(start, monkeypatch, tmp_path):
    decode = PillowDecoder.decode
    decoded = []

    def fail_two(self, images):
        batch = decode(self, images)
        decoded.extend(images)
        outcomes = [ImageOutcome(status="corrupt", error="once") if i < 2 else o for i, o in enumerate(batch.outcomes)]
        return dataclasses.replace(batch, outcomes=tuple(outcomes))

    with monkeypatch.context() as patch:
        patch.setattr(PillowDecoder, "decode", fail_two)
        start(max_error_rate=1.0)
    failed = [r for r in runs.read_rows(tmp_path / "out") if r["status"] == "corrupt"]
    assert 2 <= len(failed) < 12
    assert start().code == EXIT_ERRORS, "the rows that failed still count"
    decoded.clear()
    monkeypatch.setattr(PillowDecoder, "decode", lambda self, images: (decoded.extend(images), decode(self, images))[1])
    outcome = start(retry_failed=True)
    assert "retry" in outcome["shards"]
    assert len(decoded) == len(failed)
    rows = runs.read_rows(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok"] * 12
    again = start(output=tmp_path / "other")
    assert again.code == 0
    assert runs.read_rows(tmp_path / "other") == rows


def test_a_limit_then_the_rest(start, tmp_path):
    assert start(limit=7).code == 0
    assert not (tmp_path / "out" / "data" / "00001.parquet").exists()
    outcome = start()
    assert outcome.events[-1]["rows"] == 5
    assert [p.name for p in sorted((tmp_path / "out" / "data").iterdir())] == ["00000.parquet", "00001.parquet"]


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
    with pytest.raises(ConfigError, match="--overwrite with 2 processes: one would delete what the others have begun"):
        start(overwrite=True, shard_index=0, num_shards=2)
    assert files(tmp_path / "out") == before
