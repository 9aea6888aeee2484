"""A Ray cluster of several nodes on this machine, and the processes of its workers, to be killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from support.guard import wait_until


class Cluster:
    """Nodes come and go; each has processors for one worker or more. See cluster_server.py."""

    def __enter__(self) -> Self:
        here = Path(__file__).parent
        self._process = subprocess.Popen(
            [sys.executable, here / "cluster_server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(here.parent)},
        )
        self.nodes: list[str] = []
        self._leaving: list[str] = []
        self.address = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def add(self, cpus: int = 1) -> str:
        """A new node; its id."""
        self.nodes.append(self._ask(f"add {cpus}"))
        return self.nodes[-1]

    def remove(self, node: str) -> None:
        """Kills a node with all its processes."""
        self.nodes.remove(node)
        self._ask(f"remove {node}")

    def drain(self, node: str) -> None:
        """Says that a node will go, as a cloud does of a spot instance; nothing new is placed on it."""
        self.nodes.remove(node)
        self._leaving.append(self._ask(f"drain {node}"))

    def remove_drained(self) -> None:
        """Kills the nodes that were to go."""
        while self._leaving:
            self._ask(f"remove {self._leaving.pop()}")

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return self._find("ray::WorkerActor")

    def kill_worker(self) -> None:
        """Kills a worker's process once there is one."""
        wait_until(lambda: self.kill_if_any("worker"), lambda: "no worker was there")

    def kill_coordinator(self) -> None:
        """Kills the coordinator's process once there is one."""
        wait_until(lambda: self.kill_if_any("coordinator"), lambda: "no coordinator was there")

    def kill_if_any(self, what: str) -> bool:
        """Kills a worker or the coordinator; False where there is none."""
        found = self.workers() if what == "worker" else self._find("ray::Coordinator")
        for process in found[:1]:
            os.kill(process, signal.SIGKILL)
        return bool(found)

    def wait_until_idle(self) -> None:
        """Returns when no process of a run is left on any node."""
        wait_until(
            lambda: not self.workers() and not self._find("ray::Coordinator"), lambda: "processes of a run live on"
        )

    def _find(self, title: str) -> list[int]:
        """Process ids below the server, by what Ray has them say of themselves."""
        found, parents = [], {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if (folder / "cmdline").read_bytes().decode(errors="replace").startswith(title):
                    found.append(int(folder.name))
            except (OSError, IndexError):  # it has ended
                continue
        return sorted(process for process in found if self._is_mine(process, parents))

    def _is_mine(self, process: int, parents: dict[int, int]) -> bool:
        while process in parents and process != self._process.pid:
            process = parents[process]
        return process == self._process.pid

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster's server has ended"
        return line
