"""Histograms as SVG in one style, which reads on light and on dark: text in the page's color, bars in two middle tones.

Numbers go in and text comes out, the same each time. No text from a caption gets here: those stand in the page itself.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

NEW, ORIGINAL, OTHER = "#4f7cff", "#98a0ad", "#e08a3c"
"""Colors of our captions, of the original ones, and of another output's captions."""
TEXT, GRID = "#808184", "#80818444"
"""The first stands for the page's color of text."""
MAX_BARS = 40
SHARE_SHOWN = 0.995
"""Share of the values that have bars of their own; the largest others are added to the last bar."""
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": TEXT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": TEXT,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.figsize": (5.2, 2.9),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": TEXT,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "xtick.color": TEXT,
    "xtick.labelsize": 8.5,
    "ytick.color": TEXT,
    "ytick.labelsize": 8.5,
    "ytick.left": False,
}


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one kind: how many there are of each."""

    label: str
    counts: Mapping[Any, int]
    color: str


@dataclass(frozen=True, slots=True)
class Bins:
    """Bars of equal width from `start`, and for each series the share of its values in each bar."""

    start: float
    width: float
    shares: tuple[tuple[float, ...], ...]


def bins(series: Sequence[Mapping[Any, int]], step: float = 1) -> Bins:
    """Up to `MAX_BARS` bars of a width of whole steps. The last one has all larger values, too."""
    values = sorted({value for counts in series for value in counts})
    start = math.floor(values[0] / step) * step
    last = max(_quantile(counts, SHARE_SHOWN) for counts in series if counts)
    steps = round((last - start) / step) + 1
    width = math.ceil(steps / MAX_BARS) * step
    num = max(1, math.ceil(steps * step / width - 1e-9))
    shares = []
    for counts in series:
        bars, total = [0.0] * num, sum(counts.values())
        for value, count in counts.items():
            bars[min(num - 1, math.floor((value - start) / width + 1e-9))] += count / total
        shares.append(tuple(bars))
    return Bins(start, width, tuple(shares))


def _quantile(counts: Mapping[Any, int], share: float) -> Any:
    """The smallest value that so large a share of the values does not exceed."""
    left = math.ceil(sum(counts.values()) * share)
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            break
    return value


def histogram(name: str, title: str, description: str, x_label: str, series: Sequence[Series], step: float = 1) -> str:
    """An SVG element of shares over values; `name` makes its ids, which are unique in a page. '' without values."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    series = [each for each in series if each.counts]
    if not series:
        return ""
    found = bins([each.counts for each in series], step)
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        edges = [found.start + found.width * n for n in range(len(found.shares[0]) + 1)]
        for each, shares in zip(series, found.shares, strict=True):
            axes.stairs(shares, edges, fill=True, color=each.color, alpha=0.55, label=each.label)
            axes.stairs(shares, edges, color=each.color, linewidth=1.2)
        axes.set_xlabel(x_label)
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
        axes.set_xlim(edges[0], edges[-1])
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series), borderaxespad=0.2, borderpad=0)
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    return _embedded(out.getvalue(), name, title, description)


def _embedded(svg: str, name: str, title: str, description: str) -> str:
    """The element alone, as wide as its place, with a title and a description for those who cannot see it."""
    found = re.search(r"<svg.*</svg>", svg, re.S)
    assert found is not None, "matplotlib writes an svg element"
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", found[0], flags=re.S).replace("xlink:href", "href")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text)
    text = text.replace(GRID, TEXT).replace(TEXT, "currentColor")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None, "matplotlib gives the size"
    head = f'<svg {box[0]} role="img" aria-labelledby="{name}-title {name}-description">'
    about = (
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
    )
    return head + about + text.partition(">")[2]
