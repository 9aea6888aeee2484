"""What `LLM.generate_async` gives back: an answer that is looked at in `result` and `aresult`, and not before."""

import asyncio
import queue
import time
from collections.abc import Generator, Sequence
from typing import Any

from trtllm_fake.loop import Job

SLICE_S = 0.05
"""How long a wait goes on before it is seen that the worker has ended."""


class Output:
    """RequestOutput. `finished` turns True where the answer is taken, as in executor/result.py."""

    def __init__(self, llm: Any, prompt: str | None, ids: Sequence[int], sampling: Any):
        self._llm, self._sampling = llm, sampling
        self.prompt, self.prompt_token_ids = prompt, list(ids)
        self.request_id = -1
        self.outputs: list[Any] = []
        self.context_logits = None
        self.finished = self._is_aborted = False
        self._queue: queue.Queue[Job] = queue.Queue()
        self._event = asyncio.Event()
        try:
            self._events: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._events = None

    def put(self, job: Job) -> None:
        """Called by the worker's thread."""
        self._queue.put(job)
        if self._events is not None and not self._events.is_closed():
            self._events.call_soon_threadsafe(self._event.set)

    def result(self, timeout: float | None) -> "Output":
        """Waits for the end. Raises queue.Empty after `timeout` seconds, RequestError for an answer with an error."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.finished:
            left = SLICE_S if end is None else min(SLICE_S, max(0.0, end - time.monotonic()))
            try:
                self._take(self._queue.get(timeout=left))
            except queue.Empty:
                self._check_alive()
                if end is not None and time.monotonic() >= end:
                    raise
        return self

    async def aresult(self) -> "Output":
        """The same, in the loop that ran when the request was made."""
        assert self._events is not None, "The asyncio event loop was not present during initialization"
        while not self.finished:
            try:
                await asyncio.wait_for(self._event.wait(), SLICE_S)
                self._take(self._queue.get_nowait())
            except TimeoutError:
                self._check_alive()
        return self

    def __await__(self) -> Generator[Any, None, Any]:
        return self.aresult().__await__()

    def abort(self) -> None:
        """Ends the request at its next token."""
        self._is_aborted = True
        self._llm.cancel(self.request_id)

    def aborted(self) -> bool:
        return self._is_aborted

    def _take(self, job: Job) -> None:
        self.finished = True
        if job.error is not None:
            raise self._llm.error(job.error)
        self.outputs = [self._llm.completion(job, self._sampling)]

    def _check_alive(self) -> None:
        if self._llm.failure is not None:
            raise self._llm.failure
