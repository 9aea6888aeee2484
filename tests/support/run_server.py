"""Forks a process with all of recap-fast loaded for each command on standard input: a run starts in milliseconds.

    python run_server.py STRETCH_ROWS

A line is `start <json: {"arguments": [...], "stdout": path, "stderr": path, "log": path, "step_s": seconds}>`, answered
with the process id, or `wait <process id>`, answered with the exit code, negative for a signal. Every row that a shard
writer has taken is written to `log`, as "<shard> <index>": what a killed process had finished. `step_s` is added to
every step of the engine.
"""

import json
import os
import sys
import time
from typing import Any, NoReturn

from recap_fast.cli.main import main as recap_fast
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.write import shard_writer


def become(job: dict[str, Any]) -> NoReturn:
    """Runs the command in this process and exits with its code."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    add, step = shard_writer.ShardWriter.add, TorchEngine.step

    def logged(self, row):
        in_order = add(self, row)
        os.write(log, f"{row.sample.shard} {row.sample.index}\n".encode())
        return in_order

    def slowly(self):
        time.sleep(job["step_s"])
        return step(self)

    shard_writer.ShardWriter.add, TorchEngine.step = logged, slowly
    sys.argv = ["recap-fast", *job["arguments"]]
    try:
        recap_fast()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))  # taking down all the modules that came by the fork takes a second
    os._exit(70)


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
