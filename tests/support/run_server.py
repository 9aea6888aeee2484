"""Forks a process with all of recap-fast loaded for each command on standard input: a run starts in milliseconds.

    python run_server.py STRETCH_ROWS GUARD_S

A line is `start <json of a Job>`, answered with the process id, or `wait <process id>`, answered with the exit code,
negative for a signal. A process that takes longer than GUARD_S hangs: it writes where, and ends with code 1.
"""

import faulthandler
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypedDict

from recap_fast.cli.main import main as recap_fast
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.launch import reporter
from recap_fast.shards.remote import access
from recap_fast.store import cloud, connection, persistence
from recap_fast.write import shard_writer

CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir"}
"""Audit events of the file system; and `open`, to write."""


class Job(TypedDict):
    """A command and what is done to it."""

    arguments: list[str]
    stdout: str
    stderr: str
    log: str
    """Gets a line for each row that a shard writer takes, before it does, "<shard> <index>": there is none in a file
    that has no line, whenever the process is killed; and "step" for each step of the engine that has begun."""
    step_s: float
    """Added to every step of the engine."""
    gate: str | None
    """The first step waits for this file."""
    signal: tuple[int, str, int] | None
    """(number, event, count): the process sends itself this signal as soon as so many events have happened: "row" and
    "step" as in the log, or "change": a row, or something that is about to happen, namely a change of the file system
    or a request to an object store."""
    environment: dict[str, str]
    """HOME and the variables of AWS; others are those of the server."""
    patience_s: float
    """An object store that does not answer is given up after this time."""


def become(job: Job) -> NoReturn:
    """Runs the command in this process and exits with its code."""
    for number, name in ((1, job["stdout"]), (2, job["stderr"])):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
    log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    add, step = shard_writer.ShardWriter.add, TorchEngine.step
    happened = itertools.count(1)

    def happens(event: str) -> None:
        if job["signal"] and event == job["signal"][1] and next(happened) == job["signal"][2]:
            os.kill(os.getpid(), job["signal"][0])

    def logged(self, row):
        os.write(log, f"{row.sample.shard} {row.sample.index}\n".encode())
        in_order = add(self, row)
        happens("row")
        happens("change")
        return in_order

    def slowly(self, **told):
        os.write(log, b"step\n")
        while job["gate"] and not Path(job["gate"]).exists():
            time.sleep(0.005)
        happens("step")
        time.sleep(job["step_s"])
        return step(self, **told)

    def audit(event: str, arguments: Sequence[Any]) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            happens("change")

    shard_writer.ShardWriter.add, TorchEngine.step = logged, slowly
    reporter.PLAIN_S = ((float("inf"), float(sys.argv[2])),)  # what is said does not depend on how long it takes
    reach_stores(job, happens)
    sys.addaudithook(audit)
    sys.argv = ["recap-fast", *job["arguments"]]
    try:
        recap_fast()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))  # taking down all the modules that came by the fork takes a second
    os._exit(70)


def reach_stores(job: Job, happens: Callable[[str], None]) -> None:
    """Where object stores are, how long they are waited for, short pauses, and that each request to an output is an
    event."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(job["environment"])
    persistence.FIRST_PAUSE_S = access.FIRST_PAUSE_S = 0.01
    persistence.PATIENCE_S = job["patience_s"]
    connection.RETRIES["backoff"] = {**connection.RETRIES["backoff"], "init_backoff": timedelta(milliseconds=10)}
    persistently = cloud.persistently

    def noted(action, *more):
        def act():
            happens("change")
            return action()

        return persistently(act, *more)

    cloud.persistently = noted


def main() -> None:
    """Reads commands until the end of the input."""
    shard_writer.STRETCH_ROWS = int(sys.argv[1])
    for line in sys.stdin:
        verb, _, rest = line.partition(" ")
        if verb == "start":
            process = os.fork()
            if not process:
                become(json.loads(rest))
            answer = process
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(int(rest), 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
