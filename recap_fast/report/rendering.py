"""The page's template with values in it. Whatever comes from images or captions is text: it is escaped, always."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.text import counted, unicode

MAX_SHOWN = 1500
"""Characters of each text."""
MARK = '<meta name="generator" content="recap-fast report">'
"""Every page has it, within its first `MARK_BYTES`: so a file that is no page is told from one."""
MARK_BYTES = 1024
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def render(values: Mapping[str, Any], svgs: Mapping[tuple[str, str], str]) -> str:
    """The page as HTML; `svgs`, by their titles and texts, are elements of our own, which are not escaped."""
    import jinja2
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        finalize=lambda value: show(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "share": share,
        "per_mille": per_mille,
        "score": score,
        "counted": counted,
    }
    style = Markup((folder / "style.css").read_text(encoding="utf-8"))
    charts = [{"title": title, "text": text, "svg": Markup(svg)} for (title, text), svg in svgs.items()]
    html: str = environment.get_template("page.html.j2").render(**values, style=style, charts=charts, mark=Markup(MARK))
    return html


def show(text: str) -> str:
    """Text for people: cut where it is long, valid Unicode, control characters as their symbols (U+2400 and on)."""
    if text.startswith("data:image/jpeg;base64,"):
        return text
    text = unicode(text)
    if len(text) > MAX_SHOWN:
        text = f"{text[:MAX_SHOWN]} … ({len(text) - MAX_SHOWN:,} more characters)"
    return _CONTROL.sub(lambda match: "\u2421" if match[0] == "\x7f" else chr(0x2400 + ord(match[0])), text)


def number(value: float | None) -> str:
    """'1,000', '49.4', or 'none'."""
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def share(value: float | None) -> str:
    """'12.3 %'; two digits where it is small, and 'none' where there is nothing to count."""
    if value is None:
        return "none"
    percent = 100 * value
    return f"{percent:.1f} %" if percent >= 1 or percent == 0 else f"{percent:.2g} %"


def per_mille(value: float) -> str:
    """A share in thousandths."""
    return f"{1000 * value:.2g}" if value < 0.01 else f"{1000 * value:.0f}"


def score(value: float | int) -> str:  # noqa: PYI041 - the two are shown in two ways
    """'21.53', '-0.09', or a whole number as it is, such as a rating."""
    return f"{value:.2f}" if isinstance(value, float) else f"{value}"
