"""A command whose options stand in groups, and whose usage errors say how inputs are given."""

import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Option(click.Option):
    """An option of a group."""

    group = "Other"
    """The heading above it in the help."""


option = functools.partial(click.option, cls=Option)


def group(title: str, *options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Adds options to a command; its help shows them in this order under a heading."""

    def add(command: F) -> F:
        function: Any = command
        for each in reversed(options):
            function = each(function)
            function.__click_params__[-1].group = title
        return command

    return add


class Command(click.Command):
    """Shows its options in their groups, and says more where words are too many or too few."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One section for each group, in the order in which the options were added."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "group", Option.group), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it. Words that no option takes are explained: most are paths that the shell made of a glob."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except (click.NoSuchOption, click.BadOptionUsage):
            raise
        except click.UsageError as error:
            is_missing = isinstance(error, click.MissingParameter)
            if not is_missing and isinstance(error, click.BadParameter):
                raise
            extra = self.make_parser(ctx).parse_args(given)[1]
            if not extra or not any("--shards" in param.opts for param in self.params):
                raise
            text = error.format_message() if is_missing else f"Unexpected: {_listed(extra)}."
            raise click.UsageError(f"{text} {_advice(extra)}", ctx) from error


def _listed(words: Sequence[str]) -> str:
    shown = " ".join(map(repr, words[:3]))
    return f"{shown} and {len(words) - 3:,} more" if len(words) > 3 else shown


def _advice(words: Sequence[str]) -> str:
    first = Path(words[0])
    if len(words) == 1 or not os.path.lexists(first):
        return f"Inputs are given with --shards: --shards {_quoted(words[0])}."
    same = all(Path(word).suffix == first.suffix for word in words)
    pattern = str(first.with_name(f"*{first.suffix}" if same else "*"))
    return (
        "If the shell made them of a pattern, put it in quotes, and recap-fast expands it: "
        f"--shards {_quoted(pattern)}. Each further input has a --shards of its own."
    )


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w./:@%+-]+", word) else "'" + word.replace("'", "'\\''") + "'"
