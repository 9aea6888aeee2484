"""Runs of one command on a Ray cluster, into one output, and what must come of them."""

import json
from typing import Any

import pytest
from support import runs, worker_hook
from support.guard import wait_until
from support.runs import Command, run_arguments

SHORT = ("--max-new-tokens", 12)
GATE_STEP = 50
"""Every worker waits before this step: some captions are done by then, and most are not."""


def events(command: Command) -> dict[str, Any]:
    """What a command has said; of several events of a name the last."""
    return {event["event"]: event for event in map(json.loads, command.stderr.splitlines())}


class ClusterRun:
    """One command, on one cluster."""

    def __init__(self, folder, server, cluster, engine, inputs):
        self.output, self._gate, self._inputs = folder / "out", folder / "gate", inputs
        self._folder, self._server, self._cluster, self._engine = folder, server, cluster, engine

    def start(self, *more, **changes):
        """Starts the driver; its workers wait at the gate, and `changes` are in their environment."""
        told = worker_hook.environment(GATE=self._gate, GATE_STEP=GATE_STEP, **changes)
        path = self._folder / "environment.json"
        path.write_text(json.dumps(told))
        arguments = run_arguments(self._engine, self._inputs, self.output, *SHORT, "--log-format", "json", *more)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "disabled")
            return self._server.start(*arguments, "--ray", self._cluster.address, "--runtime-env", path)

    @property
    def num_waiting(self):
        """Of the workers that there were, how many came to the gate."""
        return len(list(self._folder.glob("gate.*")))

    def wait_for_workers(self, num, command):
        wait_until(
            lambda: self.num_waiting >= num, lambda: f"{self.num_waiting} of {num} workers came: {command.stderr}"
        )

    def wait_for_drained(self, num, command):
        """Workers at the gate that know that they are to end."""
        wait_until(lambda: len(list(self._folder.glob("drained.*"))) >= num, lambda: command.stderr)

    def open_gate(self):
        self._gate.touch()

    def close_gate(self):
        for path in self._folder.glob("gate*"):
            path.unlink()

    def check(self, command, rows):
        """The command is complete, and the output is whole."""
        assert command.wait() == 0, command.stderr
        events(command)  # and no other line, such as Ray's own
        assert runs.read_rows(self.output) == rows
        assert not list(self.output.glob("partial/**/*.parquet"))
        verified = self._server.run("verify", self.output, "--shards", f"{self._inputs}/*.tar")
        assert "Proven" in verified.stdout, verified.stdout
