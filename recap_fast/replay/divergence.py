"""Where two captions of one image part, token by token, and how near the choice between the two tokens was.

A row has the text of its caption and the number of its tokens. Its token ids are told from the ids of the new caption
as far as both are alike, and by the tokenizer from there on.
"""

import dataclasses
import math
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from recap_fast.generate.engine import GivesLogits, Sampling
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import Tokenizer
from recap_fast.records import Request

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the two tokens where the captions part."""

    token: int
    text: str
    """The token as text; bytes of an incomplete character are U+FFFD."""
    logit: float
    probability: float
    """Greedy: of the softmax of all logits. Sampled: of being drawn, after temperature, top-k and top-p."""
    drawn_by: tuple[float, float] | None
    """Sampled: the random numbers that draw it, from and to; None where none does."""


@dataclass(frozen=True, slots=True)
class Tie:
    """How near the choice was. The logits are of one pass over prompt, image and the tokens before."""

    row: Choice
    now: Choice
    margin: float
    """Logit of the token that is chosen now, minus the logit of the row's token."""
    precision: str
    """Precision of the engine's activations."""
    steps: float
    """The margin in steps of that precision, the distance of two neighbouring numbers of the logits' size."""
    draw: float | None
    """Sampled: the random number, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A caption and why it ended."""

    ids: Ids
    finish_reason: str

    def next_token(self, count: int, stop_id: int) -> int | None:
        """The token behind the first `count`; None where the caption was cut there, so that nobody knows."""
        if count < len(self.ids):
            return int(self.ids[count])
        return stop_id if self.finish_reason == "stop" else None


def tokens_of(caption: str, finish_reason: str, num_tokens: int, beside: Ids, tokenizer: Tokenizer) -> Ids:
    """The token ids that a row's caption most likely had.

    They begin like the ids `beside` as far as the text allows. A text has several spellings in tokens ("blue" and "s"
    for "blues"): of those that go on at any of its tokens as the tokenizer would, the one of `num_tokens` tokens is
    taken, else the one that is longest like `beside`.
    """
    texts = tokenizer.detokenize([beside[:count] for count in range(len(beside) + 1)])
    space = texts[-1][: len(texts[-1]) - len(texts[-1].lstrip())]  # a row's caption is stripped
    whole, expected = space + caption, num_tokens - (finish_reason == "stop")
    spellings = (
        np.concatenate([beside[:count], tokenizer.encode(whole[len(text) :], continues=True)]).astype(np.int32)
        for count, text in reversed([*enumerate(texts)])
        if whole.startswith(text)
    )
    likest = next(spellings)
    return next((ids for ids in chain([likest], spellings) if len(ids) == expected), likest)


def num_alike(first: Ids, second: Ids) -> int:
    """How many tokens two captions have in common before they part."""
    shorter = min(len(first), len(second))
    differing = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differing[0]) if len(differing) else shorter


def measure_tie(
    engine: GivesLogits, request: Request, row: Ended, now: Ended, spec: EngineSpec, tokenizer: Tokenizer, s: Sampling
) -> Tie | None:
    """How near the choice was where two captions part; None where one of them was cut there, or both go on alike."""
    count = num_alike(row.ids, now.ids)
    begun = np.concatenate([request.text_ids, now.ids[:count]]).astype(np.int32)
    logits = engine.logits(dataclasses.replace(request, text_ids=begun))
    stop_id = max(spec.stop_ids, key=lambda token: logits[token])
    tokens = row.next_token(count, stop_id), now.next_token(count, stop_id)
    if tokens[0] is None or tokens[1] is None or tokens[0] == tokens[1]:
        return None
    ours, theirs = (_choice(logits, token, s, tokenizer) for token in (tokens[1], tokens[0]))
    margin = ours.logit - theirs.logit
    draw = None if s.is_greedy else _draw(s, request.noise_key, count)
    step = _step(max(abs(ours.logit), abs(theirs.logit)), spec)
    return Tie(theirs, ours, margin, spec.compute_precision, margin / step, draw)


def _choice(logits: NDArray[np.float32], token: int, sampling: Sampling, tokenizer: Tokenizer) -> Choice:
    names = {number: name for name, number in tokenizer.special.items()}
    text = names.get(token) or tokenizer.detokenize([np.array([token], np.int32)])[0]
    if not sampling.is_greedy:
        from recap_fast.generate.torch_backend.sampling import interval  # torch, which the engine has loaded

        drawn_by = interval(logits, sampling, token)
        probability = 0.0 if drawn_by is None else drawn_by[1] - drawn_by[0]
        return Choice(token, text, float(logits[token]), probability, drawn_by)
    exact = logits.astype(np.float64) - logits.max()
    return Choice(token, text, float(logits[token]), float(np.exp(exact[token]) / np.exp(exact).sum()), None)


def _draw(sampling: Sampling, noise_key: int, count: int) -> float:
    from recap_fast.generate.torch_backend.sampling import uniforms

    return float(uniforms(sampling.seed, [noise_key], np.array([count]))[0])


def _step(size: float, spec: EngineSpec) -> float:
    """The distance of neighbouring numbers of this size in the precision of the engine's activations."""
    import torch

    info = torch.finfo(getattr(torch, spec.compute_precision))
    return float(info.eps) * 2.0 ** math.floor(math.log2(max(size, float(info.tiny))))
