"""What a contest found: seconds of every pass, as a table for people and as JSON."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contest.contestants import Candidate
from contest.kinds import OURS
from recap_fast.bench.report import provenance


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
