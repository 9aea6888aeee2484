"""One worker of a cluster: opens the engine and runs the ordinary pipeline over the shards that it is given."""

import logging
import time
from collections import deque
from collections.abc import Iterator

from recap_fast.atomic import owner
from recap_fast.captioner.captioner import Captioner
from recap_fast.errors import ConfigError, EngineError, InputError, OutputGoneError
from recap_fast.launch.cluster.link import Forwarding, Line, Link
from recap_fast.launch.cluster.protocol import Message, Tally
from recap_fast.launch.cluster.task import Outcome, Task
from recap_fast.launch.what_runs import find_device
from recap_fast.pipeline.channel import DECODE_BATCH
from recap_fast.pipeline.counters import RunCounters
from recap_fast.pipeline.pipeline import Pipeline
from recap_fast.records import Shard, ShardReport
from recap_fast.shards.patience import patience

logger = logging.getLogger(__name__)

ENOUGH_SLOTS = 4
"""A worker asks for a shard while the samples that it has are fewer than its slots times this and a batch to decode: as
many as its channels take, so that its engine stays full, and others get their share of small shards."""


class Worker:
    """One worker. `run` is called once; `drain` may be called by a signal handler meanwhile."""

    def __init__(self, task: Task, line: Line, name: str, node: str):
        """`name` is this worker's; `node` is the id of the node that it is on."""
        self._task, self._began = task, time.monotonic()
        message = Message(worker=name, node=node, owner=owner(), age_s=0.0)
        self._link = Link(line, message, lambda: time.monotonic() - self._began, self.drain)
        self._counters = _Counters(self._began)
        self._pipeline: Pipeline | None = None
        self._num_reported = 0
        self._deadline: float | None = None

    def drain(self, seconds: float) -> None:
        """Takes nothing new; captions in flight may be finished within so many seconds."""
        self._deadline = time.monotonic() + seconds
        self._link.end()
        if self._pipeline is not None:
            self._pipeline.drain(seconds)

    def run(self) -> Outcome:
        """Captions shards until none is left for this worker, or it is to end."""
        log = logging.getLogger("recap_fast")
        log.handlers, log.propagate = [Forwarding(self._link)], False
        with patience(self._task.config.read_timeout), self._link.beating():
            try:
                return self._caption()
            except (ConfigError, InputError, OutputGoneError) as error:
                return Outcome(error=error)
            except EngineError as error:
                return Outcome(failure=str(error))
            except Exception as error:
                logger.exception("a worker broke")
                return Outcome(failure=f"{type(error).__name__}: {error}")

    def _caption(self) -> Outcome:
        task = self._task
        captioner = Captioner(task.config)
        try:
            task.refuse_other_rows(captioner)
            captioner.check()
            captioner.start()
            device = find_device(captioner)
            self._link.describe(
                boot_s=time.monotonic() - self._began,
                engine=captioner.engine.describe(),
                device=device.name,
                is_gpu=device.is_gpu,
            )
            pipeline = task.make_pipeline(captioner, self._counters)
            self._link.new_reports, self._link.tally = lambda: self._new_reports(pipeline), self._counters.tally
            self._pipeline = pipeline
            if self._deadline is not None:  # in between
                pipeline.drain(self._deadline - time.monotonic())
            pipeline.run(self._shards(pipeline))
            return Outcome(statistics=captioner.statistics)
        finally:
            captioner.close()

    def _shards(self, pipeline: Pipeline) -> Iterator[Shard]:
        """The shards that are to be done; those that another worker did finish are reported at once."""
        ledger = self._task.ledger
        enough = ENOUGH_SLOTS * pipeline.generating.engine.free_slots + DECODE_BATCH
        for shard, answer in self._link.shards(lambda: self._num_waiting(pipeline) < enough):
            if answer.again:
                pipeline.decoding.notes.died(answer.dead)
                record = ledger.record(shard.name)
                if record is not None and not ledger.is_pending(shard):
                    self._link.report(record)
                    continue
            self._counters.expect(is_new=not answer.again)
            yield shard

    def _num_waiting(self, pipeline: Pipeline) -> int:
        """Samples that were read and are not finished."""
        return pipeline.reading.num_read - self._counters.snapshot().rows

    def _new_reports(self, pipeline: Pipeline) -> list[ShardReport]:
        new = list(pipeline.reports[self._num_reported :])
        self._num_reported += len(new)
        return new


class _Counters(RunCounters):
    """Counts apart what nobody in this run had opened before."""

    def __init__(self, held_since: float) -> None:
        super().__init__(0, held_since=held_since)
        self._are_new: deque[bool] = deque()
        """Of the shards that are yet to be opened, in order."""
        self._new_shards = self._new_rows = self._new_kept = 0

    def expect(self, *, is_new: bool) -> None:
        """A shard will be opened."""
        self._are_new.append(is_new)

    def start_shard(self, num_samples: int, num_done: int) -> None:
        super().start_shard(num_samples, num_done)
        self._note(num_samples, num_done)

    def skip_shard(self) -> None:
        super().skip_shard()
        self._note(0, 0)

    def tally(self) -> Tally:
        """What was counted so far."""
        return Tally(
            snapshot=self.snapshot(), new_shards=self._new_shards, new_rows=self._new_rows, kept=self._new_kept
        )

    def _note(self, num_samples: int, num_done: int) -> None:
        if self._are_new.popleft():
            self._new_shards += 1
            self._new_rows += num_samples
            self._new_kept += num_done
