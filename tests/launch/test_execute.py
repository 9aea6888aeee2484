"""A run from its config to its exit code, in this process, with a real engine and the Pillow decoder."""

import json
import re
import shutil
from pathlib import Path

import pytest
from support import runs
from support.launches import Recorder, files, make_config

from recap_fast.captioner import captioner
from recap_fast.decode.pillow import PillowDecoder
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.launch.work_log import WorkLog
from recap_fast.pipeline.counters import RunCounters
from recap_fast.write.at_work import at_work
from recap_fast.write.output_folder import OutputFolder

# -- what is said ------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_does_and_what_it_did_it_with(start, tmp_path):
    outcome = start()
    assert outcome.outcome == 0
    assert outcome.names == ["shards", "decoder", "engine", "summary", "cut", "output", "held", "flags", "done"]
    assert outcome["shards"] == "shards   2 of 2 to do"
    assert outcome["decoder"] == "decoder  pillow"
    assert outcome["engine"].startswith("engine   torch 2.")
    assert outcome["summary"].startswith("12 captions in ")
    assert outcome["summary"].endswith("4.0 tokens a caption; decoder pillow, backend torch, float32")
    assert outcome["cut"] == "12 captions were cut at 4 tokens (--max-new-tokens)."
    assert outcome["output"] == f"Captions are in {tmp_path}/out/data."
    assert re.fullmatch(
        r"Held .+ threads? for .+, from the start of the process: [\d,]+ images per hour\.", outcome["held"]
    )
    assert outcome["flags"].startswith("Flags of the 12 rows in shards that this run finished: 12 cut (100.0%)")
    assert outcome["flags"].endswith(f". `recap-fast report {tmp_path}/out` shows them.")
    assert outcome["done"] == "All 2 shards are done."
    assert outcome.result.as_json()["flags"] == outcome.result.flags
    assert outcome.result.flags["cut"] == 12
    snapshot = outcome.result.snapshot
    assert (snapshot.captioned, snapshot.rows, snapshot.shards_done) == (12, 12, 2)
    assert (outcome.begun.total, snapshot.total) == (None, 12), "what a tar holds is known when it is opened"
    assert [report.shard for report in outcome.result.reports] == ["00000", "00001"]
    assert outcome.result.statistics.images == 12
    assert "| prompt | Describe the image. |" in (tmp_path / "out" / "README.md").read_text()


def test_a_part_says_so_and_where_it_runs(start):
    outcome = start(part="2/2")
    assert outcome.names[:2] == ["part", "shards"]
    assert outcome["part"] == "part     2 of 2 on cpu"
    assert outcome["shards"] == "shards   1 of 2 to do"


def test_a_second_run_has_nothing_to_do_and_loads_no_engine(start, tmp_path, monkeypatch):
    start()
    before = files(tmp_path / "out")
    monkeypatch.setattr(PreparedEngine, "open", None)
    outcome = start()
    assert outcome.outcome == 0
    assert outcome.names == ["done"]
    assert outcome["done"] == "Nothing to do: all 2 shards are done."
    assert files(tmp_path / "out") == before


def test_a_limit_says_where_its_rows_are_and_that_more_is_to_do(start, tmp_path):
    first = start(limit=1)
    assert first.outcome == 0
    assert first["output"] == f"Captions are in {tmp_path}/out/partial (shards that are not finished)."
    assert first["done"] == "2 shards are not finished: run without --limit to go on."
    assert (first.result.shards_left, first.result.captions) == (2, (f"{tmp_path}/out/partial",))
    second = start(limit=6)
    assert (second.result.shards_left, second.result.snapshot.kept, len(second.result.captions)) == (1, 1, 2)
    assert second["kept"] == "The output keeps 1 row of earlier runs."
    assert second["output"] == (
        f"Captions are in {tmp_path}/out/data and {tmp_path}/out/partial (shards that are not finished)."
    )
    assert second["done"] == "1 shard is not finished: run without --limit to go on."
    assert start()["done"] == "All 2 shards are done."


def test_a_part_that_is_done_is_not_all(start):
    first = start(shard_index=1, num_shards=2)
    assert first["done"] == "Part 2 of 2 is done. In all, 1 of 2 shards are done."
    assert (first.outcome, first.result.shards_left) == (0, 1)
    again = start(shard_index=1, num_shards=2)
    assert (again.names, again["done"]) == (
        ["done"],
        "Nothing to do: part 2 of 2 is done. In all, 1 of 2 shards are done.",
    )
    assert start(shard_index=3, num_shards=4)["done"] == "Nothing to do: part 4 of 4 has no shards: there are 2."
    assert start(shard_index=0, num_shards=2)["done"] == "All 2 shards are done."


def test_a_run_beside_one_of_the_same_shards_says_so(start, tmp_path, caplog):
    start(limit=1)
    log = WorkLog(RunCounters(2).snapshot, (0, 1))
    with at_work(OutputFolder.at(tmp_path / "out"), ["00000", "00001"], log.work):
        start(shard_index=0, num_shards=2, limit=1)
        assert "another process" not in caplog.text
        start(limit=1)
        assert f"another process is at work on the same shards of {tmp_path}/out" in caplog.text


def test_the_notice_of_an_engine_is_shown(start, tiny_engine, tmp_path):
    spec = json.loads((tiny_engine / "engine.json").read_text())
    engine = shutil.copytree(tiny_engine, tmp_path / "engine")
    (engine / "engine.json").write_text(json.dumps({**spec, "notice": "It knows drawn scenes only."}))
    assert start(engine=engine)["notice"] == "notice   It knows drawn scenes only."


# -- exit codes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "status", "num_ok"),
    [(lambda whole: whole[:9000], "truncated", range(1, 6)), (lambda whole: b"x" * 2000, "failed", [0])],
)
def test_a_shard_that_cannot_be_read_whole_is_named_and_makes_it_1_until_it_is_mended(
    start, small_inputs, tmp_path, caplog, damage, status, num_ok
):
    tar = small_inputs / "00001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(damage(whole))
    outcome = start()
    assert outcome.outcome == 1
    assert caplog.text.count("shard 00001: ") == 1, "it is said when it happens"
    assert outcome["failure"] == "1 of 2 shards could not be read whole: 00001. The next run tries again."
    assert "done" not in outcome.names
    rows = runs.read_rows(tmp_path / "out")
    assert sum(row["shard"] == "00001" and row["status"] == "ok" for row in rows) in num_ok
    assert start().outcome == 1
    tar.write_bytes(whole)
    outcome = start()
    assert outcome.outcome == 0
    assert outcome["shards"] == f"shards   1 of 2 to do (1 {status})"
    assert len(runs.read_rows(tmp_path / "out")) == 12


def test_too_many_failures_make_it_3(start, small_inputs, tmp_path):
    runs.write_pictures(small_inputs, 2, 6, bad=[0])
    outcome = start()
    assert outcome.outcome == 3
    assert outcome["error_rate"] == "2 of 12 images have no caption (16.7%), more than --max-error-rate 0.1."
    assert outcome["failures"].startswith("Which images have no caption, and why: recap-fast failures ")
    assert ", 2 failed (2 not_an_image)" in outcome["summary"]
    assert start(overwrite=True, max_error_rate=0.2).outcome == 0
    (small_inputs / "00001.tar").write_bytes(b"x" * 2000)
    outcome = start(output=tmp_path / "other")
    assert (outcome.outcome, outcome.names[-2:]) == (1, ["error_rate", "failure"]), "both are said"


def test_engine_and_decoder_are_closed_whatever_happens(start, monkeypatch):
    closed = []
    monkeypatch.setattr(TorchEngine, "close", lambda self: closed.append("engine"))
    close = PillowDecoder.close
    monkeypatch.setattr(PillowDecoder, "close", lambda self: (closed.append("decoder"), close(self)))
    start()
    assert closed == ["engine", "decoder"]
    closed.clear()

    def broken(self, **told):
        raise EngineError("CUDA error")

    monkeypatch.setattr(TorchEngine, "step", broken)
    with pytest.raises(EngineError, match="CUDA error"):
        start(overwrite=True)
    assert closed == ["engine", "decoder"]


# -- refusals, before anything is loaded -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"engine": Path("/nowhere")}, "/nowhere is not an engine directory: it has no engine.json"),
        ({"shards": ("/nowhere/{0..3}.tar",)}, "/nowhere"),
        ({"decoder": "opencv"}, "--decoder is 'opencv'; it must be one of auto, dali, pillow"),
        ({"prompt": "What is {0}?"}, "unknown field {0}"),
        ({"prompt": ""}, "The prompt is empty"),
        ({"max_field_tokens": 0}, "--max-field-tokens 0"),
        ({"max_image_pixels": 0}, "--max-image-pixels is 0"),
        ({"shard_index": 3, "num_shards": 3}, "--shard-index 3 --num-shards 3"),
        ({"shard_index": 3}, "--shard-index and --num-shards go together"),
    ],
)
def test_what_cannot_work_is_refused_before_the_output_folder_is_made(start, monkeypatch, tmp_path, changed, message):
    monkeypatch.setattr(PreparedEngine, "open", None)
    with pytest.raises(ConfigError) as caught:
        start(**changed)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_run_is_refused(start, monkeypatch, tmp_path):
    start()
    before = files(tmp_path / "out")
    monkeypatch.setattr(PreparedEngine, "open", None)
    with pytest.raises(ConfigError, match="  loop_stop: True there, False now\n"):
        start(options=EngineOptions(device="cpu", max_new_tokens=4, loop_stop=False))
    assert files(tmp_path / "out") == before


def test_the_decoder_runs_on_the_engines_device(tiny_engine, small_inputs, monkeypatch):
    asked = []
    monkeypatch.setattr(captioner, "make_decoder", lambda name, pre, **options: asked.append(options["device_id"]))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device, decoder in (
        *(("auto", "auto"), ("cuda", "auto"), ("cuda:1", "dali")),
        *(("cpu", "auto"), ("cuda:1", "pillow")),
    ):
        config = make_config(tiny_engine, small_inputs, decoder=decoder, options=EngineOptions(device=device))
        captioner.Captioner(config)
    assert asked == [0, 0, 1, None, None]


def test_a_run_that_could_not_begin_does_not_bind_the_next_one(start, tmp_path):
    with pytest.raises(ConfigError, match="--max-new-tokens 100000 does not fit"):
        start(options=EngineOptions(device="cpu", max_new_tokens=100_000))
    assert not (tmp_path / "out" / "run.json").exists()
    assert start().outcome == 0


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:", "cuda:x", ""])
def test_a_device_that_is_none_is_refused_before_anything_is_said(start, device):
    with pytest.raises(ConfigError, match=f"--device {device}: give auto, cpu, cuda or cuda:N"):
        start(options=EngineOptions(device=device))


@pytest.mark.parametrize(("device", "missing"), [("cuda:7", ""), ("cpu", "weights.safetensors")])
def test_a_device_or_weights_that_are_not_there_are_refused_before_anything_is_said(
    start, tiny_engine, tmp_path, monkeypatch, device, missing
):
    engine = shutil.copytree(tiny_engine, tmp_path / "engine", ignore=shutil.ignore_patterns(missing))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(Recorder, "event", None)
    with pytest.raises(ConfigError, match="CUDA devices" if device == "cuda:7" else f"{missing} is not there: copy"):
        start(engine=engine, options=EngineOptions(device=device))
    assert not (tmp_path / "out" / "run.json").exists()
