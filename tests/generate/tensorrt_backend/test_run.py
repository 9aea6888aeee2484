"""`build-engine` and `run` on the demo's shards: the rows are those that the torch backend writes."""

from pathlib import Path

import make_shards
import pytest
from click.testing import CliRunner
from support import launches, runs

from recap_fast.cli.main import cli
from recap_fast.errors import EngineError
from recap_fast.generate.engine import EngineOptions

pytestmark = pytest.mark.usefixtures("gpu")
CHECKPOINT = Path(__file__).parents[3] / "demo/recap-tiny"
SHARDS, SAMPLES = 2, 14


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_shards.make_shards(folder, SHARDS, SAMPLES, seed=7)
    return folder


def build_engine(folder, *choices):
    result = CliRunner().invoke(
        cli, ["build-engine", "recap_tiny", "--checkpoint", str(CHECKPOINT), "--output", str(folder), *choices]
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def truth(shards, tmp_path_factory):
    """The torch backend's rows."""
    folder = tmp_path_factory.mktemp("truth")
    run(build_engine(folder / "engine"), shards, folder / "out", device="cpu")
    return runs.read_rows(folder / "out")


def run(engine, shards, output, device="auto", **options):
    given = EngineOptions(device=device, num_slots=8, prefill_images=4, **options)
    return launches.Launch(launches.make_config(engine, shards, output=output, options=given, max_error_rate=1.0))


def without_counts(rows):
    """All of a row but the tokens of a loop, which TensorRT-LLM generates to their end."""
    return [{k: v for k, v in row.items() if k != "num_tokens" or row["finish_reason"] != "loop"} for row in rows]


def test_rows_are_the_torch_backends(fake, shards, truth, tmp_path):
    engine = build_engine(tmp_path / "engine", "--backend", "tensorrt-llm")
    outcome = run(engine, shards, tmp_path / "out")
    assert outcome.outcome == 0
    assert "tensorrt-llm" in outcome["engine"]
    rows = runs.read_rows(tmp_path / "out")
    assert sum(row["re_caption"] is not None for row in rows) >= SHARDS * (SAMPLES - 8)
    assert without_counts(rows) == without_counts(truth)


def test_a_run_goes_on_after_its_executor_died_and_a_failed_request_is_a_row(library, shards, truth, tmp_path):
    library(dies_after=4)
    engine = build_engine(tmp_path / "engine", "--backend", "tensorrt-llm")
    with pytest.raises(EngineError):
        run(engine, shards, tmp_path / "out")
    assert not any((tmp_path / "out" / "manifests").glob("*.json"))
    library(failing=(3,))
    assert run(engine, shards, tmp_path / "out").outcome == 0
    rows = runs.read_rows(tmp_path / "out")
    (failed,) = [row for row in rows if row["status"] == "generation_error"]
    assert "told to fail" in failed["error"]
    assert (failed["re_caption"], failed["finish_reason"], failed["num_tokens"]) == (None, "error", None)
    others = [(ours, theirs) for ours, theirs in zip(rows, truth, strict=True) if ours is not failed]
    assert without_counts([a for a, _ in others]) == without_counts([b for _, b in others])
