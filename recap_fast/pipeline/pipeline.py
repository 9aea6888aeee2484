"""Joins the four stages: shards -> decode -> generate -> write. The only file that knows them all.

Three threads read, decode and write; the caller's thread runs the engine. The queues between them are bounded, and so
is what has been read but not yet written in order, so memory does not depend on the size of a shard or their number.
The batch never drains between images or shards: requests of several shards are in flight at once, and a shard is
finished when its last row is there.
"""

import dataclasses
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from recap_fast.decode.decoder import Decoder
from recap_fast.errors import RecapError, StoppedError
from recap_fast.generate.engine import Engine
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.pipeline.counters import Progress
from recap_fast.records import GENERATION_ERROR, OK, Completion, ImageOutcome, Request, Sample, Shard, ShardReport
from recap_fast.shards.reader import ShardReader
from recap_fast.write.assembly import Assembly, EndOfShard, OpenShard, Ticket
from recap_fast.write.captions import Detokenize, Finished
from recap_fast.write.ledger import Ledger
from recap_fast.write.shard_writer import ShardWriter

logger = logging.getLogger(__name__)

DECODE_BATCH = 32
"""Images decoded at once. The pixels that wait for the engine are those of four batches at most, 128 images or 43 MB at
336 px, in the memory that the decoder left them in; beside them, those of requests that the engine has taken and not
yet prefilled, one a slot at most."""
FIRST_BATCH = 8
"""The first batches are smaller, so that the engine has something to do early."""
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The parts that a run is made of."""

    open_shard: Callable[[Shard], ShardReader]
    decoder: Decoder
    prompts: PromptEncoder
    engine: Engine
    detokenize: Detokenize
    ledger: Ledger
    max_new_tokens: Callable[[Sample], int]
    """How long a sample's caption may get."""


class Pipeline:
    """One run over a list of shards on one engine."""

    def __init__(self, stages: Stages, progress: Progress, *, limit: int | None = None, window: int = 1024):
        """`limit`: stop after so many samples. `window`: samples read and not yet written in order, at most."""
        self._stages = stages
        self._progress = progress
        self._limit = limit
        self._window = threading.BoundedSemaphore(window)
        self._samples: queue.Queue[Ticket | None] = queue.Queue(4 * DECODE_BATCH)
        self._ready: queue.Queue[tuple[Ticket, Request] | None] = queue.Queue(2 * DECODE_BATCH)
        self._rows: queue.Queue[tuple[Ticket, Finished] | EndOfShard | None] = queue.Queue(4 * DECODE_BATCH)
        self._assembly = Assembly(stages.ledger, progress, self._window.release)
        self._stop = threading.Event()
        self._deadline = float("inf")
        self._drained = False
        self._num_read = 0
        self._next_id = 0
        self._in_flight: dict[int, tuple[Ticket, float]] = {}
        """Requests in the engine, with `_shared_s` of when they joined."""
        self._shared_s = 0.0
        """Sum over the steps of their seconds, shared equally among the requests in each."""
        self._threads: list[Future[None]] = []

    def drain(self, seconds: float) -> None:
        """Takes no new work; what is in flight may finish within so many seconds.

        Signal handlers may call it: it takes no lock, which the interrupted thread could hold.
        """
        self._deadline = time.monotonic() + seconds
        self._drained = True

    @property
    def drained(self) -> bool:
        """Whether `drain` was called."""
        return self._drained

    @property
    def stopping(self) -> bool:
        """Whether no new work is taken any more."""
        return self._stop.is_set()

    def run(self, shards: Sequence[Shard]) -> list[ShardReport]:
        """Captions the shards and reports on each. Raises EngineError, and OSError where output cannot be written."""
        with ThreadPoolExecutor(3, "recap") as pool:
            writing = pool.submit(self._write)
            feeding = [pool.submit(self._read, shards), pool.submit(self._decode)]
            self._threads = [writing, *feeding]
            try:
                self._generate()
            finally:  # also after an error: what is finished goes to disk
                self._stop.set()
                for thread in feeding:
                    thread.exception()  # waits for its end
                self._put(self._rows, None)
            for thread in (*feeding, writing):
                thread.result()
        return self._assembly.reports

    # -- reading: shards -> samples ------------------------------------------------------------------------------------

    def _read(self, shards: Iterable[Shard]) -> None:
        for shard in shards:
            if self._stop.is_set() or self._num_read == self._limit:
                break
            self._read_shard(shard)
        self._put(self._samples, None)

    def _read_shard(self, shard: Shard) -> None:
        opened: OpenShard | None = None
        whole, total, problem = True, 0, None
        try:
            with self._stages.open_shard(shard) as reader:
                opened, samples = self._begin(shard, reader)
                for sample in self._progress.timed("read", samples, opened.spend):
                    if self._num_read == self._limit or not self._enter(Ticket(opened, total, sample)):
                        whole = False
                        break
                    total += 1
                problem = reader.problem
        except StoppedError:
            return  # before it was opened: as if not begun
        except Exception as error:  # the shard boundary: no shard, however broken, ends the run
            known = isinstance(error, RecapError | OSError)
            problem = str(error) if known else f"{type(error).__name__}: {error}"
            logger.warning("shard %s: %s", shard.name, problem, exc_info=not known)
        self._put(self._rows, EndOfShard(shard, opened, total, whole, problem))

    def _begin(self, shard: Shard, reader: ShardReader) -> tuple[OpenShard, Iterable[Sample]]:
        ledger = self._stages.ledger
        found = ledger.progress(shard, reader.identity)
        writer = ShardWriter(
            ledger.output_path(shard),
            lambda first, last: ledger.stretch_path(shard, first, last),
            self._stages.detokenize,
            kept=found.kept,
            metadata=ledger.file_metadata(shard, reader.identity),
        )
        self._progress.start_shard(reader.num_samples, len(found.done))
        return OpenShard(shard, reader.identity, writer, time.monotonic()), reader.samples(found.done)

    def _enter(self, ticket: Ticket) -> bool:
        """Sends a sample on its way; False where the run is stopping."""
        while not self._window.acquire(timeout=POLL_S):
            if self._stop.is_set():
                return False
        self._num_read += 1
        return self._put(self._samples, ticket)

    # -- decoding: samples -> requests ---------------------------------------------------------------------------------

    def _decode(self) -> None:
        open_, size = True, FIRST_BATCH
        while open_ and not self._stop.is_set():
            tickets, open_ = self._next_batch(size)
            if tickets:
                self._decode_batch(tickets)
                size = min(2 * size, DECODE_BATCH)
        self._put(self._ready, None)

    def _next_batch(self, size: int) -> tuple[list[Ticket], bool]:
        """Waits for a sample, then takes as many more as there are, up to a batch; False at the end of the input."""
        tickets: list[Ticket] = []
        while len(tickets) < size:
            try:
                ticket = self._samples.get(timeout=POLL_S) if not tickets else self._samples.get_nowait()
            except queue.Empty:
                break
            if ticket is None:
                return tickets, False
            tickets.append(ticket)
        return tickets, True

    def _decode_batch(self, tickets: list[Ticket]) -> None:
        images = [t.sample.image for t in tickets if t.sample.status == OK]
        start = time.monotonic()
        with self._progress.busy("decode"):
            batch = self._stages.decoder.decode(images)
        share = (time.monotonic() - start) / len(tickets)
        decoded = iter(zip(batch.pixels, batch.outcomes, strict=True))
        for ticket in tickets:
            ticket.shard.spend("decode", share)
            pixels, outcome = next(decoded) if ticket.sample.status == OK else (None, ImageOutcome())
            sample = dataclasses.replace(ticket.sample, image=b"")
            if pixels is None or outcome.status != OK:
                failed = dataclasses.replace(ticket, sample=sample, outcome=outcome)
                self._put(self._rows, (failed, Finished(sample, outcome, None)))
                continue
            text_ids, warning = self._stages.prompts.text_ids(_fields(sample))
            request = Request(self._next_id, pixels, text_ids, self._stages.max_new_tokens(sample), _noise_key(sample))
            self._next_id += 1
            encoded = dataclasses.replace(ticket, sample=sample, outcome=outcome, warning=warning)
            self._put(self._ready, (encoded, request))

    # -- generating: requests -> completions ---------------------------------------------------------------------------

    def _generate(self) -> None:
        engine, open_ = self._stages.engine, True
        while time.monotonic() < self._deadline:
            if any(thread.done() and thread.exception() for thread in self._threads):
                return
            if self._drained:
                self._stop.set()
                open_ = False
            if open_:
                open_ = self._fill(engine)
            if not self._in_flight:
                if not open_:
                    return
                continue
            start = time.monotonic()
            with self._progress.busy("generate"):
                completions = engine.step()
            self._shared_s += (time.monotonic() - start) / len(self._in_flight)
            for completion in completions:
                ticket, joined_s = self._in_flight.pop(completion.id)
                ticket.shard.spend("generate", self._shared_s - joined_s)
                self._put(self._rows, (ticket, _finish(ticket, completion)))

    def _fill(self, engine: Engine) -> bool:
        """Gives the engine what it has room for and what is there; waits only if it has nothing to do."""
        for _ in range(engine.free_slots):
            try:
                item = self._ready.get_nowait() if self._in_flight else self._ready.get(timeout=POLL_S)
            except queue.Empty:
                break
            if item is None:
                return False
            ticket, request = item
            engine.submit([request])
            self._in_flight[request.id] = (ticket, self._shared_s)
        return True

    # -- writing: completions -> rows on disk --------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            try:
                item = self._rows.get(timeout=1.0)
            except queue.Empty:
                self._assembly.flush_old()
                continue
            if item is None:
                break
            with self._progress.busy("write"):
                if isinstance(item, EndOfShard):
                    self._assembly.end(item)
                else:
                    self._assembly.add(*item)
        self._assembly.close()

    def _put(self, target: "queue.Queue[Any]", item: object) -> bool:
        """Puts an item in a bounded queue; gives up, False, where nobody will take it any more.

        The writing thread takes all there is until its end; the others stop when the run does.
        """
        while True:
            try:
                target.put(item, timeout=POLL_S)
            except queue.Full:
                if self._threads[0].done() if target is self._rows else self._stop.is_set():
                    return False
            else:
                return True


def _finish(ticket: Ticket, completion: Completion) -> Finished:
    """A request that the engine has failed on is a row without a caption, with the reason."""
    if completion.error is None:
        return Finished(ticket.sample, ticket.outcome, completion, ticket.warning)
    outcome = dataclasses.replace(ticket.outcome, status=GENERATION_ERROR, error=completion.error)
    return Finished(ticket.sample, outcome, None, ticket.warning)


def _fields(sample: Sample) -> dict[str, str | None]:
    return {name: getattr(sample, name) for name in ("org_caption", "key", "url", "uid", "sha256")}


def _noise_key(sample: Sample) -> int:
    """What names a sample's random numbers: 64 bits of (shard, index)."""
    digest = hashlib.blake2b(f"{sample.shard}\0{sample.index}".encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
