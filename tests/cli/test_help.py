"""Every line of help reads well on a terminal of 80 columns, and the Tab key completes what it can."""

import os

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from recap_fast.cli.command import Option
from recap_fast.cli.main import cli

COMMANDS = sorted(cli.commands)
MAX_LETTERS = 80


def options(name):
    shown = (param for param in cli.commands[name].params if isinstance(param, click.Option))
    return [option for option in shown if not option.hidden]


def help_of(*names):
    done = CliRunner().invoke(cli, [*names, "--help"], terminal_width=MAX_LETTERS)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_a_group(name):
    for option in options(name):
        assert isinstance(option, Option), f"{option.opts} is not made by cli.command.option"
        assert "group" in vars(option), f"{option.opts} has no group"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_in_one_short_sentence_or_two(name):
    for option in options(name):
        assert option.help, f"{option.opts} has no help"
        sentence = option.help.partition("  [default: ")[0]
        assert sentence[0].isupper(), sentence
        assert sentence.endswith("."), sentence
        assert len(sentence) <= MAX_LETTERS, sentence


@pytest.mark.parametrize("names", [[], *([name] for name in COMMANDS)], ids=str)
def test_no_line_of_help_is_longer_than_a_terminal_or_cut(names):
    text = help_of(*names)
    assert max(map(len, text.splitlines())) <= MAX_LETTERS
    assert ".0]" not in text, "a default of 60 is not shown as 60.0"
    assert "..." not in text.replace("ARGS]...", "").replace(",...", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_one_whole_line_in_the_list(name):
    (line,) = [line for line in help_of().splitlines() if line.startswith(f"  {name} ")]
    sentence = line.removeprefix(f"  {name} ").strip()
    assert sentence[0].isupper()
    assert sentence.endswith(".")


def test_the_groups_of_run():
    headings = [line.rstrip(":") for line in help_of("run").splitlines() if line[:1].isalpha() and line.endswith(":")]
    assert headings == ["Input", "Output", "Prompt", "Speed", "Cluster", "Other"]


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ([], "b", ["bench", "build-engine"]),
        (["run"], "--pro", ["--prompt", "--prompt-file"]),
        (["run", "--decoder"], "d", ["dali"]),
        (["build-engine"], "llava_llama3_8b_", ["llava_llama3_8b_fp8", "llava_llama3_8b_int8"]),
    ],
)
def test_what_the_tab_key_completes(words, incomplete, expected):
    found = ShellComplete(cli, {}, "recap-fast", "_RECAP_FAST_COMPLETE").get_completions(words, incomplete)
    assert [item.value for item in found] == expected


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["run", "--shards"], "file"),
        (["run", "--engine"], "dir"),
        (["bench", "--json"], "file"),
        (["verify"], "dir"),
        (["build-engine"], "file"),
    ],
)
def test_paths_are_completed_by_the_shell(words, kind):
    (item,) = ShellComplete(cli, {}, "recap-fast", "_RECAP_FAST_COMPLETE").get_completions(words, f"x{os.sep}")
    assert item.type == kind


def test_what_the_shell_is_told_to_run():
    done = CliRunner().invoke(cli, prog_name="recap-fast", env={"_RECAP_FAST_COMPLETE": "bash_source"})
    assert done.exit_code == 0
    assert "complete -o nosort -F _recap_fast_completion recap-fast" in done.stdout
    assert '$(_RECAP_FAST_COMPLETE=bash_source recap-fast)"' in help_of()
