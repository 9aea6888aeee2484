"""The pages of the manual, their blocks of commands and Python, and a session that runs the blocks of one page.

A block of ```bash, ```python or ```sql runs, unless the line before it is `<!-- not run: REASON -->`. One whose last
command ends with another exit code than 0 has `<!-- exit code N -->` there.
"""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from recap_fast.cli.main import cli

ROOT = Path(__file__).parents[2]
MANUAL = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *MANUAL]
_FENCE = re.compile(r"(?ms)(?:<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$")
_SHELL = re.compile(r"[|&;<>$`]|^\w+=")
_IMPORTS = re.compile(r"^\s*(?:import|from) (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """Of the page, where the text begins."""
    mark: str
    """The comment before it."""

    @property
    def exit_code(self) -> int:
        """The one that its last command ends with."""
        return int(self.mark.removeprefix("exit code ")) if self.mark.startswith("exit code ") else 0

    @property
    def runs(self) -> bool:
        """Whether it is to be run, and all it imports is installed."""
        modules = _IMPORTS.findall(self.text) if self.language == "python" else []
        return not self.mark.startswith("not run: ") and all(importlib.util.find_spec(name) for name in modules)

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, those that a backslash continues in one, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["text"], text.count("\n", 0, found.start("text")) + 1, found["mark"] or "")
        for found in _FENCE.finditer(text)
        if found["language"] in languages
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    return re.sub(r"(?s)<!--.*?-->", "", text)


class Session:
    """Runs the blocks of a page in one folder. Python blocks share their names, as cells of a notebook do."""

    def __init__(self, folder: Path, page: Path):
        self.folder = folder
        self.page = page
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Runs a block. Raises AssertionError where a command ends with another code than it should."""
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()):
            if block.language == "bash":
                self._run_shell(block)
            elif block.language == "sql":
                import duckdb

                duckdb.sql(block.text).fetchall()
            else:
                code = compile("\n" * (block.line - 1) + block.text, str(self.page), "exec")
                exec(code, self.names)

    def _run_shell(self, block: Block) -> None:
        for number, command in enumerate(block.commands):
            expected = block.exit_code if number == len(block.commands) - 1 else 0
            code, said = _run_here(command) if _is_plain(command) else self._run_bash(command)
            assert code == expected, f"{self.page.name}: `{command}` ends with {code}:\n{said}"

    def _run_bash(self, command: str) -> tuple[int, str]:
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(["bash", "-ec", command], env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


def _is_plain(command: str) -> bool:
    """Whether it is a command of ours that needs no shell, and so no process of its own; a driver of Ray changes its
    process's environment for good."""
    is_ours = command.startswith("recap-fast ") and "--ray" not in command
    return is_ours and not _SHELL.search(re.sub(r"'[^']*'", "", command))


def _run_here(command: str) -> tuple[int, str]:
    from click.testing import CliRunner

    result = CliRunner().invoke(cli, shlex.split(command, comments=True)[1:])
    return result.exit_code, result.output + (repr(result.exception) if result.exception else "")


def command_options(name: str) -> set[str]:
    """The options of a command that its help shows, both spellings of a switch among them."""
    shown = (option for option in cli.commands[name].params if isinstance(option, click.Option) and not option.hidden)
    return {spelling for option in shown for spelling in (*option.opts, *option.secondary_opts)}


def used_commands(page: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line, command and options of each `recap-fast ...` in the shell blocks of a page."""
    for block in blocks(page, "bash", "sbatch"):
        for command in block.commands:
            if match := re.search(r"(?:^|\s)recap-fast ([a-z-]+)(.*)", command):
                words = re.sub(r"'[^']*'|\"[^\"]*\"", "", match[2])
                yield block.line, match[1], re.findall(r"(?<!\S)--[a-z-]+", words)


def first_column(page: Path, heading: str) -> list[list[str]]:
    """The code spans in the first column of the first table under a heading, row by row."""
    section = page.read_text(encoding="utf-8").partition(f" {heading}\n")[2]
    rows = re.search(r"^\|.*\n\|[-| :]+\|\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert rows, f"{page.name} has no table under '{heading}'"
    return [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in rows[1].splitlines()]
