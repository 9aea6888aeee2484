"""`recap_fast.run`, `build_engine` and `verify`: what the commands do, with results, and silent."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import runs

import recap_fast
from recap_fast.errors import ConfigError, ExitCode

CHECKPOINT = "demo/recap-tiny"


def test_run_returns_what_it_did_and_says_nothing(tiny_engine, small_inputs, tmp_path, capfd, recwarn):
    result = recap_fast.run(
        str(tiny_engine), [small_inputs / "*.tar"], tmp_path / "out", device="cpu", decoder="pillow", max_new_tokens=4
    )
    assert capfd.readouterr() == ("", "")
    assert (result.outcome, result.shards_left, result.output) == (ExitCode.COMPLETE, 0, f"{tmp_path}/out")
    assert result.captions == (f"{tmp_path}/out/data",)
    assert (result.snapshot.captioned, len(result.reports)) == (12, 2)
    assert result.statistics.images == 12
    again = recap_fast.run(tiny_engine, str(small_inputs / "*.tar"), tmp_path / "out", device="cpu", max_new_tokens=4)
    assert (again.outcome, again.reports, again.snapshot.rows) == (ExitCode.COMPLETE, (), 0)
    assert capfd.readouterr() == ("", "")
    verdict = recap_fast.verify(tmp_path / "out", str(small_inputs / "*.tar"))
    assert (verdict.faults, verdict.rows, verdict.num_compared) == ([], 12, 2)
    assert recap_fast.verify(str(tmp_path / "out")).num_compared == 0


def test_run_shows_its_progress_where_it_is_asked_to(tiny_engine, small_inputs, tmp_path, capfd):
    options = {"device": "cpu", "decoder": "pillow", "max_new_tokens": 4}
    recap_fast.run(tiny_engine, str(small_inputs), tmp_path / "out", log_format="text", **options)
    assert "12 captions in " in capfd.readouterr().err


def test_a_failure_is_an_outcome_and_a_warning_that_the_program_may_hear(
    tiny_engine, small_inputs, tmp_path, capfd, caplog
):
    (small_inputs / "00001.tar").write_bytes(b"no tar" * 500)
    result = recap_fast.run(tiny_engine, str(small_inputs / "*.tar"), tmp_path / "out", device="cpu", max_new_tokens=4)
    assert result.outcome == ExitCode.FAILURE
    assert [report.status for report in result.reports if report.shard == "00001"] == ["failed"]
    assert "00001" in caplog.text
    assert capfd.readouterr() == ("", "")
    assert [fault.shard for fault in recap_fast.verify(tmp_path / "out").faults] == ["00001"]


def test_what_cannot_be_used_is_an_error(tiny_engine, small_inputs, tmp_path):
    with pytest.raises(ConfigError, match="--limit 0"):
        recap_fast.run(tiny_engine, str(small_inputs), tmp_path / "out", limit=0)
    with pytest.raises(TypeError, match="limits"):
        recap_fast.run(tiny_engine, str(small_inputs), tmp_path / "out", limits=3)
    with pytest.raises(ConfigError, match=r"has no run\.json"):
        recap_fast.verify(tmp_path)


def test_an_engine_is_built_and_captions(tmp_path, capfd):
    spec = recap_fast.build_engine("recap_tiny", CHECKPOINT, str(tmp_path / "engine"))
    assert (spec.name, spec.precision) == ("recap-tiny", "float32")
    assert capfd.readouterr() == ("", "")
    inputs = runs.write_pictures(tmp_path / "in", 1, 2)
    result = recap_fast.run(tmp_path / "engine", str(inputs / "*.tar"), tmp_path / "out", device="cpu", limit=1)
    assert result.snapshot.captioned == 1


def test_every_public_name_is_there_and_typed(tmp_path):
    names = [name for name in recap_fast.__all__ if name != "__version__"]
    assert [getattr(recap_fast, name).__name__ for name in names] == names
    assert set(recap_fast.__all__) <= set(dir(recap_fast))
    assert (Path(recap_fast.__file__).parent / "py.typed").exists()
    file = tmp_path / "notebook.py"
    file.write_text("import recap_fast\n" + "\n".join(f"reveal_type(recap_fast.{name})" for name in names))
    shown = subprocess.run(
        [sys.executable, "-m", "mypy", str(file)], capture_output=True, text=True, check=False
    ).stdout
    revealed = [line.partition("Revealed type is ")[2] for line in shown.splitlines() if "Revealed type is" in line]
    assert len(revealed) == len(names), shown
    assert '"Any"' not in revealed
