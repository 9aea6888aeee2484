"""The Sphinx directive `command-line NAME`: the help of a command as Markdown, its options in their groups."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from recap_fast.cli.main import cli


class Markdown(click.HelpFormatter):
    """Takes what a command writes as its help, and makes Markdown of it."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.write(f"```text\n{prog} {args}\n```\n\n")

    def write_text(self, text: str) -> None:
        paragraphs = re.sub(r"(?m)^\s*\x08\n(.+(?:\n.+)*)", r"```text\n\1\n```", text)
        self.write(paragraphs + "\n\n")

    def write_heading(self, heading: str) -> None:
        self.write(f"**{heading}**\n\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 0, col_spacing: int = 0) -> None:
        lines = (f"| `{_cell(option)}` | {_cell(text)} |" for option, text in rows)
        self.write("\n".join(["| | |", "|---|---|", *lines]) + "\n\n")

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self.write_heading(name)
        yield

    @contextmanager
    def indentation(self) -> Iterator[None]:
        yield


class CommandLine(SphinxDirective):
    """Stands for the help of one command."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes in place of the directive."""
        return self.parse_text_to_nodes(describe(self.arguments[0]))


def describe(name: str) -> str:
    """The help of a command as Markdown. Raises KeyError for an unknown one."""
    command = cli.commands[name]
    parent = click.Context(cli, info_name="recap-fast", **cli.context_settings)
    context = click.Context(command, parent=parent, info_name=name)
    formatter = Markdown()
    command.format_help(context, formatter)
    return formatter.getvalue()


def _cell(text: str) -> str:
    return re.sub(r"([|<{*_])", r"\\\1", " ".join(text.split())) if "`" not in text else text.replace("|", "\\|")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
