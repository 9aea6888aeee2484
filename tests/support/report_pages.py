"""The page of a report, taken apart."""

from html.parser import HTMLParser
from typing import Any

from recap_fast.joined import JoinedOutput
from recap_fast.report.report import Report, make_report
from recap_fast.write.output_folder import OutputFolder

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The text of a page and its elements; fails where they are not nested."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)


def page_of(output: OutputFolder, baseline: OutputFolder | None = None, **options: Any) -> tuple[Page, Report]:
    """The page of a report, and the report."""
    made = make_report(JoinedOutput.open(output), None if baseline is None else JoinedOutput.open(baseline), **options)
    return Page(made.html), made
