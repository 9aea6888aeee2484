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
from recap_fast.launch.reporter import Reporter, ReporterHandler, duration, failures, progress_fields, progress_line
from recap_fast.pipeline.counters import STAGES, RunCounters, Snapshot


def snapshot(**changed) -> Snapshot:
    given = {
        "seconds": 25.0,
        "rows": 1566,
        "captioned": 1532,
        "failed": {"not_an_image": 14, "truncated": 20},
        "num_tokens": 87324,
        "shards_done": 1,
        "shards_total": 3,
        "busy": {"read": 0.1, "decode": 0.2, "generate": 0.981, "write": 0.05},
        "eta_s": 130.0,
    }
    return Snapshot(**{**given, **changed})


def test_the_progress_line():
    assert progress_line(snapshot()) == (
        "shards 1/3  1,566 done, 34 failed (20 truncated, 14 not_an_image)  61.3 images/s  57 tokens/caption  "
        "limit: generate 98%  ETA 2 min"
    )


def test_the_progress_line_before_there_is_anything_to_say():
    empty = snapshot(rows=0, captioned=0, failed={}, num_tokens=0, eta_s=None, shards_done=0)
    assert progress_line(empty) == "shards 0/3  0 done"


def test_the_progress_for_machines_is_json_and_says_the_same():
    fields = json.loads(json.dumps(progress_fields(snapshot())))
    assert (fields["rows"], fields["captioned"], fields["failed"]["truncated"]) == (1566, 1532, 20)
    assert (fields["limiting_stage"], fields["eta_s"], fields["images_per_s"]) == ("generate", 130.0, 61.28)
    assert list(fields["busy"]) == list(STAGES)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (3569, "59 min"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86400, "24 h 00 min"),
        (3 * 86400 + 4.2 * 3600, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_failures_are_listed_most_frequent_first():
    assert failures({}) == ""
    assert failures({"a": 1, "b": 1200}) == ", 1,201 failed (1,200 b, 1 a)"


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


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_off_a_terminal_progress_comes_in_lines(monkeypatch, log_format):
    monkeypatch.setattr(reporter_module, "PLAIN_S", 0.01)
    stream = io.StringIO()
    with Reporter(log_format, stream).progress(RunCounters(7)):
        wait_until(lambda: stream.getvalue().count("\n") >= 2)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    for line in lines:
        assert (json.loads(line)["message"] if log_format == "json" else line) == "shards 0/7  0 done"
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


def test_on_a_terminal_one_line_is_drawn_again_and_again(monkeypatch):
    monkeypatch.setattr(reporter_module, "LIVE_S", 0.01)

    terminal, counters = Terminal(), WatchedCounters(7)
    with os.fdopen(os.dup(terminal.slave), "w") as stream:
        reporter = Reporter("text", stream)
        with reporter.progress(counters):
            counters.wait_for(3)
            reporter.event("note", "something happened")
            counters.wait_for(3)
        reporter.event("note", "the end")
    text = terminal.close()
    live = "shards 0/7  0 done"
    assert text.count(f"\r{live}\x1b[K") >= 6
    assert f"\r\x1b[Ksomething happened\r\n{live}" in text, "an event stands above the live line"
    assert text.endswith("\r\x1b[Kthe end\r\n"), "the live line is gone in the end"


def test_the_live_line_never_wraps(monkeypatch):
    monkeypatch.setattr(reporter_module, "LIVE_S", 0.01)

    terminal, counters = Terminal(columns=16), WatchedCounters(1234567)
    with os.fdopen(os.dup(terminal.slave), "w") as stream, Reporter("text", stream).progress(counters):
        counters.wait_for(2)
    text = terminal.close()
    assert "\rshards 0/123456\x1b[K" in text
    assert not re.search(r"[^\r\x1b]{16}", text)


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
