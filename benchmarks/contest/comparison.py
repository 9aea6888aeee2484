"""The contest itself: the best settings of each engine are found, then the best take turns; and its table and JSON."""

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inputs.workload import MismatchError, agreement, check

from contest.contestants import OURS, Candidate, ContestantError, Process
from recap_fast.bench.report import provenance

EXACT = "float32"
Open = Callable[[Candidate], Process]
Ways = Mapping[str, Mapping[str, Any]]
"""How one engine runs, in turn: what its `run` takes besides lengths, by the name of the row."""


@dataclass
class Entry:
    """A row: one engine in a comparison."""

    candidate: Candidate
    versions: dict[str, str]
    seconds: list[float] = field(default_factory=list)
    agreement: dict[str, float] | None = None
    """With the captions of reference, of the first pass; None where all have to be equal."""

    @property
    def verdict(self) -> str:
        """How its captions compare with those of reference."""
        if self.agreement is None:
            return "all equal"
        return f"{self.agreement['equal_captions']:.0%} equal, first {self.agreement['mean_equal_tokens']:.1f} tokens"


@dataclass(frozen=True)
class Comparison:
    """Seconds of every pass of the best of each engine, for one kind of lengths."""

    title: str
    lengths: list[int]
    entries: dict[str, Entry]
    """By name of the row; recap-fast is one of them."""
    tried: dict[str, float]
    """Images/s of the one pass in which each precision and setting was tried."""
    reference: str
    """The precision in which recap-fast made the captions that all others are measured by."""
    num_distinct: int
    """Different captions among these."""

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
            f"{'':<25}{'images/s':>9}{'tokens/s':>9}{'ours is':>9}  {f'captions as in {self.reference}':<32}seconds",
        ]
        for name, entry in self.entries.items():
            rate, ratio = self.rate(name), "" if name == OURS else f"{self.ratio(name):.2f}x"
            seconds = " ".join(f"{s:.2f}" for s in entry.seconds)
            lines.append(
                f"{name + ' ' + entry.candidate.precision:<25}{rate:>9.1f}{rate * mean:>9.0f}{ratio:>9}"
                f"  {entry.verdict:<32}{seconds}"
            )
        chosen = dict.fromkeys(str(entry.candidate) for entry in self.entries.values() if entry.candidate.settings)
        lines += [f"chosen: {candidate}" for candidate in chosen]
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
            "reference": self.reference,
            "different_captions": self.num_distinct,
            "engines": entries,
            "tried_images_per_s": self.tried,
        }


class Contest:
    """Comparisons on one workload and one list of lengths. What was tried once is not tried again."""

    def __init__(self, open_process: Open, lengths: Sequence[int], reference: Candidate | None = None):
        """Lets recap-fast make the captions that all others are measured by, in float32 unless `reference` says how.

        `open_process` starts a contestant.
        """
        self._open, self._lengths = open_process, list(lengths)
        self._tried: dict[str, float] = {}
        self._reference = reference or Candidate(OURS, EXACT)
        process = open_process(self._reference)
        try:
            self._truth = process.run(lengths).captions
            self._check(process, self._truth)
        finally:
            process.close()

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
            turns = [
                (process, how, Entry(process.candidate, process.versions), row)
                for process in processes
                for row, how in (ways or {}).get(process.candidate.name, {process.candidate.name: {}}).items()
            ]
            for _ in range(repeat):
                for process, how, entry, _row in turns:
                    done = process.run(self._lengths, **how)
                    entry.seconds.append(round(done.seconds, 4))
                    found = self._check(process, done.captions)
                    entry.agreement = entry.agreement or found
        finally:
            for process in processes:
                process.close()
        labels = [str(candidate) for of_engine in candidates.values() for candidate in of_engine]
        tried = {label: self._tried[label] for label in labels if label in self._tried}
        entries = {row: entry for _, _, entry, row in turns}
        num_distinct = len(set(map(tuple, self._truth)))
        return Comparison(title, self._lengths, entries, tried, self._reference.precision, num_distinct)

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


def write_results(
    output: Path, title: str, found: Sequence[Comparison], threads: int, command: Sequence[str], **more: Any
) -> None:
    """Writes what was printed as markdown, and all of it, and `more`, as JSON."""
    comparisons = [comparison.as_json() for comparison in found]
    content: dict[str, Any] = {**provenance(command), "threads": threads, **more, "comparisons": comparisons}
    output.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    machine, versions = content["machine"], dict(content["versions"])
    for comparison in found:
        for entry in comparison.entries.values():
            if (name := entry.candidate.name) != OURS:
                versions |= {f"{name}'s {library}": version for library, version in entry.versions.items()}
    where = f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['gpus']) or 'no GPU'}; {threads} threads"
    tables = "\n\n".join(comparison.table() for comparison in found)
    output.with_suffix(".md").write_text(
        f"# {title}\n\n- command: `python {' '.join(command)}`\n- machine: {where}\n"
        f"- commit: {content['commit']}\n- versions: {', '.join(f'{k} {v}' for k, v in versions.items())}\n\n"
        f"```\n{tables}\n```\n",
        encoding="utf-8",
    )
