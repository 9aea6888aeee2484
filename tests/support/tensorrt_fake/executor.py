"""`tensorrt_llm.bindings.executor`: requests of ids and prompt tables, answered within an engine's limits by a thread.

All is read from cpp/tensorrt_llm/nanobind/executor/{request,executor,executorConfig,bindings}.cpp, 1.2.
"""

import json
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path

from support.tensorrt_fake.llama import DTYPES, Checkpoint, embed, generate
from support.tensorrt_fake.strict import INSTALLED, Strict, TrapError, strict
from torch import Tensor

ON_DEMAND = "the fake was told to fail this request"


class ModelType(Enum):
    DECODER_ONLY = 0
    ENCODER_ONLY = 1
    ENCODER_DECODER = 2


class FinishReason(Enum):
    NOT_FINISHED = 0
    END_ID = 1
    STOP_WORDS = 2
    LENGTH = 3
    TIMED_OUT = 4
    CANCELLED = 5


@dataclass(slots=True, kw_only=True)
class KvCacheConfig(Strict):
    enable_block_reuse: bool = True
    free_gpu_memory_fraction: float | None = None


@dataclass(slots=True, kw_only=True)
class ExecutorConfig(Strict):
    """Of an executor; batches in flight are its default."""

    max_beam_width: int = 1
    kv_cache_config: KvCacheConfig = field(default_factory=KvCacheConfig)
    enable_chunked_context: bool = False
    max_batch_size: int | None = None
    max_num_tokens: int | None = None


@dataclass(slots=True, kw_only=True)
class SamplingConfig(Strict):
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None


@dataclass(slots=True, kw_only=True)
class OutputConfig(Strict):
    exclude_input_from_output: bool | None = None


@dataclass(slots=True)
class PromptTuningConfig(Strict):
    """A table [rows, D] in one piece: the library takes its memory as it lies."""

    embedding_table: Tensor

    def __post_init__(self) -> None:
        Strict.__post_init__(self)
        if not self.embedding_table.is_contiguous():
            raise RuntimeError("the embedding table is not contiguous")


@dataclass(slots=True)
class Request(Strict):
    """A prompt and what is wanted of it."""

    input_token_ids: list[int]
    max_tokens: int
    streaming: bool = field(default=False, kw_only=True)
    sampling_config: SamplingConfig = field(default_factory=SamplingConfig, kw_only=True)
    output_config: OutputConfig = field(default_factory=OutputConfig, kw_only=True)
    end_id: int | None = field(default=None, kw_only=True)
    pad_id: int | None = field(default=None, kw_only=True)
    stop_words: list[list[int]] | None = field(default=None, kw_only=True)
    prompt_tuning_config: PromptTuningConfig | None = field(default=None, kw_only=True)
    client_id: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Result:
    """Of a request that ended well: one sequence."""

    output_token_ids: list[list[int]]
    finish_reasons: list[FinishReason]
    is_final: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """Of a request: a result, or why there is none."""

    client_id: int | None
    result: Result | None = None
    error_msg: str | None = None

    def has_error(self) -> bool:
        return self.error_msg is not None


class Executor:
    """Runs requests with an engine's weights and within its limits, each to its end, every other one overtaken."""

    @strict
    def __init__(self, model_path: str | os.PathLike, model_type: ModelType, executor_config: ExecutorConfig):
        self._faults, self._config = INSTALLED[0].faults, executor_config
        content = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
        self._limits, dtype = content["build_config"], content["pretrained_config"]["dtype"]
        if content["version"] != self._faults.version:
            raise RuntimeError(f"engine of version {content['version']} on {self._faults.version}")
        if model_type is not ModelType.DECODER_ONLY:
            raise RuntimeError(f"model_type {model_type} for a decoder")
        self._max_batch = executor_config.max_batch_size or self._limits["max_batch_size"]
        self._max_tokens = executor_config.max_num_tokens or self._limits["max_num_tokens"]
        self._model, self._dtype = Checkpoint.load(Path(model_path) / "rank0.engine").model(dtype), DTYPES[dtype]
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Request]] = deque()
        self._ready: list[Response] = []
        self._seen: dict[tuple[int, ...], Tensor] = {}
        self._num_requests = self._num_answers = 0
        self._empty_polls = self._faults.empty_polls
        self._failure: Exception | None = None
        self._is_shut = self._is_dead = False
        self._thread = threading.Thread(target=self._run, name="fake executor", daemon=True)
        self._thread.start()

    @strict
    def enqueue_request(self, request: Request) -> int:
        with self._changed:
            self._check_alive()
            self._waiting.append((self._num_requests, request))
            self._num_requests += 1
            self._changed.notify_all()
            return self._num_requests

    def can_enqueue_requests(self) -> bool:
        return not (self._is_shut or self._is_dead)

    @strict
    def await_responses(self, timeout: timedelta) -> list[Response]:
        """What is ready, at the latest after `timeout`."""
        end = time.monotonic() + timeout.total_seconds()
        with self._changed:
            while not self._ready:
                self._check_alive()
                if not self._changed.wait(end - time.monotonic()):
                    return []
            if self._empty_polls:
                self._empty_polls -= 1
                return []
            self._empty_polls = self._faults.empty_polls
            found, self._ready = self._ready, []
            return found

    def shutdown(self) -> None:
        with self._changed:
            self._is_shut = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        overtaken: list[Response] = []
        try:
            while not self._is_dead:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._is_shut)
                    if self._is_shut:
                        return
                    number, request = self._waiting.popleft()
                    has_more = bool(self._waiting)
                answer = self._answer(number, request)
                if has_more and not overtaken:
                    overtaken.append(answer)
                    continue
                self._deliver([answer, *overtaken])
                overtaken.clear()
        except Exception as error:  # noqa: BLE001 - it is raised where the caller asks next
            with self._changed:
                self._failure, self._is_dead = error, True
                self._changed.notify_all()

    def _deliver(self, answers: list[Response]) -> None:
        with self._changed:
            for answer in answers:
                if not self._is_dead:
                    self._ready.append(answer)
                    self._num_answers += 1
                    self._is_dead = self._num_answers == self._faults.dies_after
            self._changed.notify_all()

    def _answer(self, number: int, request: Request) -> Response:
        if number in self._faults.failing:
            return Response(request.client_id, error_msg=ON_DEMAND)
        ids, tuning = request.input_token_ids, request.prompt_tuning_config
        table = None if tuning is None else tuning.embedding_table
        try:
            self._check(ids, table)
        except RuntimeError as error:
            return Response(request.client_id, error_msg=str(error))
        if table is not None and self._config.kv_cache_config.enable_block_reuse:
            table = self._seen.setdefault(tuple(ids), table)  # the first one with these ids: another image's
        longest = min(request.max_tokens, self._limits["max_seq_len"] - len(ids))
        tokens, reason = generate(self._model, embed(self._model, ids, table), request, longest)
        if not request.output_config.exclude_input_from_output:
            tokens = [*ids, *tokens]
        return Response(request.client_id, Result([tokens], [FinishReason[reason]]))

    def _check(self, ids: list[int], table: Tensor | None) -> None:
        """Raises RuntimeError as llmRequest.h and promptTuningBuffers.cpp do, TrapError for what they do not see."""
        vocab_size, width = self._model.config.vocab_size, self._model.config.hidden_size
        longest, num_rows = self._limits["max_input_len"], 0 if table is None else len(table)
        rows = self._limits["max_prompt_embedding_table_size"] // self._max_batch
        if len(ids) > longest:
            raise RuntimeError(f"Prompt length ({len(ids)}) exceeds maximum input length ({longest}).")
        if len(ids) > self._max_tokens:
            raise RuntimeError(f"the number of context tokens exceeds the limit value ({self._max_tokens})")
        if table is not None and self._config.enable_chunked_context:
            raise TrapError("chunked context with a prompt table needs mm_embedding_offloading and pinned tables")
        if max(ids) >= vocab_size + num_rows:
            raise TrapError(f"id {max(ids)} is in neither the vocabulary nor the prompt table")
        if num_rows > rows:
            raise RuntimeError(f"Prompt vocab size {num_rows} is larger than max prompt vocab size {rows}.")
        if table is not None and table.dtype != self._dtype:
            raise RuntimeError("Request embedding table data type doesn't match model weight data type.")
        if table is not None and table.shape[1:] != (width,):
            raise RuntimeError(f"embedding table {list(table.shape)}: expected [rows, {width}]")

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._is_shut:
            raise RuntimeError("Shutdown called")
        if self._is_dead and not self._faults.dies_silently:
            raise RuntimeError("the executor's worker has ended")
