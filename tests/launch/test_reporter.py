import io
import json
import logging
import os
import re
import threading
import time

import pytest
from support.guard import GUARD_S, wait_until
from support.terminal import Terminal

from recap_fast.launch import reporter as reporter_module
from recap_fast.launch.reporter import Reporter, ReporterHandler
from recap_fast.pipeline.counters import RunCounters


def test_json_lines_are_json_lines():
    stream = io.StringIO()
    reporter = Reporter("json", stream)
    before = time.time()
    reporter.event("plan", "two\nlines", shard="00000")
    reporter.event("done", "ok")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["message"], first["shard"]) == ("plan", "two\nlines", "00000")
    assert before - 0.001 <= first["time"] <= time.time() + 0.001
    assert second["event"] == "done"


@pytest.mark.parametrize(("log_format", "lines"), [("text", 0), ("json", 1), (None, 0)])
def test_the_result_is_for_machines_alone(log_format, lines):
    stream = io.StringIO()
    Reporter(log_format, stream).result(outcome="complete", kept=3)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(each["event"], each["outcome"], each["kept"]) for each in found] == [("result", "complete", 3)] * lines


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_off_a_terminal_progress_comes_in_lines(monkeypatch, log_format):
    monkeypatch.setattr(reporter_module, "PLAIN_S", ((float("inf"), 0.01),))
    stream = io.StringIO()
    with Reporter(log_format, stream).progress(RunCounters(7)):
        wait_until(lambda: stream.getvalue().count("\n") >= 2)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    for line in lines:
        text = json.loads(line)["message"] if log_format == "json" else line[21:]
        assert text == "0 done  shards 0/7"
        assert log_format == "json" or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d  ", line[:21])
    assert "recap-report" not in {thread.name for thread in threading.enumerate()}, "it goes on after its end"


class WatchedCounters(RunCounters):
    """Counts how often it was asked."""

    asked = 0

    def snapshot(self):
        self.asked += 1
        return super().snapshot()

    def wait_for(self, drawn):
        """Returns when it has been drawn so many times more: it is asked before each time."""
        wait_until(lambda until=self.asked + drawn + 1: self.asked >= until)


def draw(monkeypatch, counters, columns, act=lambda reporter: None):
    """What a terminal gets, each drawing on a line of its own."""
    monkeypatch.setattr(reporter_module, "PER_SECOND", 100)
    monkeypatch.delenv("TERM", raising=False)
    terminal = Terminal(columns)
    with os.fdopen(os.dup(terminal.slave), "w") as stream:
        reporter = Reporter("text", stream)
        with reporter.progress(counters):
            counters.wait_for(3)
            act(reporter)
            counters.wait_for(3)
        reporter.event("note", "the end")
    return [re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", terminal.close())]


def test_on_a_terminal_one_line_is_drawn_again_and_again(monkeypatch):
    lines = draw(monkeypatch, WatchedCounters(7), 80, lambda reporter: reporter.event("note", "[b]happened[/b] :cat:"))
    live = [i for i, line in enumerate(lines) if line == "0 done  shards 0/7"]
    assert live[0] < lines.index("[b]happened[/b] :cat:") < live[-1], "an event stands above the live line"
    assert [line for line in lines if line][-1] == "the end"


@pytest.mark.parametrize("columns", [16, 40, 80, 120])
def test_the_live_line_never_wraps(monkeypatch, columns):
    lines = draw(monkeypatch, WatchedCounters(1234567), columns)
    assert ("0 done" if columns == 16 else "0 done  shards 0/1234567") in lines
    assert max(map(len, lines)) < columns


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(reporter_module, "PLAIN_S", ((float("inf"), 0.01),))
    terminal, counters = Terminal(), WatchedCounters(1)
    with os.fdopen(os.dup(terminal.slave), "w") as stream, Reporter("text", stream).progress(counters):
        counters.wait_for(2)
    text = terminal.close()
    assert text.count("  0 done  shards 0/1\r\n") >= 2
    assert "\x1b" not in text


def test_plain_lines_become_rare():
    assert [reporter_module._pause(seconds) for seconds in (0, 59, 60, 3599, 3600, 1e6)] == [10, 10, 60, 60, 600, 600]


def test_a_signal_handler_may_report_while_its_thread_does():
    """The handler runs in the main thread, which may hold the lock."""
    stream = io.StringIO()
    reporter = Reporter("text", stream)
    write, done = stream.write, threading.Event()

    def interrupted(text):
        if not done.is_set():
            done.set()
            reporter.event("signal", "from the handler")
        return write(text)

    stream.write = interrupted
    thread = threading.Thread(target=reporter.event, args=("a", "from the thread"), daemon=True)
    thread.start()
    thread.join(GUARD_S)
    assert not thread.is_alive(), "it waits for itself"
    assert stream.getvalue() == "from the handler\nfrom the thread\n"


def test_log_records_go_through_the_reporter_with_their_traceback():
    stream = io.StringIO()
    logger = logging.Logger("recap_fast.test")  # noqa: LOG001 - one that nobody else gets
    logger.addHandler(ReporterHandler(Reporter("text", stream)))
    logger.warning("the %s is cut", "tar")
    try:
        {}["x"]
    except KeyError:
        logger.exception("oh")
    assert stream.getvalue().startswith("warning: the tar is cut\nerror: oh\nTraceback (most recent call last):\n")
    assert stream.getvalue().endswith("KeyError: 'x'\n")


# -- standard error that is gone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_pipe_that_nobody_reads_ends_nothing(log_format):
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    reporter = Reporter(log_format, stream)
    for _ in range(3):
        reporter.event("shards", "2 of 2 to do")
    stream.close()  # what was in its buffer is dropped without an error
    reporter.event("done", "Nothing to do")


@pytest.mark.parametrize(
    "error", [OSError(5, "EIO"), OSError(9, "EBADF"), ValueError("closed"), RuntimeError("reentrant")]
)
def test_an_error_of_the_stream_ends_nothing(error):
    class Broken(io.StringIO):
        def write(self, text):
            raise error

    Reporter("text", Broken()).event("shards", "2 of 2 to do")


def test_without_standard_error_nothing_is_said(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    reporter = Reporter("text")
    reporter.event("shards", "2 of 2 to do")
    with reporter.progress(RunCounters(1)):
        pass


def test_urls_are_shown_without_secrets():
    stream = io.StringIO()
    Reporter("text", stream).event("warning", "https://u:s3cr3t@h/a?sig=s3cr3t failed")
    Reporter("json", stream).event("plan", "of https://h/a?s3cr3t", shard="https://u:s3cr3t@h/a", rows=1)
    assert "s3cr3t" not in stream.getvalue()
    assert stream.getvalue().startswith("https://h/a failed\n")
    assert json.loads(stream.getvalue().splitlines()[1])["rows"] == 1
