"""TensorRT-LLM's C++ executor runs a compiled engine with in-flight batching.

An image comes as a prompt table: `PromptTuningConfig(embedding_table=[N, D])`, and its ids, vocab_size and above, say
which row stands where. All names are those of TensorRT-LLM 1.2.1; tests/support/tensorrt_fake says where each was read.
"""

import contextlib
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tensorrt_llm.bindings import executor as trt

from recap_fast.errors import EngineError
from recap_fast.generate.engine import Sampling
from recap_fast.generate.tensorrt_backend.compatibility import BuiltLimits, check_taken
from recap_fast.generate.tensorrt_backend.session import Answer, Answers, Prompt

POLL = timedelta(milliseconds=100)
KV_SHARE = 0.85
"""Of the memory that is free once tower and language model are loaded, for keys and values; the rest is for the image
embeddings in flight and the tower's activations."""


class TrtSession:
    """The C++ executor, and a thread that waits for its responses."""

    def __init__(
        self,
        model: Path,
        limits: BuiltLimits,
        num_slots: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        answers: Answers,
    ):
        """Loads the compiled model of a folder, and fills `answers`. Raises EngineError if the executor does not start.

        `limits` are the model's; `num_slots` prompts, at most the limits' batch, are generated at once.
        """
        self._answers, self._sampling = answers, sampling
        self._end_id = stop_ids[-1] if stop_ids else None
        self._stop_words = [[stop] for stop in stop_ids[:-1]] or None
        self._output = trt.OutputConfig(exclude_input_from_output=True)
        try:
            self._executor = trt.Executor(model, trt.ModelType.DECODER_ONLY, _config(limits, num_slots))
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EngineError(
                f"TensorRT-LLM's executor does not start: {error}. If the GPU's memory is too small, build the engine "
                "with fewer num_slots in its recipe's limits."
            ) from error
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="recap-trt", daemon=True)
        self._thread.start()

    def submit(self, prompt: Prompt) -> None:
        """Enqueues a request and returns at once. Raises EngineError where the executor takes no more."""
        request = trt.Request(
            prompt.token_ids,
            prompt.max_new_tokens,
            sampling_config=self._sampling_config(prompt.seed),
            output_config=self._output,
            end_id=self._end_id,
            pad_id=self._end_id,
            stop_words=self._stop_words,
            prompt_tuning_config=trt.PromptTuningConfig(embedding_table=prompt.table),
            client_id=prompt.id,
        )
        try:
            self._executor.enqueue_request(request)
        except RuntimeError as error:
            raise EngineError(f"TensorRT-LLM's executor takes no requests any more: {error}") from error

    def close(self) -> None:
        """Ends the thread, then the executor; what is in flight is dropped."""
        self._is_closing.set()
        self._thread.join()
        with contextlib.suppress(RuntimeError):  # it may have died before, and that was said
            self._executor.shutdown()

    def _sampling_config(self, seed: int) -> Any:
        """Greedy is said in so many words; where no `top_k` is asked for, `top_p` 1 stands for all tokens."""
        s = self._sampling
        if s.temperature == 0.0:
            return trt.SamplingConfig(top_k=1)
        return trt.SamplingConfig(top_k=s.top_k or None, top_p=s.top_p, temperature=s.temperature, seed=seed)

    def _poll(self) -> None:
        try:
            while not self._is_closing.is_set():
                responses = self._executor.await_responses(timeout=POLL)
                for response in responses:
                    self._answers.put(_answer(response))
                if not responses and not self._executor.can_enqueue_requests():
                    raise EngineError("it has stopped")  # noqa: TRY301 - as if it had said so
        except Exception as error:  # noqa: BLE001 - the thread's end: whatever it is, the engine's step raises it
            if not self._is_closing.is_set():
                self._answers.put(EngineError(f"TensorRT-LLM's executor died: {error}"))


def _config(limits: BuiltLimits, num_slots: int) -> Any:
    """The executor's options, set by attribute and read back.

    Block reuse would give an image the keys and values of another one, for the ids of all images are the same; in
    chunks of context the rows of a table do not come right.
    """
    config = trt.ExecutorConfig()
    wanted = {
        "max_beam_width": 1,
        "enable_chunked_context": False,
        "max_batch_size": num_slots,
        "max_num_tokens": limits.max_num_tokens,
    }
    for name, value in wanted.items():
        setattr(config, name, value)
    config.kv_cache_config = trt.KvCacheConfig(enable_block_reuse=False, free_gpu_memory_fraction=KV_SHARE)
    check_taken("ExecutorConfig", config, wanted)
    check_taken("KvCacheConfig", config.kv_cache_config, {"enable_block_reuse": False})
    return config


def _answer(response: Any) -> Answer:
    """Of a response: without streaming, a request has one."""
    if response.has_error():
        return Answer(response.client_id, [], error=response.error_msg)
    result, reasons = response.result, trt.FinishReason
    (ids,), (reason,) = result.output_token_ids, result.finish_reasons
    if not result.is_final or reason not in (reasons.END_ID, reasons.STOP_WORDS, reasons.LENGTH):
        return Answer(response.client_id, [], error=f"the request ended with {reason}, before its caption did")
    return Answer(response.client_id, list(ids), reason != reasons.LENGTH)
