"""`recap-fast score --kind rating`: from a run's output to a judge's ratings in its columns."""

import json

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from support.judge_server import JudgeServer, Reply, caption_of

from recap_fast.cli.main import cli
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.rows import read_rows


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with JudgeServer(lambda request: Reply(f"Rating: {1 + len(caption_of(request)) % 5}")) as made:
        yield made


@pytest.fixture
def output(start, tmp_path):
    """Of two tars of six pictures."""
    start()
    return tmp_path / "out"


def rate(output, server, *words, code=0):
    given = ["--kind", "rating", "--endpoint", server.url, "--judge", "Some-VL", *words]
    done = CliRunner().invoke(cli, ["score", str(output), *given])
    assert done.exit_code == code, done.output
    return done


def rows_of(output):
    columns = ["re_caption", "org_caption", "re_gpt4v_score", "org_gpt4v_score"]
    folder = OutputFolder.at(output)
    return [row for name in ("00000", "00001") for b in read_rows(folder, name, columns) for row in b.to_pylist()]


def rating(caption):
    return None if caption is None else 1 + len(caption) % 5


def test_ratings_fill_their_columns(output, server):
    done = rate(output, server, "--price-per-million-tokens", "2")
    assert done.stderr.startswith("Rating 12 images by Some-VL: about ")
    assert "$0.0" in done.stderr
    assert done.stdout.startswith("scored           12 images of 2 shards, ")
    assert "note: the endpoint calls its model Some-VL-2026." in done.stdout
    assert f"note: this call used {len(server.requests) * 100:,} tokens" in done.stdout
    rows = rows_of(output)
    assert [r["re_gpt4v_score"] for r in rows] == [rating(r["re_caption"]) for r in rows]
    assert [r["org_gpt4v_score"] for r in rows] == [rating(r["org_caption"]) for r in rows]
    settings = json.loads((output / "scores/rating.json").read_text())["settings"]
    assert (settings["judge"], settings["endpoint"]) == ("Some-VL", server.url)
    schema = pq.read_schema(output / "scores/rating/00000.parquet")
    assert str(schema.field("re_gpt4v_score").type) == "int64"
    assert json.loads(schema.metadata[b"recap_fast.settings"]) == settings


def test_a_sample_is_recorded_and_the_second_call_asks_nothing(output, server):
    rate(output, server, "--sample", "5", "--seed", "2")
    rated = [row["re_gpt4v_score"] is not None for row in rows_of(output)]
    assert 0 < sum(rated) < 12
    assert json.loads((output / "scores/rating.json").read_text())["settings"]["sample"] == 5
    number = len(server.requests)
    rate(output, server, "--sample", "5", "--seed", "2")
    assert len(server.requests) == number
    assert "sample" in rate(output, server, "--sample", "6", "--seed", "2", code=2).stderr


def test_too_many_without_a_rating_end_with_3(output, server):
    server.answer = lambda request: Reply("I cannot say")
    done = rate(output, server, code=3)
    assert "without a rating: the judge gave no number from 1 to 5, asked twice" in done.stdout
    assert {row["re_gpt4v_score"] for row in rows_of(output)} == {None}


@pytest.mark.parametrize(("status", "remedy"), [(401, "set OPENAI_API_KEY"), (404, "check --judge")])
def test_a_wrong_key_or_name_ends_with_2_and_goes_on_when_it_is_right(output, server, status, remedy):
    right, server.answer = server.answer, lambda request: Reply(status=status)
    assert remedy in rate(output, server, code=2).stderr
    server.answer = right
    rate(output, server)
    assert None not in {row["re_gpt4v_score"] for row in rows_of(output)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--endpoint", "http://localhost:1/v1"], "--judge is missing"),
        (["--judge", "a"], "--endpoint is missing"),
        (["--endpoint", "localhost", "--judge", "a"], "--endpoint localhost: give a base address"),
        (["--endpoint", "http://localhost:1/v1", "--judge", "a", "--concurrency", "0"], "--concurrency 0"),
        (["--endpoint", "http://localhost:1/v1", "--judge", "a", "--sample", "0"], "--sample 0"),
    ],
)
def test_what_is_missing_or_wrong_is_said(output, words, message):
    done = CliRunner().invoke(cli, ["score", str(output), "--kind", "rating", *words])
    assert (done.exit_code, message in done.stderr) == (2, True)
