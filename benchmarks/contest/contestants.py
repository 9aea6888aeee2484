"""A contestant: an engine with its precision and settings, in a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from contest.kinds import BENCHMARKS, KINDS, OURS
from contest.peers.protocol import Job, Pass

CLOSING_S = 20
"""Seconds that a contestant has to end by itself."""
LOG_LINES = 15
"""Of a contestant that died: what is shown of its standard error."""


class ContestantError(Exception):
    """A contestant that cannot be started, or did not answer."""


@dataclass(frozen=True)
class Candidate:
    """An engine with its precision and settings."""

    name: str
    precision: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        return f"{self.name} {self.precision}" + (f" ({settings})" if settings else "")


def list_candidates(
    name: str, device: str, precisions: Sequence[str], wanted: Sequence[str], own_settings: dict[str, Any]
) -> list[Candidate]:
    """All of one engine on a device in these precisions; recap-fast has one setting, its default with `own_settings`.

    `wanted` are names of settings: of an engine that has any of them, only those.
    """
    found = []
    for precision in precisions:
        known = KINDS[name].settings.get(device, {}).get(precision, {})
        chosen = {label: settings for label, settings in known.items() if label in wanted} or known
        found += [Candidate(name, precision, own_settings if name == OURS else dict(s)) for s in chosen.values()]
    return found


def check_installed(name: str, python: str) -> None:
    """Raises ContestantError unless that interpreter finds the engine."""
    kind = KINDS[name]
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    with contextlib.suppress(OSError):
        if subprocess.run([python, "-c", find, kind.module], env=_environment(name, 1), check=False).returncode == 0:
            return
    raise ContestantError(
        f"{name} is not installed for {python}: make a virtual environment, install it there as benchmarks/README.md "
        f"says ({kind.install}), and give its interpreter with --python {name}=PATH; or leave it out of --peers."
    )


class Process:
    """A contestant in its own process and process group, which is stopped whenever it is not its turn.

    So that threads which wait for work by spinning take nothing from the one that computes.
    """

    def __init__(self, candidate: Candidate, python: str, job: Job):
        """Starts it and waits until its engine is open. Raises ContestantError where that fails."""
        self.candidate = candidate
        file = Path(job.folder, f"{candidate.name}-{candidate.precision}-{os.urandom(4).hex()}")
        self._log = file.with_suffix(".log")
        job.write(file.with_suffix(".json"))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-P", "-m", KINDS[candidate.name].peer, str(file.with_suffix(".json"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(candidate.name, job.threads),
                start_new_session=True,
            )
        try:
            self.versions: dict[str, str] = self._read()["versions"]
        except ContestantError:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def run(self, lengths: Sequence[int], **more: Any) -> Pass:
        """One pass; `more` is what else the contestant's `run` takes.

        Raises ContestantError where the contestant fails or is gone.
        """
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps({"lengths": list(lengths), **more}) + "\n")
            self._stdin.flush()
        done = Pass(**self._read())
        self._signal(signal.SIGSTOP)
        return done

    def close(self) -> None:
        """Ends it and all that it started."""
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSING_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._stdout.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> dict[str, Any]:
        line = self._stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended without an answer"}
        if "error" in answer:
            tail = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            raise ContestantError("\n    ".join([f"{self.candidate}: {answer['error']}", *tail]))
        return answer


def _environment(name: str, threads: int) -> dict[str, str]:
    """This process's; for other peers without what recap-fast has set, and what PYTHONPATH has for our environment."""
    inherited = dict(os.environ)
    if not KINDS[name].is_ours:
        for ours in ("PYTHONPATH", "GOMP_SPINCOUNT"):
            inherited.pop(ours, None)
    paths = [str(BENCHMARKS), KINDS[name].python_path, inherited.get("PYTHONPATH")]
    path = os.pathsep.join(folder for folder in paths if folder)
    return {**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
