"""Runs for the tests of the pipeline and the command line: shards of small pictures, fake stages, real processes."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from support import pictures, shard_files
from support.guard import GUARD_S, wait_until

STRETCH_ROWS = 8
"""Of the server's processes."""
BAD = b"this is no image"


def write_pictures(folder: Path, num_shards: int, num_samples: int, bad: Sequence[int] = ()) -> Path:
    """Webdataset tars of noise, each picture another one; those of index `bad` are no pictures."""
    for shard in range(num_shards):
        members = []
        for index in range(num_samples):
            key = f"{shard:05d}{index:04d}"
            picture = pictures.encode(pictures.noise(20, 16, seed=1000 * shard + index), "PNG")
            fields = {"url": f"http://x/{key}", "uid": f"u{key}", "caption": f"alt text {index}"}
            members += [
                (f"{key}.png", BAD if index in bad else picture),
                (f"{key}.json", json.dumps(fields).encode()),
                (f"{key}.txt", f"alt text {index}".encode()),
            ]
        shard_files.write_tar(folder / f"{shard:05d}.tar", members)
    return folder


def read_rows(output: Path) -> list[dict[str, Any]]:
    """All rows of an output folder, by shard and index."""
    files = sorted((output / "data").rglob("*.parquet"))
    rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
    return sorted(rows, key=lambda row: (row["shard"], row["index"]))


def read_done(output: Path, name: str) -> Mapping[str, Any]:
    """A shard's done-record."""
    return json.loads((output / "manifests" / f"{name}.json").read_text())


def indices(path: Path) -> list[int]:
    """The column index of a Parquet file, in the order of its rows."""
    table: pa.Table = pq.ParquetFile(path).read(columns=["index"])
    return table["index"].to_pylist()


class Server:
    """Starts `recap-fast` commands in processes of their own, which have everything loaded; see run_server.py."""

    def __enter__(self) -> Self:
        here = Path(__file__).parent
        self._folder = tempfile.TemporaryDirectory()
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", here / "run_server.py", str(STRETCH_ROWS), str(GUARD_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def start(
        self,
        *arguments: object,
        step_s: float = 0.0,
        gate: Path | None = None,
        send: tuple[int, str, int] | None = None,
        stderr: str | None = None,
        patience_s: float = GUARD_S,
    ) -> "Command":
        """Starts a command; it runs on its own, with HOME and AWS's variables as they are in this
        process.

        `step_s` slows the engine down, its first step waits for the file `gate`, (number, event, count) of `send` is a
        signal that it sends itself; see run_server.Job. `stderr` may be a terminal. `patience_s` is for object stores.
        """
        self._count += 1
        base = f"{self._folder.name}/{self._count:04d}"
        paths = {"stdout": f"{base}.out", "stderr": stderr or f"{base}.err", "log": f"{base}.log"}
        job = {"arguments": [str(a) for a in arguments], "step_s": step_s, "gate": gate and str(gate), "signal": send}
        environment = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "RAY_", "HOME"))}
        job |= {"environment": environment, "patience_s": patience_s}
        process = self._ask(f"start {json.dumps({**job, **paths})}")
        return Command(self, process, *map(Path, paths.values()))

    def run(self, *arguments: object, **more: Any) -> "Command":
        """Runs a command to its end, with the options of `start`."""
        command = self.start(*arguments, **more)
        command.wait()
        return command

    def run_killed(self, *arguments: object, moments: int, most_kills: int) -> "list[Command]":
        """Runs a command again and again, ended by kill -9, until it completes; and then tries failures once more.

        A kill comes at one of about so many changes of the file system, drawn anew each time. All commands but the last
        two were killed. The last one is for an image that was being decoded at two kills: it counts as one that ends
        processes.
        """
        commands: list[Command] = []
        while not commands or commands[-1].code != 0:
            is_killed = len(commands) < most_kills
            send = (signal.SIGKILL, "change", random.randint(1, moments)) if is_killed else None
            commands.append(self.run(*arguments, send=send))
            assert commands[-1].code in (0, -signal.SIGKILL), commands[-1].stderr
        return [*commands, self.run(*arguments, "--retry-failed", "crashed")]

    def _ask(self, line: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@dataclass
class Command:
    """A command that was started."""

    _server: Server
    _process: int
    _stdout: Path
    _stderr: Path
    _log: Path
    code: int | None = None

    def send(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self._process, number)

    def wait(self) -> int:
        """The exit code; negative for a signal."""
        if self.code is None:
            self.code = self._server._ask(f"wait {self._process}")
        return self.code

    def wait_for(self, text: str) -> None:
        """Returns when this stands in its standard error."""
        wait_until(lambda: text in self.stderr, lambda: f"{text!r} never came:\n{self.stderr}")

    def wait_for_step(self) -> None:
        """Returns when its engine has begun to work."""
        wait_until(lambda: self.num_steps, lambda: f"no step:\n{self.stderr}")

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text() if self._stderr.exists() else ""

    @property
    def finished(self) -> list[str]:
        """The rows that its shard writers had taken, as 'shard index'."""
        return [line for line in self._logged() if line != "step"]

    @property
    def num_steps(self) -> int:
        """How many steps its engine has begun."""
        return self._logged().count("step")

    def _logged(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


def run_arguments(engine: Path, inputs: Path | str, output: Path | str, *more: object) -> list[object]:
    """Of a small real run."""
    shards = f"{inputs}/*.tar"
    return ["run", "--engine", engine, "--shards", shards, "--output", output, "--decoder", "pillow", *more]
