import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from recap_fast.errors import ConfigError, RecapError
from recap_fast.score.score_files import SETTINGS_KEY, ScoreFiles, ShardScores, Statistics
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.rows import CAPTIONS_KEY

SETTINGS = {"model": "m", "kind": "cosine", "files": {"config.json": "aa"}}


@pytest.fixture
def files(tmp_path):
    made = ScoreFiles(OutputFolder.at(tmp_path), "clip")
    made.begin(SETTINGS, False)
    return made


def scores(*values, captions="sha"):
    made = ShardScores.empty(captions, np.arange(len(values)))
    made.re[:] = values
    made.counts["re_cut"] = len(values)
    return made


def test_a_file_names_the_captions_that_it_is_of(files, tmp_path):
    files.write("x/a", scores(1.5, np.nan), SETTINGS)
    table = pq.read_table(tmp_path / "scores/clip/x/a.parquet")
    assert table.schema.names == ["shard", "index", "re_clip_score", "org_clip_score"]
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "double", "double"]
    assert table.to_pylist()[1] == {"shard": "x/a", "index": 1, "re_clip_score": None, "org_clip_score": None}
    assert table.schema.metadata[CAPTIONS_KEY.encode()] == b"sha"
    assert json.loads(table.schema.metadata[SETTINGS_KEY.encode()]) == SETTINGS
    assert files.is_scored("x/a", "sha", SETTINGS)
    assert not files.is_scored("x/a", "other", SETTINGS)
    assert not files.is_scored("x/b", "sha", SETTINGS)


def test_a_damaged_file_is_none(files, tmp_path):
    files.write("a", scores(1.0), SETTINGS)
    (tmp_path / "scores/clip/a.parquet").write_bytes(b"PAR1")
    assert not files.is_scored("a", "sha", SETTINGS)


def test_ratings_are_whole_numbers(tmp_path):
    made = ScoreFiles(OutputFolder.at(tmp_path), "rating")
    made.begin(SETTINGS, False)
    made.write("a", scores(4.0, np.nan, 5.0), SETTINGS)
    table = pq.read_table(tmp_path / "scores/rating/a.parquet")
    assert table["re_gpt4v_score"].to_pylist() == [4, None, 5]
    assert str(table.schema.field("re_gpt4v_score").type) == "int64"
    assert made.end(SETTINGS, {"a": "sha"}).re.median == 4.5


def test_totals_are_of_the_captions_as_they_are(files, tmp_path):
    files.write("a", scores(1.0, 2.0, np.nan), SETTINGS)
    files.write("b", scores(9.0), SETTINGS)
    files.write("old", scores(50.0, captions="before"), SETTINGS)
    totals = files.end(SETTINGS, {"a": "sha", "b": "sha", "old": "sha", "none": "sha"})
    assert (totals.rows, totals.re.number, totals.re.mean, totals.re.median) == (4, 3, 4.0, 2.0)
    assert (totals.org.number, totals.org.mean, totals.org.median) == (0, None, None)
    content = json.loads((tmp_path / "scores/clip.json").read_text())
    assert content["settings"] == SETTINGS
    assert content["totals"]["counts"] == {"re_cut": 4}
    assert content["totals"]["re"] == {"scored": 3, "mean": 4.0, "median": 2.0}


def test_scores_of_other_settings_are_refused_by_name_or_replaced(files, tmp_path):
    files.write("a", scores(1.0), SETTINGS)
    files.begin(SETTINGS, False)
    other = {**SETTINGS, "kind": "softmax", "files": {"config.json": "bb"}}
    with pytest.raises(ConfigError) as refused:
        files.begin(other, False)
    assert str(refused.value) == (
        f"{tmp_path} has clip scores of other settings, and mixing both would be a mistake:\n"
        "  kind: 'cosine' there, 'softmax' now\n"
        "  config.json: 'aa' there, 'bb' now\n"
        "Give the settings of those scores, or --overwrite to replace them."
    )
    assert files.is_scored("a", "sha", SETTINGS)
    files.begin(other, True)
    assert not files.is_scored("a", "sha", SETTINGS)
    files.begin(other, False)


def test_other_settings_are_taken_where_nothing_is_scored_yet(files, tmp_path):
    files.begin({**SETTINGS, "model": "other"}, False)
    assert json.loads((tmp_path / "scores/clip.json").read_text())["settings"]["model"] == "other"


def test_a_judge_may_move(tmp_path):
    made = ScoreFiles(OutputFolder.at(tmp_path), "rating")
    before, now = ({"judge": "a", "endpoint": f"http://localhost:{port}/v1"} for port in (8000, 8001))
    made.begin(before, False)
    made.write("a", scores(4.0), before)
    made.begin(now, False)
    assert made.is_scored("a", "sha", now)
    assert json.loads((tmp_path / "scores/rating.json").read_text())["settings"]["endpoint"].endswith("8001/v1")
    with pytest.raises(ConfigError, match="judge: 'a' there, 'b' now") as raised:
        made.begin({"judge": "b", "endpoint": "http://localhost:8000/v1"}, False)
    assert "endpoint" not in str(raised.value)


def test_the_same_settings_keep_their_scores_even_with_overwrite(files):
    files.write("a", scores(1.0), SETTINGS)
    files.begin(SETTINGS, True)
    assert files.is_scored("a", "sha", SETTINGS)


@pytest.mark.parametrize("content", ["{", '{"format": 1}', '{"format": 1, "settings": 3}', '{"format": 7}'])
def test_settings_that_cannot_be_read_are_refused(files, tmp_path, content):
    files.write("a", scores(1.0), SETTINGS)
    (tmp_path / "scores/clip.json").write_text(content)
    with pytest.raises(ConfigError, match=r"clip\.json cannot be read .*: give --overwrite to score everything again"):
        files.begin(SETTINGS, False)
    files.begin(SETTINGS, True)
    assert not files.is_scored("a", "sha", SETTINGS)


def test_scores_that_another_command_wrote_meanwhile_are_never_mixed_with_ours(files, tmp_path):
    other = {**SETTINGS, "kind": "softmax"}
    files.begin(other, True)
    files.write("b", scores(99.0), other)
    with pytest.raises(RecapError, match="meanwhile"):
        files.write("a", scores(1.0), SETTINGS)
    content = (tmp_path / "scores/clip/b.parquet").read_bytes()
    files.begin(SETTINGS, True)
    files.write("a", scores(1.0), SETTINGS)
    (tmp_path / "scores/clip/b.parquet").write_bytes(content)
    for ours, foreign, settings in (("a", "b", SETTINGS), ("b", "a", other)):
        assert (files.is_scored(ours, "sha", settings), files.is_scored(foreign, "sha", settings)) == (True, False)
    with pytest.raises(RecapError, match=r"Another command wrote clip scores of other settings to .* meanwhile"):
        files.end(SETTINGS, {"a": "sha", "b": "sha"})
    files.write("b", scores(2.0), SETTINGS)
    assert files.end(SETTINGS, {"a": "sha", "b": "sha"}).re.mean == 1.5
    files.begin(other, True)
    with pytest.raises(RecapError, match="meanwhile"):
        files.end(SETTINGS, {"a": "sha"})
    assert json.loads((tmp_path / "scores/clip.json").read_text())["settings"] == other


@pytest.mark.parametrize("number", [1, 2, 7, 1000])
def test_mean_and_median_are_numpys(number):
    values = np.round(np.random.default_rng(number).uniform(-100, 100, number), 2)
    found = Statistics()
    for part in np.array_split(values, 3):
        found.add(part)
    assert found.mean == pytest.approx(values.mean())
    assert found.median == pytest.approx(np.median(values), abs=0.006)


def test_a_file_without_images_that_could_not_be_read_is_made_again(files):
    made = scores(1.0, np.nan)
    made.counts["unreadable"] = 1
    files.write("a", made, SETTINGS)
    assert not files.is_scored("a", "sha", SETTINGS)
    assert files.end(SETTINGS, {"a": "sha"}).re.number == 1
