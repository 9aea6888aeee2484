"""Every figure is that of a slow count in plain Python, however the rows come."""

import random
from collections import Counter
from statistics import fmean

import pytest
from support.captioned import row, several, write

from recap_fast.joined import JoinedOutput
from recap_fast.report import figures
from recap_fast.report.database import connect
from recap_fast.report.survey import survey
from recap_fast.report.texts import Texts

WORDS = ["a", "The", "cat,", "dog.", "sat", "“red”", "große", "猫が座る", "x" * 300]
REASONS = ["stop", "loop", "length"]
ERRORS = ["The data is damaged.", "It ends.", None]


def draw_rows(rng, count):
    rows = []
    for number in range(count):
        re = " ".join(rng.choices(WORDS, k=rng.randrange(9)))
        org = rng.choice([None, "", " ".join(rng.choices(WORDS, k=rng.randrange(5)))])
        given = {
            "finish_reason": rng.choice(["stop", "loop", "length"]),
            "flags": rng.sample(["loop", "refusal", "garble"], rng.randrange(3)),
            "duplicate_of": rng.choice([None, None, "00000:0"]),
            "re_clip_score": rng.choice([None, rng.random()]),
            "org_clip_score": rng.choice([None, rng.random()]),
            "re_gpt4v_score": rng.choice([None, rng.randint(1, 5)]),
        }
        if rng.random() < 0.2:
            failed = {"status": rng.choice(["corrupt", "truncated"]), "error": rng.choice(ERRORS)}
            rows.append(row(number, None, org, **failed))
        else:
            rows.append(row(number, re, org, **given))
    return rows


def counted(output, tmp_path, watch=()):
    with connect(tmp_path) as database:
        return survey(JoinedOutput.open(output), Texts(database), watch, lambda: None)


@pytest.mark.parametrize("chunk_rows", [7, 10_000])
def test_figures_are_those_of_plain_python(tmp_path, monkeypatch, chunk_rows):
    monkeypatch.setattr(figures, "CHUNK_ROWS", chunk_rows)
    rng = random.Random(3)
    shards = {"00000": draw_rows(rng, 60), "00001": draw_rows(rng, 50), "00002": draw_rows(rng, 9)}
    rows = [each for some in shards.values() for each in some]
    found = counted(write(tmp_path, shards, unfinished=["00002"]), tmp_path)
    ok = [each for each in rows if each["status"] == "ok"]
    failed = [each for each in rows if each["status"] != "ok"]
    org = [len(each["org_caption"].split()) for each in rows if each["org_caption"] is not None]
    assert (found.rows, found.captioned) == (len(rows), len(ok))
    assert found.failed == Counter(each["status"] for each in failed)
    assert found.finish_reasons == Counter(each["finish_reason"] for each in ok)
    assert found.flags == Counter(flag for each in rows for flag in each["flags"])
    assert found.duplicates == sum("duplicate_of" in each and each["duplicate_of"] is not None for each in rows)
    assert found.re_lengths == Counter(len(each["re_caption"].split()) for each in ok)
    assert found.org_lengths == Counter(org)
    assert found.mean_re == fmean(len(each["re_caption"].split()) for each in ok)
    assert found.mean_org == fmean(org)
    assert found.mean_tokens == fmean(each["num_tokens"] for each in ok)
    for column in ("re_clip_score", "org_clip_score", "re_gpt4v_score"):
        scores = [each[column] for each in ok if each.get(column) is not None]
        assert found.mean_score(column) == pytest.approx(fmean(scores), abs=1e-12)
        assert found.scores[column] == Counter(round(score, 2) for score in scores)
    assert found.mean_score("org_gpt4v_score") is None
    reasons = Counter((each["status"], each["error"] or "") for each in failed)
    assert Counter({(status, reason): num for status, reason, num in found.errors}) == reasons
    starts = Counter(
        " ".join(each["re_caption"].split()[:3])[:100] for each in ok if len(each["re_caption"].split()) > 2
    )
    assert dict(found.openings).items() <= starts.items()
    assert [num for _, num in found.openings] == [num for _, num in starts.most_common(figures.NUM_OPENINGS)]


@pytest.mark.parametrize("chunk_rows", [3, 10_000])
def test_captions_are_counted_by_their_prompts(tmp_path, monkeypatch, chunk_rows):
    monkeypatch.setattr(figures, "CHUNK_ROWS", chunk_rows)
    rng = random.Random(5)
    rows = [several(row(n), draw_captions(rng, rng.sample("abcd", rng.randrange(4)))) for n in range(50)]
    found = counted(write(tmp_path, {"00000": rows[:40], "00001": rows[40:]}, unfinished=["00001"]), tmp_path)
    captions = [each for row in rows for each in row["captions"] or ()]
    assert {*found.prompts} == {*"abcd"}
    for name, prompt in found.prompts.items():
        own = [each for each in captions if each["name"] == name]
        assert prompt.captions == len(own)
        assert prompt.words == sum(len(each["text"].split()) for each in own)
        assert prompt.loops == sum(each["finish_reason"] == "loop" for each in own)
        assert prompt.cuts == sum(each["finish_reason"] == "length" for each in own)
    firsts = [row["re_caption"] for row in rows]
    assert found.re_lengths == Counter(len(text.split()) for text in firsts), "all else is of the first captions"
    assert found.captioned == len(rows)


def draw_captions(rng, names):
    texts = ["", " \u3000", "one", "A cat,\n a\u3000dog. ", "x" * 300]
    return [
        {"name": name, "prompt": f"{name}?", "text": rng.choice(texts), "finish_reason": rng.choice(REASONS)}
        for name in names
    ]


@pytest.mark.parametrize("rows", [[], [row(0, None, None)]])
def test_without_captions_there_is_nothing_to_average(tmp_path, rows):
    found = counted(write(tmp_path, {"00000": rows}), tmp_path)
    assert (found.rows, found.captioned) == (len(rows), 0)
    assert found.mean_re is found.mean_org is found.mean_tokens is found.vocabulary.share is found.share(1) is None
    assert found.re_words == found.added == found.openings == []
    assert found.prompts == {}


def test_rows_are_watched_as_they_are_counted(tmp_path):
    seen = []
    counted(write(tmp_path, {"00000": [row(n) for n in range(5)]}), tmp_path, [lambda rows: seen.append(rows)])
    assert [index for rows in seen for index in rows["index"].to_pylist()] == [0, 1, 2, 3, 4]


def test_scores_that_are_no_numbers_are_left_out(tmp_path):
    scores = [0.5, float("nan"), float("inf"), -float("inf"), None, 1.5]
    found = counted(write(tmp_path, {"00000": [row(n, re_clip_score=s) for n, s in enumerate(scores)]}), tmp_path)
    assert found.scores["re_clip_score"] == {0.5: 1, 1.5: 1}
    assert found.mean_score("re_clip_score") == 1.0
