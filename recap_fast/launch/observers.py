"""Who can see a run while it lasts, beside its reporter: `recap-fast status`, Prometheus, readers of metrics.jsonl."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from recap_fast.launch.metrics_file import metrics_file
from recap_fast.launch.metrics_server import MetricsServer
from recap_fast.launch.plan import Plan
from recap_fast.launch.reporter import Reporter
from recap_fast.launch.what_runs import build_info, find_device
from recap_fast.launch.work_log import Device, WorkLog
from recap_fast.machine import process_started
from recap_fast.pipeline.counters import Snapshot
from recap_fast.pipeline.pipeline import Pipeline
from recap_fast.write.at_work import at_work
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.workers import Work


class Observers:
    """Shows one run to them. Whoever makes it calls `close`."""

    def __init__(self, plan: Plan, reporter: Reporter, *, is_own_process: bool):
        """Takes the port for Prometheus, if there is to be one, and says which. Raises ConfigError.

        `is_own_process`: whether the process is there for this run alone.
        """
        self._plan = plan
        self.held_since = process_started() if is_own_process else time.monotonic()
        """When the process began to hold its device, by time.monotonic()."""
        port = plan.config.metrics_port
        self._server = None if port is None else MetricsServer(port)
        if self._server is not None:
            port = self._server.port
            reporter.event("metrics", f"metrics  http://{socket.gethostname()}:{port}/metrics", port=port)

    @contextlib.contextmanager
    def informed(self, output: OutputFolder, shards: list[str], read: Callable[[], Snapshot]) -> Iterator[None]:
        """Shows meanwhile that the process is there; `shards` are the names of those that are its own."""
        self._output, self._read = output, read
        self._log = WorkLog(read, self._plan.part)
        if self._server is not None:
            self._server.serve(read, build_info(self._plan))
        with at_work(output, shards, self._log.work) as self._write_note:
            yield

    def watching(self, pipeline: Pipeline) -> AbstractContextManager[None]:
        """Shows meanwhile what the pipeline does; only within `informed`, once the engine is open."""
        return self.recording(find_device(self._plan.captioner), lambda: pipeline.drained)

    @contextlib.contextmanager
    def recording(self, device: Device | None, is_stopping: Callable[[], bool]) -> Iterator[None]:
        """Shows meanwhile what is done on a device, here or elsewhere, if it is known; only within `informed`."""
        self._log.device = device
        self._log.find_state = lambda: "stopping" if is_stopping() else "running"
        self._write_note()
        part = self._plan.part
        with metrics_file(self._output.store, self._output.metrics(part), self._read, part):
            yield

    def found(self, device: Device) -> None:
        """Says what the workers run on, once one of them has said so; only within `recording`."""
        self._log.device = device
        self._write_note()

    def work(self) -> Work:
        """What the process has done so far; only within `informed`, or behind it."""
        return self._log.work()

    def close(self) -> None:
        """Gives the port back."""
        if self._server is not None:
            self._server.close()
