"""A contest: the best settings of each engine are found, then the best take turns, and all outputs are checked."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contest.comparison import Comparison, Entry
from contest.contestants import Candidate, ContestantError, Process
from inputs.workload import agreement

EXACT = "float32"
Open = Callable[[Candidate], Process]
Ways = Mapping[str, Mapping[str, Any]]
"""How one engine runs, in turn: what its `run` takes besides lengths, by the name of the row."""


class MismatchError(Exception):
    """An output that is not what was asked for, so that its time says nothing."""


def check(name: str, captions: Sequence[Sequence[int]], lengths: Sequence[int], truth: Sequence[Sequence[int]]) -> None:
    """Raises MismatchError unless each caption has its length and is the one of `truth`."""
    if len(captions) != len(lengths):
        raise MismatchError(f"{name} returned {len(captions)} captions for {len(lengths)} images")
    for image, (caption, length, expected) in enumerate(zip(captions, lengths, truth, strict=True)):
        if len(caption) != length:
            raise MismatchError(f"{name}, image {image}: {len(caption)} tokens, {length} were asked for")
        if list(caption) != list(expected):
            step = next(i for i, (a, b) in enumerate(zip(caption, expected, strict=True)) if a != b)
            raise MismatchError(
                f"{name}, image {image}: token {step} is {caption[step]}, in the first captions it is {expected[step]}"
            )


def cut(caption: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """A caption up to its first stop id, that included."""
    end = next((i for i, token in enumerate(caption) if token in stop_ids), len(caption) - 1)
    return list(caption[: end + 1])


class Contest:
    """Comparisons on one workload and one list of lengths. What was tried once is not tried again."""

    def __init__(self, open_process: Open, lengths: Sequence[int], reference: Candidate, stop_ids: Sequence[int] = ()):
        """Lets `reference`, one of ours, make the captions that all others are measured by.

        `open_process` starts a contestant. Where there are `stop_ids`, captions are to end behind the first of them:
        `lengths` are then the most that each may have.
        """
        self._open, self._lengths = open_process, list(lengths)
        self._tried: dict[str, float] = {}
        self._reference = reference
        process = open_process(reference)
        try:
            self._truth = process.run(lengths).captions
            self._check(process, self._truth)
        finally:
            process.close()
        if stop_ids:
            self._truth = [cut(ids, stop_ids) for ids in self._truth]
            self._lengths = list(map(len, self._truth))

    def compare(
        self,
        title: str,
        candidates: dict[str, list[Candidate]],
        repeat: int,
        ways: Mapping[str, Ways] | None = None,
    ) -> Comparison:
        """Tries all candidates of each engine, then lets the fastest ones run in turn, `repeat` times.

        `ways` are those of an engine that has several. Raises MismatchError where a caption has a wrong length or, in
        float32, a wrong token; ContestantError where a contestant fails.
        """
        chosen = [self._choose(of_engine) for of_engine in candidates.values()]
        processes: list[Process] = []
        try:
            for candidate in chosen:
                processes.append(self._open_warm(candidate))  # noqa: PERF401 - those that did open have to be closed
            entries = self._take_turns(processes, repeat, ways or {})
        finally:
            for process in processes:
                process.close()
        labels = [str(candidate) for of_engine in candidates.values() for candidate in of_engine]
        tried = {label: self._tried[label] for label in labels if label in self._tried}
        num_distinct = len(set(map(tuple, self._truth)))
        return Comparison(title, self._lengths, entries, tried, self._reference.precision, num_distinct)

    def _take_turns(self, processes: Sequence[Process], repeat: int, ways: Mapping[str, Ways]) -> dict[str, Entry]:
        """Every process in each of its ways, one after another, and so `repeat` times; by the name of the row."""
        turns = [
            (row, process, how, Entry(process.candidate, process.versions))
            for process in processes
            for row, how in ways.get(process.candidate.name, {process.candidate.name: {}}).items()
        ]
        for _ in range(repeat):
            for _row, process, how, entry in turns:
                done = process.run(self._lengths, **how)
                entry.seconds.append(round(done.seconds, 4))
                found = self._check(process, done.captions)
                entry.agreement = entry.agreement or found
        return {row: entry for row, _, _, entry in turns}

    def _choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The fastest of those that work; one alone is not tried."""
        if len(candidates) == 1:
            return candidates[0]
        failure: ContestantError | None = None
        for candidate in candidates:
            if str(candidate) not in self._tried:
                try:
                    rate = self._try(candidate)
                except ContestantError as error:
                    failure = error
                    print(f"  tried {error}", file=sys.stderr, flush=True)
                    continue
                self._tried[str(candidate)] = round(rate, 3)
                print(f"  tried {candidate}: {rate:.1f} images/s", file=sys.stderr, flush=True)
        working = [candidate for candidate in candidates if str(candidate) in self._tried]
        if failure is not None and not working:
            raise failure
        return max(working, key=lambda candidate: self._tried[str(candidate)])

    def _try(self, candidate: Candidate) -> float:
        """Images/s of one pass."""
        process = self._open_warm(candidate)
        try:
            done = process.run(self._lengths)
            self._check(process, done.captions)
        finally:
            process.close()
        return len(self._lengths) / done.seconds

    def _open_warm(self, candidate: Candidate) -> Process:
        """After a pass that is not timed: compiling for numbers of rows and filling caches is no part of a long run."""
        process = self._open(candidate)
        try:
            process.run(self._lengths)
        except BaseException:
            process.close()
            raise
        return process

    def _check(self, process: Process, captions: list[list[int]]) -> dict[str, float] | None:
        """Raises MismatchError for a wrong length and, in float32, a wrong token; else says how far captions agree."""
        name = str(process.candidate)
        if process.candidate.precision == self._reference.precision == EXACT:
            check(name, captions, self._lengths, self._truth)
            return None
        if [len(ids) for ids in captions] != self._lengths:
            check(name, captions, self._lengths, captions)
            raise MismatchError(f"{name} returned captions of other lengths than were asked for")
        return agreement(captions, self._truth)
