"""A command whose options stand in groups, and whose usage errors say how inputs are given."""

import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click import types

F = TypeVar("F", bound=Callable[..., Any])
_INPUTS = ("--shards", "--input")


class Option(click.Option):
    """An option of a group."""

    group = "Other"
    """The heading above it in the help."""

    def get_help_extra(self, ctx: click.Context) -> types.OptionHelpExtra:
        """Shows a default of 60.0 as 60."""
        extra = super().get_help_extra(ctx)
        if isinstance(self.default, float):
            extra["default"] = f"{self.default:g}"
        return extra


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
        """Explains words that no option takes. Most are paths that the shell made of a glob."""
        given = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            self._leave_out_hidden(error)
            raise
        except click.UsageError as error:
            is_missing = isinstance(error, click.MissingParameter)
            if not is_missing and type(error) is not click.UsageError:  # what an option was given is wrong
                raise
            extra = self.make_parser(ctx).parse_args(list(given))[1]
            if not extra or not any("--shards" in param.opts for param in self.params):
                raise
            text = error.format_message() if is_missing else f"Unexpected: {_listed(extra)}."
            raise click.UsageError(f"{text} {_advice(extra, given)}", ctx) from error

    def _leave_out_hidden(self, error: click.NoSuchOption) -> None:
        hidden = {name for param in self.params if getattr(param, "hidden", False) for name in param.opts}
        if error.possibilities:
            error.possibilities[:] = [name for name in error.possibilities if name not in hidden]


def _listed(words: Sequence[str]) -> str:
    shown = " ".join(map(repr, words[:3]))
    return f"{shown} and {len(words) - 3:,} more" if len(words) > 3 else shown


def _advice(words: Sequence[str], given: Sequence[str]) -> str:
    """What to type instead of words that no option takes, which are among the words that were given."""
    before = given[: given.index(words[0])]
    option = next((word for word in reversed(before) if word.startswith("-")), "")
    own = "Give each further input a --shards of its own."
    if os.path.lexists(words[0]) and (len(words) > 1 or option in _INPUTS):
        first = Path(words[0])
        same = all(Path(word).suffix == first.suffix for word in words)
        pattern = _quoted(str(first.with_name(f"*{first.suffix}" if same else "*")))
        return f"If your shell expanded a pattern, put the pattern in quotes: --shards {pattern}. {own}"
    if option in _INPUTS:
        return f"If your shell expanded a pattern, put the pattern in quotes: --shards '{{00000..00099}}.tar'. {own}"
    if option == "--prompt":
        text = " ".join([before[-1], *words])
        return f"Put a prompt of several words in quotes: --prompt {_quoted(text)}."
    return f"Inputs are given with --shards: --shards {_quoted(words[0])}."


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w./:@%+-]+", word) else "'" + word.replace("'", "'\\''") + "'"
