"""What a part of the suite is told, what it finds, and how it takes time. Imports no torch before it is needed."""

import functools
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inputs.card import describe_card
from inputs.shapes import SHAPES, Shape
from suite.arithmetic import Card, find_card

ROOT = Path(__file__).parents[2]
RESUME = 75
"""Exit code of a part that goes on where it was when it is started again: its process was of no more use."""


SIZES = {"llava": ("8b", "tiny"), "joycaption": ("joycaption", "siglip-tiny")}
"""The models, as sizes of `SHAPES`: the real one, and the tiny one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a part is to run."""

    device: str
    """cuda or cpu."""
    size: str
    """'real' is that of a published model; 'tiny' shows in seconds, on any machine, that a part runs."""
    work: Path
    """A folder that the parts share: engines, tars, and what earlier parts found."""
    model: str = "llava"
    """A name in `SIZES`. Parts about another model than LLaVA-LLaMA3-8B set it themselves."""
    num_slots: int | None = None
    prefill_images: int | None = None
    """Instead of the recipe's."""
    native: tuple[str, ...] = ()
    """Folders with native modules that were built elsewhere, tried in turn before they are built here."""
    expected: str | None = None
    """A file of tokens that are right, as `probe` leaves it on a CPU."""
    begun: float = 0.0
    """time.time() of the part's start, and how many seconds it has."""
    limit_s: float = math.inf

    @property
    def is_real(self) -> bool:
        """Whether figures mean something."""
        return self.size == "real"

    @property
    def shape(self) -> Shape:
        """That of the engine."""
        real, tiny = SIZES[self.model]
        return SHAPES[real if self.is_real else tiny]

    @property
    def seconds_left(self) -> float:
        """Until the part is stopped."""
        return self.begun + self.limit_s - time.time()

    @property
    def card(self) -> Card | None:
        """The rates of this machine's card; None where they are not known, or the model is not the real one."""
        return _this_card() if self.is_real and self.device != "cpu" else None

    def find(self, part: str) -> "Findings":
        """What a part is to fill."""
        return Findings(self.work / f"{part}.json")

    def found_by(self, part: str) -> dict[str, Any]:
        """The details of a part that has run already; empty if it has not."""
        file = self.work / f"{part}.json"
        return json.loads(file.read_text(encoding="utf-8"))["details"] if file.is_file() else {}


@functools.cache
def _this_card() -> Card | None:
    return find_card(describe_card())


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the last table."""

    what: str
    figure: str
    bar: str = ""
    """What it has to reach, if anything."""
    met: bool | None = None
    expected: float | None = None
    """What arithmetic.py expects, in the figure's unit."""
    ratio: float | None = None
    """Measured over expected."""


@dataclass(slots=True)
class Findings:
    """What a part has found; each new line is on disk at once, should the next measurement be the last."""

    file: Path
    lines: list[Line] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        what: str,
        figure: str,
        bar: str = "",
        met: bool | None = None,
        *,
        measured: float | None = None,
        expected: float | None = None,
    ) -> None:
        """Adds a row to the table, with the ratio of measured to expected where both are given."""
        ratio = measured / expected if measured is not None and expected else None
        self.lines.append(Line(what, figure, bar, met, expected, ratio))
        self.save()

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Lets a part go on after an error in here; the table has its kind, the JSON all of it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest is worth measuring
            self.details.setdefault("errors", {})[what] = traceback.format_exc()
            self.add(what, type(error).__name__, "no error", False)

    def figure(self, what: str, value: float, bar: float | None, unit: str, expected: float | None = None) -> None:
        """Adds a figure, with the bar that it has to reach and the figure that was expected, where there are such."""
        met = None if bar is None else value >= bar
        text = "" if bar is None else f">= {bar:,.0f}"
        self.add(what, f"{value:,.1f} {unit}", text, met, measured=value, expected=expected)

    def load(self) -> None:
        """Takes what an earlier process of the part has saved, if there was one."""
        if self.file.is_file():
            content = json.loads(self.file.read_text(encoding="utf-8"))
            self.lines, self.details = [Line(**line) for line in content["lines"]], content["details"]

    def save(self) -> None:
        """Writes it all as JSON."""
        content = {"lines": [asdict(line) for line in self.lines], "details": self.details}
        self.file.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def largest(errors: Sequence[float]) -> float:
    """Of no errors 0; and NaN if one is, which max() may overlook."""
    return math.nan if any(map(math.isnan, errors)) else max(errors, default=0.0)


def seconds_of(run: Callable[[], Any], device: str, *, calls: int = 10, repeat: int = 3) -> float:
    """Seconds of one call: the best of `repeat` times `calls` in a row, after one that is not counted."""
    import torch

    run()
    found = []
    for _ in range(repeat):
        _wait(torch, device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        _wait(torch, device)
        found.append((time.perf_counter() - start) / calls)
    return min(found)


def _wait(torch: Any, device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
