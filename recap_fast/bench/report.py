"""The result of a benchmark: seconds and counts in, rates, a table and JSON with machine, commit and versions out."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recap_fast.addresses import scrub
from recap_fast.machine import describe_machine, describe_versions, find_commit

if TYPE_CHECKING:
    from recap_fast.bench.roofline import Figures, Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One stage, or all end to end: what was done in each of the repeats and how long each took.

    Rates are those of the median repeat.
    """

    stage: str
    images: int
    seconds: tuple[float, ...]
    peak_memory: dict[str, int]
    """Bytes: 'rss' of the process, inputs held in memory included; 'cuda' where there is a GPU."""
    captions: int = 0
    """Captions of these images; 0 for a stage that has none."""
    tokens: int = 0
    """Their tokens."""
    figures: "Figures | None" = None
    """The engine's figures in the median repeat; None if it took no part."""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def images_per_s(self) -> float:
        return self.images / statistics.median(self.seconds)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / statistics.median(self.seconds)

    @property
    def tokens_per_caption(self) -> float:
        return self.tokens / self.captions

    @property
    def captions_per_image(self) -> float:
        return self.captions / self.images

    def as_json(self) -> dict[str, Any]:
        names = ["images_per_s"]
        if self.captions:
            names += ["tokens_per_s", "tokens_per_caption", "captions_per_image"]
        return {**dataclasses.asdict(self), **{name: round(getattr(self, name), 3) for name in names}}


@dataclass(frozen=True, slots=True)
class Report:
    """What a bench found."""

    engine: str
    decoder: str
    config: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    rates: "Rates | None" = None
    """What the engine is measured against; None where it was not measured."""

    @property
    def limit(self) -> str:
        """The stage that keeps the rate from being higher, in words."""
        last = self.measurements[-1]
        if stage := last.details.get("limiting_stage"):
            return f"{stage}, busy {min(1.0, last.details['busy'][stage]):.0%} of the time end to end"
        return f"{min(self.measurements, key=lambda m: m.images_per_s).stage}, measured alone"

    def table(self) -> str:
        found, rows = describe_machine(), self.measurements
        lines = [
            f"machine   {found['cpu']}, {found['cores']} cores, {', '.join(found['gpus']) or 'no GPU'}",
            f"commit    {find_commit() or 'unknown'}",
            f"engine    {self.engine}",
            f"decoder   {self.decoder}",
            f"images    {rows[0].images}{self._captions()}; median of {len(rows[0].seconds)} after a warm-up",
            "",
            f"{'stage':<20}{'images/s':>10}{'tokens/s':>11}{'tokens/caption':>16}  peak memory",
        ]
        for m in rows:
            tokens = f"{m.tokens_per_s:>11,.0f}{m.tokens_per_caption:>16.1f}" if m.captions else " " * 27
            memory = " + ".join(f"{size / 1e9:.2f} GB {where}" for where, size in m.peak_memory.items())
            lines.append(f"{m.stage:<20}{m.images_per_s:>10,.1f}{tokens}  {memory}")
        return "\n".join([*lines, "", *self._engine_lines(), f"slowest   {self.limit}"])

    def _captions(self) -> str:
        """How many captions an image has, where it has several."""
        most = max((m.captions_per_image for m in self.measurements if m.captions), default=1.0)
        return f", {most:g} captions each" if most > 1 else ""

    def _engine_lines(self) -> list[str]:
        """How the engine did in the stages that it took part in, and what the machine could do."""
        if self.rates is None:
            return []
        lines = [f"{'engine':<20}{'roofline':>9}{'decode GB/s':>12}{'idle: input':>12}{'host':>8}  start-up, s"]
        for stage, f in ((m.stage, m.figures) for m in self.measurements if m.figures is not None):
            decode = "-" if f.decode_bytes_per_s is None else f"{f.decode_bytes_per_s / 1e9:,.1f}"
            idle = f"{f.idle_s['input']:>10.2f} s{f.idle_s['host']:>6.2f} s"
            startup = ", ".join(f"{part} {seconds:.1f}" for part, seconds in f.startup_s.items())
            lines.append(f"{stage:<20}{f.share:>9.1%}{decode:>12}{idle}  {startup}")
        return [*lines, "", f"rates     {self.rates}"]

    def as_json(self, command: Sequence[str]) -> str:
        """For machines, without secrets in URLs; `command` is what made it."""
        content = {
            **provenance(command),
            "engine": self.engine,
            "decoder": self.decoder,
            "config": self.config,
            "limit": self.limit,
            "rates": None if self.rates is None else dataclasses.asdict(self.rates),
            "measurements": [m.as_json() for m in self.measurements],
        }
        return scrub(json.dumps(content, indent=2, default=str)) + "\n"


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """What every published figure carries: the command, the machine, the commit, the versions."""
    return {
        "command": list(command),
        "machine": describe_machine(),
        "commit": find_commit(),
        "versions": describe_versions(),
    }
