"""The contest itself: the best settings of each engine are found, then the best take turns; and its table and JSON."""

import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from contestants import OURS, Candidate, Process
from workload import MismatchError, agreement, check

WARM_UP_TOKENS = 4
EXACT = "float32"
Open = Callable[[Candidate], Process]


@dataclass
class Entry:
    """One engine in a comparison."""

    candidate: Candidate
    versions: dict[str, str]
    seconds: list[float] = field(default_factory=list)
    agreement: dict[str, float] | None = None
    """With the float32 captions, of the first pass; None where all have to be equal."""

    @property
    def verdict(self) -> str:
        """How its captions compare with those of float32."""
        if self.agreement is None:
            return "all equal"
        return f"{self.agreement['equal_captions']:.0%} equal, first {self.agreement['mean_equal_tokens']:.1f} tokens"


@dataclass(frozen=True)
class Comparison:
    """Seconds of every pass of the best of each engine, for one kind of lengths."""

    title: str
    lengths: list[int]
    entries: dict[str, Entry]
    """By engine; recap-fast is one of them."""
    tried: dict[str, float]
    """Images/s of the one pass in which each precision and setting was tried."""
    num_distinct: int
    """Different captions in float32."""

    def rate(self, name: str) -> float:
        """Images/s of the median pass."""
        return len(self.lengths) / statistics.median(self.entries[name].seconds)

    def ratio(self, name: str) -> float:
        """recap-fast's rate over that peer's."""
        return self.rate(OURS) / self.rate(name)

    def table(self) -> str:
        """For people."""
        mean = statistics.mean(self.lengths)
        lines = [
            f"{self.title}: {len(self.lengths)} images, {min(self.lengths)}-{max(self.lengths)} tokens, "
            f"mean {mean:.1f}; {self.num_distinct} different captions",
            f"{'':<22}{'images/s':>9}{'tokens/s':>9}{'ours is':>9}  {'captions as in float32':<30}seconds",
        ]
        for name, entry in self.entries.items():
            rate, ratio = self.rate(name), "" if name == OURS else f"{self.ratio(name):.2f}x"
            seconds = " ".join(f"{s:.2f}" for s in entry.seconds)
            lines.append(
                f"{name + ' ' + entry.candidate.precision:<22}{rate:>9.1f}{rate * mean:>9.0f}{ratio:>9}"
                f"  {entry.verdict:<30}{seconds}"
            )
        lines += [f"chosen: {entry.candidate}" for entry in self.entries.values() if entry.candidate.settings]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        entries = {
            name: {
                **dataclasses.asdict(entry),
                "images_per_s": round(self.rate(name), 3),
                **({} if name == OURS else {"ratio": round(self.ratio(name), 3)}),
            }
            for name, entry in self.entries.items()
        }
        return {
            "title": self.title,
            "lengths": self.lengths,
            "different_captions": self.num_distinct,
            "engines": entries,
            "tried_images_per_s": self.tried,
        }


class Contest:
    """Comparisons on one workload and one list of lengths. What was tried once is not tried again."""

    def __init__(self, open_process: Open, lengths: Sequence[int]):
        """Lets recap-fast make the captions that all others are measured by. `open_process` starts a contestant."""
        self._open, self._lengths = open_process, list(lengths)
        self._tried: dict[str, float] = {}
        process = open_process(Candidate(OURS, EXACT))
        try:
            self._truth = process.run(lengths).captions
            self._check(process, self._truth)
        finally:
            process.close()

    def compare(self, title: str, candidates: dict[str, list[Candidate]], repeat: int) -> Comparison:
        """Tries all candidates of each engine, then lets the fastest ones run in turn, `repeat` times.

        Raises MismatchError where a caption has a wrong length or, in float32, a wrong token; ContestantError where a
        contestant fails.
        """
        chosen = [self._choose(of_engine) for of_engine in candidates.values()]
        processes: list[Process] = []
        try:
            for candidate in chosen:
                processes.append(self._open_warm(candidate))  # noqa: PERF401 - those that did open have to be closed
            entries = {p.candidate.name: Entry(p.candidate, p.versions) for p in processes}
            for _ in range(repeat):
                for process in processes:
                    done = process.run(self._lengths)
                    entry = entries[process.candidate.name]
                    entry.seconds.append(round(done.seconds, 4))
                    found = self._check(process, done.captions)
                    entry.agreement = entry.agreement or found
        finally:
            for process in processes:
                process.close()
        labels = [str(candidate) for of_engine in candidates.values() for candidate in of_engine]
        tried = {label: self._tried[label] for label in labels if label in self._tried}
        return Comparison(title, self._lengths, entries, tried, len(set(map(tuple, self._truth))))

    def _choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The fastest; one alone is not tried."""
        if len(candidates) == 1:
            return candidates[0]
        for candidate in candidates:
            if str(candidate) not in self._tried:
                process = self._open_warm(candidate)
                try:
                    done = process.run(self._lengths)
                    self._check(process, done.captions)
                finally:
                    process.close()
                rate = len(self._lengths) / done.seconds
                self._tried[str(candidate)] = round(rate, 3)
                print(f"  tried {candidate}: {rate:.1f} images/s", file=sys.stderr, flush=True)
        return max(candidates, key=lambda candidate: self._tried[str(candidate)])

    def _open_warm(self, candidate: Candidate) -> Process:
        process = self._open(candidate)
        try:
            process.run([min(WARM_UP_TOKENS, length) for length in self._lengths])
        except BaseException:
            process.close()
            raise
        return process

    def _check(self, process: Process, captions: list[list[int]]) -> dict[str, float] | None:
        """Raises MismatchError for a wrong length and, in float32, a wrong token; else says how far captions agree."""
        name = str(process.candidate)
        if process.candidate.precision == EXACT:
            check(name, captions, self._lengths, self._truth)
            return None
        if [len(ids) for ids in captions] != self._lengths:
            check(name, captions, self._lengths, captions)
            raise MismatchError(f"{name} returned captions of other lengths than were asked for")
        return agreement(captions, self._truth)
