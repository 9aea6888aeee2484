"""The executor behind the fake: requests of ids and prompt tables run within an engine's limits, in flight."""

import json
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch

from trtllm_fake.contract import HeldValues, wrap
from trtllm_fake.engine_flow import Flow
from trtllm_fake.llama import DTYPES, Checkpoint, Running, Sampler, TrapError, embed, forward
from trtllm_fake.loop import Job, Loop

EXECUTOR = "tensorrt_llm.bindings.executor"


class Response(Flow):
    """Of the executor: asking for what it does not hold raises, as in C++."""

    def __init__(self, request_id: int, client_id: int | None, result: Any, error: str | None):
        self.request_id, self.client_id, self._result, self._error = request_id, client_id, result, error

    def has_error(self) -> bool:
        return self._error is not None

    @property
    def error_msg(self) -> str:
        if self._error is None:
            raise RuntimeError("Cannot get error message: the response has none")
        return self._error

    @property
    def result(self) -> Any:
        if self._error is not None:
            raise RuntimeError(f"Cannot get result of a response with an error: {self._error}")
        return self._result


class Executor(Flow):
    """Runs requests with an engine's weights and within its limits."""

    def __init__(self, model_path: str | Path, model_type: Any, executor_config: Any):
        folder = Path(model_path)
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if content["version"] != self.faults.version:
            raise RuntimeError(f"engine of version {content['version']} on {self.faults.version}")
        if model_type.name != "DECODER_ONLY":
            raise RuntimeError(f"model_type {model_type} for a decoder")
        self._config, self._limits = executor_config, content["build_config"]
        self._dtype = DTYPES[content["pretrained_config"]["dtype"]]
        self._model = Checkpoint.load(folder / "rank0.engine").model(content["pretrained_config"]["dtype"])
        self._max_batch = self._within("max_batch_size")
        self._max_tokens = self._within("max_num_tokens")
        self._seen: dict[tuple[Any, ...], Any] = {}
        self._ready: list[Job] = []
        self._changed = threading.Condition()
        self._empty_polls = self.faults.empty_polls
        self._is_shut = False
        self._loop = Loop(self, self._max_batch, self.faults, self._deliver)

    def enqueue_request(self, request: Any) -> int:
        return self.enqueue_requests([request])[0]

    def enqueue_requests(self, requests: Sequence[Any]) -> list[int]:
        self._check_alive()
        return self._loop.submit(requests)

    def can_enqueue_requests(self) -> bool:
        return not (self._is_shut or self._loop.is_dead)

    def cancel_request(self, id: int | None) -> None:
        self._loop.cancel(id or 0)

    def get_num_responses_ready(self, id: int | None) -> int:
        with self._changed:
            return len([job for job in self._ready if id in (None, job.id)])

    def await_responses(
        self, timeout: timedelta | None = None, id: int | None = None, ids: Sequence[int] | None = None
    ) -> list[Any]:
        """What is ready, at the latest after `timeout`; without one it waits."""
        wanted = None if id is None and ids is None else {id, *(ids or ())}
        end = None if timeout is None else time.monotonic() + timeout.total_seconds()
        with self._changed:
            while True:
                found = [job for job in self._ready if wanted is None or job.id in wanted]
                if not found:
                    self._check_alive()
                if found and self._empty_polls and timeout is not None:
                    self._empty_polls -= 1
                    return []
                left = 0.05 if end is None else min(0.05, end - time.monotonic())
                if found or left <= 0:
                    break
                self._changed.wait(left)
            self._empty_polls = self.faults.empty_polls if found else self._empty_polls
            self._ready = [job for job in self._ready if job not in found]
        return [self._response(job) for job in found]

    def shutdown(self) -> None:
        self._is_shut = True
        self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, type: object, value: object, traceback: object) -> None:
        self.shutdown()

    def start(self, job: Job) -> Running:
        """Checks that concern this request alone (llmRequest.h, validate), and cuts max_tokens as it does."""
        request, limits = job.request, self._limits
        ids, table = request.input_token_ids, self._table(request)
        if len(ids) > limits["max_input_len"]:
            raise ValueError(
                f"Prompt length ({len(ids)}) exceeds maximum input length ({limits['max_input_len']}). Set log level "
                "to info and check TRTLLM logs for how maximum input length is set"
            )
        if table is not None and self._config.enable_chunked_context:
            raise TrapError("chunked context with a prompt table needs mm_embedding_offloading and pinned tables")
        image_ids = [i for i in ids if i >= self._model.config.vocab_size]
        if image_ids and (table is None or max(image_ids) >= self._model.config.vocab_size + len(table)):
            raise TrapError(f"id {max(image_ids)} is in neither the vocabulary nor the prompt table")
        job.extra["table"] = self._reused(request, table)
        config = request.sampling_config
        if config.beam_width != 1:
            raise ValueError("the fake has no beam search")
        return Running(
            max_tokens=min(request.max_tokens, limits["max_seq_len"] - len(ids)),
            end_id=request.end_id,
            stop_words=request.stop_words or (),
            sampler=Sampler(config.top_k, config.top_p, config.temperature, config.seed),
        )

    @torch.inference_mode()
    def advance(self, new: Sequence[Job], old: Sequence[Job]) -> None:
        """Prefills and decodes; the prompt tables are checked as promptTuningBuffers.cpp does."""
        if any(len(job.request.input_token_ids) > self._max_tokens for job in new):
            raise RuntimeError(f"the number of context tokens exceeds the limit value ({self._max_tokens})")
        for job in (*new, *old):
            assert job.running is not None
            if job in new:
                self._check_table(self._table(job.request))
                embeds = embed(self._model, job.request.input_token_ids, job.extra["table"])
            else:
                embeds = embed(self._model, job.running.tokens[-1:], None)
            job.running.take(forward(self._model, job.running, embeds), keep_end_id=False)

    def _within(self, name: str) -> int:
        """A limit of the run, which must be within the engine's."""
        built, asked = self._limits[name], getattr(self._config, name)
        if asked is not None and asked > built:
            raise RuntimeError(f"{name} {asked} of the executor is over {built} of the engine")
        return int(asked or built)

    def _table(self, request: Any) -> Any:
        return None if request.prompt_tuning_config is None else request.prompt_tuning_config.embedding_table

    def _check_table(self, table: Any) -> None:
        if table is None:
            return
        rows = self._limits["max_prompt_embedding_table_size"] // self._max_batch
        if len(table) > rows:
            raise RuntimeError(
                f"Prompt vocab size {len(table)} is larger than max prompt vocab size {rows}. Max prompt vocab size is "
                "computed from max_prompt_embedding_table_size / max_batch_size."
            )
        if table.dtype != self._dtype:
            raise RuntimeError("Request embedding table data type doesn't match model weight data type.")
        if table.ndim != 2 or table.shape[1] != self._model.config.hidden_size:
            raise RuntimeError(
                f"embedding table {list(table.shape)}: expected [rows, {self._model.config.hidden_size}]"
            )

    def _reused(self, request: Any, table: Any) -> Any:
        """With block reuse, the table of the first request of the same ids: another image's."""
        if table is None or not self._config.kv_cache_config.enable_block_reuse:
            return table
        extra = request.prompt_tuning_config.input_token_extra_ids
        return self._seen.setdefault((tuple(request.input_token_ids), tuple(extra or ())), table)

    def _deliver(self, job: Job) -> None:
        with self._changed:
            self._ready.append(job)
            self._changed.notify_all()

    def _check_alive(self) -> None:
        if self._loop.failure is not None:
            raise self._loop.failure
        if self._is_shut:
            raise RuntimeError("Shutdown called")
        if self._loop.is_dead and not self.faults.dies_silently:
            raise RuntimeError("the executor's worker has ended")

    def _response(self, job: Job) -> Any:
        objects, request = self.library.objects, job.request
        result = None
        if job.error is None and job.running is not None:
            tokens = list(job.running.tokens)
            if not request.output_config.exclude_input_from_output:
                tokens = [*request.input_token_ids, *tokens]
            values = dict.fromkeys(self.library.contract.entry(f"{EXECUTOR}.Result")["read"])
            reason = objects[f"{EXECUTOR}.FinishReason"][job.running.finish]
            values |= {"is_final": True, "is_sequence_final": True, "sequence_index": 0}
            values |= {"output_token_ids": [tokens], "finish_reasons": [reason], "decoding_iter": len(tokens)}
            result = wrap(objects[f"{EXECUTOR}.Result"], HeldValues(values))
        behind = Response(job.id, request.client_id, result, job.error)
        return wrap(objects[f"{EXECUTOR}.Response"], behind)


class PromptTuningConfig(Flow):
    """A table in one piece: the library takes its memory as it lies."""

    def __init__(self, embedding_table: Any, input_token_extra_ids: list[int] | None):
        if not embedding_table.is_contiguous():
            raise RuntimeError("the embedding table is not contiguous")
        self.embedding_table, self.input_token_extra_ids = embedding_table, input_token_extra_ids
