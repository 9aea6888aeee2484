import io
import logging
import os
import re
import sys

import pytest
from support.terminal import Terminal

from recap_fast.cli.messages import StderrHandler
from recap_fast.cli.progress import bar


def on_a_terminal(monkeypatch, act):
    """What a terminal of 80 columns gets as standard error while this acts."""
    terminal = Terminal(80)
    with monkeypatch.context() as patch, os.fdopen(os.dup(terminal.slave), "w") as stream:
        patch.setenv("COLUMNS", "80")
        patch.delenv("TERM", raising=False)
        patch.setattr(sys, "stderr", stream)
        act()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.close())


def test_a_bar_shows_how_far_a_command_is(monkeypatch):
    def act():
        with bar("checking shards") as shown:
            shown.show(1, 4)
            shown.say("[b]above[/b] it")
            shown.show(4, 4)

    text = on_a_terminal(monkeypatch, act)
    assert re.search(r"checking shards \S+ +100% 4/4", text)
    assert "[b]above[/b] it\r\n" in text
    assert max(map(len, re.split(r"[\r\n]+", text))) <= 80


def test_a_warning_does_not_tear_the_bar(monkeypatch):
    logger = logging.Logger("recap_fast.test")  # noqa: LOG001 - one that nobody else gets

    def act():
        logger.addHandler(StderrHandler())
        with bar("trying sizes") as shown:
            shown.show(1, 4)
            logger.warning("[b]slow[/b]")

    assert re.search(r"trying sizes .*\rwarning: \[b]slow\[/b] *\r\n", on_a_terminal(monkeypatch, act))


def test_bytes_are_shown_as_such(monkeypatch):
    def act():
        with bar("writing weights", is_bytes=True) as shown:
            shown.show(8_000_000, 16_000_000)

    assert "8.0/16.0 MB" in on_a_terminal(monkeypatch, act)


def test_an_error_before_the_beginning_shows_nothing_but_itself(monkeypatch):
    def act():
        with pytest.raises(ValueError, match="no"), bar("checking shards"):
            raise ValueError("no")

    assert on_a_terminal(monkeypatch, act) == ""


def test_off_a_terminal_there_are_lines_alone(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with bar("trying sizes") as shown:
        shown.show(1, 2)
        shown.say("64/8: 3 images/s")
    assert sys.stderr.getvalue() == "64/8: 3 images/s\n"
