"""Ratings of pairs by a judge on this machine: scores, notes, errors, and what they cost."""

import threading
import time
from contextlib import closing

import pytest
from support.guard import GUARD_S, guarded
from support.judge_server import JudgeServer, Reply, caption_of, image_of
from support.pictures import drawn, encode

from recap_fast.errors import ConfigError, InputError
from recap_fast.score import rating
from recap_fast.score.judge import Judge
from recap_fast.score.judged_image import judged_image
from recap_fast.score.rating import MAX_FAILURES, RatingScorer
from recap_fast.score.scorer import Pair

IMAGE = encode(drawn(0), "PNG")
AT_ONCE = {"retry-after-ms": "1"}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with JudgeServer() as made:
        yield made


def pairs_of(number, org="an alt text"):
    return [Pair("s", index, IMAGE, f"caption {index}", org) for index in range(number)]


def scorer_of(server, **options):
    return RatingScorer(Judge("judge", server.url), **options)


def scores_of(scorer, pairs, expected=0):
    """By index."""
    with closing(scorer):
        return {score.index: score for score in guarded(lambda: list(scorer.score(iter(pairs), expected)))}


def test_both_captions_are_rated_with_their_image(server):
    server.answer = lambda request: Reply(f"Rating: {1 + len(caption_of(request)) % 5}")
    images = [encode(drawn(seed), "PNG") for seed in range(6)]
    pairs = [Pair("s", 3 * i, image, "x" * i, "y" * (i + 2)) for i, image in enumerate(images)]
    scores = scores_of(scorer_of(server), pairs)
    assert {index: (s.re, s.org) for index, s in scores.items()} == {
        3 * i: (1 + i % 5, 1 + (i + 2) % 5) for i in range(6)
    }
    asked = {caption_of(r): image_of(r["messages"][0]["content"][0]["image_url"]["url"]) for r in server.requests}
    assert all(asked["x" * i] == ("image/png", image) for i, image in enumerate(images))


def test_a_caption_that_is_missing_is_not_asked_about(server):
    scores = scores_of(scorer_of(server), [Pair("s", 0, IMAGE, "a", None), Pair("s", 1, IMAGE, None, "b")])
    assert [(s.re, s.org, s.notes) for _, s in sorted(scores.items())] == [(4, None, ()), (None, 4, ())]
    assert len(server.requests) == 2


def test_what_gets_no_rating_is_none_and_counted(server):
    def answer(request):
        caption = caption_of(request)
        if caption == "caption 1":
            return Reply("I like it")
        return Reply(status=500, headers=AT_ONCE) if caption == "broken" else Reply()

    server.answer = answer
    pairs = [*pairs_of(3), Pair("s", 3, IMAGE, "caption 3", "broken"), Pair("s", 4, b"<html>", "caption 4", None)]
    scorer = scorer_of(server)
    scores = scores_of(scorer, pairs)
    assert [(s.re, s.org, s.notes) for _, s in sorted(scores.items())] == [
        (4, 4, ()),
        (None, 4, ("re_unrated",)),
        (4, 4, ()),
        (4, None, ("org_failed",)),
        (None, None, ("undecoded",)),
    ]
    assert (scorer.num_captions, scorer.num_without, scorer.error_rate) == (8, 2, 0.25)
    said = list(scorer.describe({"re_unrated": 1, "org_failed": 2, "undecoded": 1}))
    assert "the endpoint calls its model judge-2026" in said
    assert "1 image without a rating: the image could not be decoded" in said
    assert "1 caption without a rating: the judge gave no number from 1 to 5, asked twice" in said
    assert "2 captions without a rating: the judge did not answer" in said


def test_an_endpoint_that_answers_nothing_ends_it_after_few_images(server):
    server.answer = lambda request: Reply(status=500, headers=AT_ONCE, error="out of memory")
    with pytest.raises(
        InputError, match=r"no answer for 8 images in a row; .*out of memory.*Run the same command again"
    ):
        scores_of(scorer_of(server), pairs_of(1000))
    assert len({caption_of(request) for request in server.requests} - {"an alt text"}) <= MAX_FAILURES + 8


def test_a_dead_server_ends_it(server):
    url = server.url
    server.__exit__()
    with pytest.raises(InputError, match=r"Connection error\. Run the same command"):
        scores_of(RatingScorer(Judge("judge", url, max_retries=0)), pairs_of(1000))


def test_where_there_is_no_connection_the_second_caption_is_not_waited_for(server):
    url = server.url
    server.__exit__()
    (score,) = scores_of(RatingScorer(Judge("judge", url, max_retries=0)), pairs_of(1)).values()
    assert (score.re, score.org, score.notes) == (None, None, ("re_failed", "org_failed"))


def test_some_answers_between_failures_keep_it_going(server):
    server.answer = lambda request: Reply(status=400) if int(caption_of(request)[8:]) % 8 else Reply()
    scores = scores_of(scorer_of(server, concurrency=1), pairs_of(30, org=None))
    assert [index for index, score in scores.items() if score.re] == [0, 8, 16, 24]


def test_a_wrong_key_ends_it_at_once(server):
    server.key = "right"
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY"):
        scores_of(scorer_of(server, concurrency=3), pairs_of(1000))
    assert len(server.requests) <= 2 * 3


def test_as_many_images_as_asked_for_are_rated_at_the_same_time(server):
    barrier = threading.Barrier(5)

    def answer(request):
        barrier.wait(GUARD_S)
        return Reply()

    server.answer = answer
    assert len(scores_of(scorer_of(server, concurrency=5), pairs_of(10, org=None))) == 10


def test_an_image_that_is_being_read_is_waited_for(server, monkeypatch):
    """The process may end then, and native code must not be cut off."""
    begun, ended, read = threading.Event(), threading.Event(), []

    def read_image(data):
        if data == b"slow":
            begun.set()
            ended.wait(GUARD_S)
            time.sleep(0.1)
            read.append(data)
        return judged_image(IMAGE)

    def answer(request):
        begun.wait(GUARD_S)
        ended.set()
        return Reply(status=401)

    server.answer = answer
    monkeypatch.setattr(rating, "judged_image", read_image)
    pairs = [*pairs_of(1), Pair("s", 1, b"slow", "a", "b")]
    monkeypatch.setattr(RatingScorer, "_cost", lambda *_: "")
    with pytest.raises(ConfigError):
        scores_of(scorer_of(server, concurrency=2), pairs)
    assert read == [b"slow"]


def test_few_pairs_are_taken_ahead(server):
    taken, scorer = [], scorer_of(server, concurrency=2)
    pairs = (taken.append(pair.index) or pair for pair in pairs_of(100))
    scores = scorer.score(pairs)
    for number in range(40):
        next(scores)
        assert len(taken) <= max(32, number + 1 + 4)
    scores.close()
    scorer.close()


def test_the_cost_is_said_before_the_first_question(server):
    said = []
    scorer = scorer_of(server, price=2.5, announce=lambda text: said.append((text, len(server.requests))))
    scores_of(scorer, [Pair("s", i, IMAGE, "x" * 61, None) for i in range(2)], expected=10_000)
    ((text, num_requests),) = said
    assert num_requests == 0
    # 306 characters of prompt and 61 of caption are 92 tokens; the image is 255, the answer 5
    assert "Rating 10,000 images by judge: about 10,000 requests and 3,520,000 tokens, $8.80." in text
    assert "Estimated from the first 2 images" in text
    assert "$" not in scorer_of(server)._cost(pairs_of(1), 1)


def test_nothing_to_rate_asks_and_says_nothing(server):
    said = []
    assert scores_of(scorer_of(server, announce=said.append), []) == {}
    assert (said, server.requests) == ([], [])
