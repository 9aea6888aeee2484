"""Ratings by a judge: images with both captions in, numbers from 1 to 5 out.

Several images are rated at once; the two questions of one image follow each other. The cost is estimated first.
"""

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from recap_fast.decode.gate import RefusedImageError
from recap_fast.errors import InputError
from recap_fast.score.judge import FORMAT, PROMPT, Judge, JudgeError, UnreachableError
from recap_fast.score.judged_image import BASE_TOKENS, TILE_TOKENS, judged_image
from recap_fast.score.scorer import Pair, Score
from recap_fast.text import counted

NUM_LOOKED_AT = 32
"""Pairs that the cost is estimated from."""
CHARACTERS_PER_TOKEN = 4
OUTPUT_TOKENS = 5
"""Tokens of 'Rating: 4'."""
MAX_FAILURES = 8
"""After so many images in a row without any answer, the endpoint counts as dead."""
UNDECODED = "undecoded"
UNRATED, FAILED = ("re_unrated", "org_unrated"), ("re_failed", "org_failed")
"""Notes about our caption and the original one: answers without a rating, and no answer."""


@dataclass(frozen=True, slots=True)
class _Question:
    pair: Pair
    image: str
    """A data URI."""


@dataclass(frozen=True, slots=True)
class _Rated:
    score: Score
    num_answered: int = 0
    error: str | None = None
    """The last one, of questions without an answer."""


@dataclass
class RatingScorer:
    """A `Scorer` that asks a judge."""

    judge: Judge
    concurrency: int = 4
    """Images that are rated at the same time."""
    price: float | None = None
    """Dollars for a million tokens."""
    announce: Callable[[str], None] = lambda text: None
    """Gets a sentence about the cost before the first question."""
    kind = "rating"
    num_captions: int = 0
    """Captions that were to be rated."""
    num_without: int = 0
    """Captions among these that got no rating."""
    settings: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is asked yet."""
        self.settings = self.judge.settings

    @property
    def error_rate(self) -> float:
        """The share of captions without a rating."""
        return self.num_without / max(1, self.num_captions)

    def score(self, pairs: Iterable[Pair], expected: int = 0) -> Iterator[Score]:
        """See `Scorer`. Raises ConfigError for a wrong key, address or name, and InputError for a dead endpoint."""
        pairs = iter(pairs)
        first = list(itertools.islice(pairs, NUM_LOOKED_AT))
        if first:
            self.announce(self._cost(first, max(expected, len(first))))
        failures = 0
        for rated in _some_at_once(self._prepare, self._rate, itertools.chain(first, pairs), self.concurrency):
            failures = 0 if rated.error is None or rated.num_answered else failures + 1
            if failures == MAX_FAILURES:
                raise InputError(
                    f"The judge gave no answer for {failures} images in a row; the last error was: {rated.error}. "
                    "Run the same command again when it answers."
                )
            yield self._count(rated.score)

    def describe(self, counts: Mapping[str, int]) -> Iterator[str]:
        """See `Scorer`."""
        names = [name for name in self.judge.served_by if name != self.judge.name]
        if names:
            yield f"the endpoint calls its model {', '.join(names)}"
        if self.judge.num_tokens:
            yield f"this call used {counted(self.judge.num_tokens, 'token')}, as the endpoint counts them"
        if number := counts.get(UNDECODED):
            yield f"{counted(number, 'image')} without a rating: the image could not be decoded"
        for notes, why in ((UNRATED, "gave no number from 1 to 5, asked twice"), (FAILED, "did not answer")):
            if number := sum(counts.get(note, 0) for note in notes):
                yield f"{counted(number, 'caption')} without a rating: the judge {why}"

    def close(self) -> None:
        """See `Scorer`."""
        self.judge.close()

    def _prepare(self, pair: Pair) -> _Question | _Rated:
        try:
            return _Question(pair, judged_image(pair.image).uri)
        except RefusedImageError:
            return _Rated(Score(pair.shard, pair.index, None, None, (UNDECODED,)))

    def _rate(self, question: _Question) -> _Rated:
        pair = question.pair
        ratings: dict[str, int | None] = {"re": None, "org": None}
        notes: list[str] = []
        answered = 0
        last: JudgeError | None = None
        for side, caption in (("re", pair.re_caption), ("org", pair.org_caption)):
            if caption is None:
                continue
            if isinstance(last, UnreachableError):  # it has been waited for long enough
                notes.append(f"{side}_failed")
                continue
            try:
                ratings[side] = self.judge.rate(question.image, caption)
            except JudgeError as error:
                notes.append(f"{side}_failed")
                last = error
            else:
                answered += 1
                notes += [f"{side}_unrated"] if ratings[side] is None else []
        score = Score(pair.shard, pair.index, ratings["re"], ratings["org"], tuple(notes))
        return _Rated(score, answered, str(last) if last else None)

    def _count(self, score: Score) -> Score:
        failed = sum(note != UNDECODED for note in score.notes)
        self.num_captions += failed + sum(rating is not None for rating in (score.re, score.org))
        self.num_without += failed
        return score

    def _cost(self, first: list[Pair], expected: int) -> str:
        """A sentence about requests, tokens and dollars, estimated from the first pairs."""
        requests, tokens = 0, 0
        for pair in first:
            captions = [text for text in (pair.re_caption, pair.org_caption) if text is not None]
            requests += len(captions)
            questions = [PROMPT.format(caption=text, format=FORMAT) for text in captions]
            try:
                each = judged_image(pair.image).tokens + OUTPUT_TOKENS
            except RefusedImageError:
                continue
            tokens += sum(each + math.ceil(len(question) / CHARACTERS_PER_TOKEN) for question in questions)
        share = expected / len(first)
        total = tokens * share
        dollars = "" if self.price is None else f", ${total / 1e6 * self.price:,.2f}"
        return (
            f"Rating {counted(expected, 'image')} by {self.judge.name}: about {requests * share:,.0f} requests and "
            f"{total:,.0f} tokens{dollars}. Estimated from the first {counted(len(first), 'image')}: a token "
            f"for {CHARACTERS_PER_TOKEN} characters of text, and {BASE_TOKENS} tokens for an image with {TILE_TOKENS} "
            "more for each 512 x 512 pixels, as GPT-4o counts. Other judges count differently."
        )


def _some_at_once(
    prepare: Callable[[Pair], _Question | _Rated],
    rate: Callable[[_Question], _Rated],
    pairs: Iterator[Pair],
    number: int,
) -> Iterator[_Rated]:
    """The result for each pair, as it comes; `number` are rated at a time, and as many wait.

    What a function raises is raised.

    Its threads keep no process from ending: `rate` may hang. `prepare` does not, and its native code must not be cut
    off by the end of the process, so it is waited for.
    """
    todo: SimpleQueue[Pair | None] = SimpleQueue()
    done: SimpleQueue[_Rated | BaseException] = SimpleQueue()
    is_over, idle = threading.Event(), threading.Semaphore(number)

    def one(pair: Pair) -> _Rated | None:
        with idle:
            if is_over.is_set():
                return None
            prepared = prepare(pair)
        return rate(prepared) if isinstance(prepared, _Question) else prepared

    def work() -> None:
        while (pair := todo.get()) is not None:
            try:
                rated = one(pair)
            except BaseException as error:  # noqa: BLE001 - it is raised where the ratings are taken
                done.put(error)
            else:
                if rated is None:
                    return
                done.put(rated)

    for _ in range(number):
        threading.Thread(target=work, name="recap-judge", daemon=True).start()
    num_waiting = 0
    try:
        while True:
            for pair in itertools.islice(pairs, 2 * number - num_waiting):
                todo.put(pair)
                num_waiting += 1
            if not num_waiting:
                return
            rated = done.get()
            num_waiting -= 1
            if isinstance(rated, BaseException):
                raise rated
            yield rated
    finally:
        is_over.set()
        for _ in range(number):
            todo.put(None)
        for _ in range(number):
            idle.acquire()
        idle.release(number)
