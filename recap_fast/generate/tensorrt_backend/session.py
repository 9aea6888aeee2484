"""What goes to TensorRT-LLM and comes back: prompts, answers, and the completions that answers become."""

from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recap_fast.errors import EngineError
from recap_fast.generate.loop_detector import MIN_TOKENS, LoopDetector
from recap_fast.records import Completion, FinishReason


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request as TensorRT-LLM takes it."""

    id: int
    token_ids: list[int]
    """Prefix, the image's ids from `fake_id_base` on, text."""
    table: Tensor
    """The image's tokens, contiguous [N, D] in the model's type: row r is id fake_id_base + r."""
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a prompt."""

    id: int
    token_ids: list[int]
    """Generated ones; a stop id may be among them or not."""
    has_stopped: bool = False
    """Whether a stop id ended it, not its length."""
    error: str | None = None
    """Why there is none."""


Answers = SimpleQueue[Answer | EngineError]
"""Filled by a session's own thread; an EngineError is its last word."""


def request_seed(seed: int, noise_key: int) -> int:
    """The seed of one request, in 63 bits: another one for each image, the same in every run."""
    return (seed * 0x9E37_79B9_7F4A_7C15 + noise_key) % 2**63


def complete(answers: Sequence[Answer], stop_ids: Sequence[int], *, loop_stop: bool) -> list[Completion]:
    """Answers as completions: cut before the stop id, and before the repetition where one has fallen into a loop.

    TensorRT-LLM hands over whole captions, so a loop is cut off when it has been paid for; `num_tokens` counts it.
    """
    cut = [_until_stop(answer, stop_ids) for answer in answers]
    loops = find_loops([ids for ids, _ in cut]) if loop_stop else [None] * len(cut)
    done = []
    for answer, (ids, has_stopped), keep in zip(answers, cut, loops, strict=True):
        if answer.error is not None:
            done.append(Completion(answer.id, ids, "error", 0, answer.error))
            continue
        reason: FinishReason = "loop" if keep is not None else "stop" if has_stopped else "length"
        done.append(Completion(answer.id, ids[:keep], reason, len(ids) + has_stopped))
    return done


def find_loops(rows: Sequence[NDArray[np.int32]]) -> list[int | None]:
    """For each caption the number of tokens that come before its repetition, as the torch engine would have stopped it;
    None where it has no loop."""
    kept: list[int | None] = [None] * len(rows)
    long = [i for i, row in enumerate(rows) if len(row) > MIN_TOKENS]
    detector, place = LoopDetector(len(rows)), 0
    while long:
        repeated = detector.update(np.array(long), np.array([rows[i][place] for i in long], np.int32))
        place += 1
        for i, count in zip(long, repeated.tolist(), strict=True):
            if count:
                kept[i] = place - count
        long = [i for i in long if kept[i] is None and len(rows[i]) > place]
    return kept


def _until_stop(answer: Answer, stop_ids: Sequence[int]) -> tuple[NDArray[np.int32], bool]:
    """The ids before the first stop id, and whether one ended the caption."""
    ids = np.array(answer.token_ids, np.int32)
    stops = np.flatnonzero(np.isin(ids, stop_ids))
    return (ids[: stops[0]], True) if len(stops) else (ids, answer.has_stopped)
