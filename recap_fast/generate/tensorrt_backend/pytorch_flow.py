"""Flow pytorch: the language model runs in TensorRT-LLM's PyTorch backend, with CUDA graphs and in-flight batching.

The library has no LLaVA-1.5, so two classes are registered from outside: a Llama that puts image embeddings where ids
are outside the vocabulary, and an input processor that passes ids and embeddings on. Read from 1.2.1 (see
docs/tensorrt_llm.md); TLLM_WORKER_USE_SINGLE_PROCESS must be 1 before this module is imported.
"""

import asyncio
import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensorrt_llm import LLM
from tensorrt_llm._torch.models.modeling_llama import LlamaForCausalLM
from tensorrt_llm._torch.models.modeling_multimodal_utils import fuse_input_embeds
from tensorrt_llm._torch.models.modeling_utils import register_auto_model
from tensorrt_llm.inputs.registry import (
    BaseMultimodalInputProcessor,
    MultimodalPlaceholderMetadata,
    MultimodalPlaceholderPlacement,
    register_input_processor,
)
from tensorrt_llm.llmapi import CudaGraphConfig, KvCacheConfig, RequestError, SamplingParams

from recap_fast.errors import EngineError
from recap_fast.generate.tensorrt_backend.manifest import ARCHITECTURE, MODEL_FOLDER
from recap_fast.generate.tensorrt_backend.session import KV_SHARE, Answer, Answers, Prompt, SessionOptions

IDS_KEY = "recap_token_ids"
"""Where our ids travel in the prompt: 1.2.1 drops embeddings that come with `prompt_token_ids`."""
ROUTING_PROMPT = "<image>"
"""Never tokenised; the library sends a prompt to the input processor only if there is text."""
Processed = tuple[list[int], dict[str, Any]]


class InputProcessor(BaseMultimodalInputProcessor):  # type: ignore[misc]
    """Passes on what `PytorchSession` has made: ids, and the embeddings for those outside the vocabulary."""

    def __init__(self, model_path: str, config: Any, tokenizer: Any, trust_remote_code: bool = True, **kwargs: Any):
        super().__init__(model_path, config, tokenizer, trust_remote_code, **kwargs)
        self._config, self._tokenizer = config, tokenizer

    @property
    def processor(self) -> None:
        """There is none: images are encoded before they come here."""

    @property
    def tokenizer(self) -> Any:
        """What the library has given."""
        return self._tokenizer

    @property
    def config(self) -> Any:
        """What the library has given."""
        return self._config

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model."""
        dtype: torch.dtype = self._config.torch_dtype
        return dtype

    def __call__(self, inputs: Mapping[str, Any], sampling_params: Any) -> Processed:
        """Text alone: nothing that recap-fast sends."""
        return inputs[IDS_KEY], {}

    def attach_multimodal_embeddings(
        self,
        inputs: Mapping[str, Any],
        multimodal_embedding: Mapping[str, Sequence[torch.Tensor]],
        sampling_params: Any,
    ) -> Processed:
        """The prompt's ids and its one image's embeddings [N, D]."""
        (table,) = multimodal_embedding["image"]
        return inputs[IDS_KEY], {"multimodal_data": {"multimodal_embedding": table}}


@register_auto_model(ARCHITECTURE)
@register_input_processor(
    InputProcessor,
    model_type="recap_llava",
    placeholder_metadata=MultimodalPlaceholderMetadata(
        placeholder_map={"image": "<image>"}, placeholder_placement=MultimodalPlaceholderPlacement.BEFORE_TEXT
    ),
)
class RecapLlavaForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """TensorRT-LLM's Llama, whose ids of vocab_size and above are rows of the requests' embeddings."""

    def forward(
        self,
        attn_metadata: Any,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        return_context_logits: bool = False,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Ids [rows] of all requests of a step, prompts first; only these have an image to put in."""
        params = kwargs.pop("multimodal_params", [])[: attn_metadata.num_contexts]
        tables = [table for p in params if (table := p.multimodal_data.get("multimodal_embedding")) is not None]
        if tables:
            input_ids, inputs_embeds = fuse_input_embeds(self.model.embed_tokens, input_ids, tables)
        logits: torch.Tensor = super().forward(
            attn_metadata, input_ids, position_ids, inputs_embeds, return_context_logits, **kwargs
        )
        return logits


class PytorchSession:
    """The LLM with its worker in this process, and a thread in whose event loop every request is awaited."""

    def __init__(self, options: SessionOptions, answers: Answers):
        """Loads the weights and captures the graphs. Raises EngineError where that fails."""
        self._answers, self._options = answers, options
        try:
            self._llm = LLM(**_arguments(options))
        except (RuntimeError, ValueError, MemoryError, AssertionError) as error:
            raise EngineError(
                f"TensorRT-LLM's LLM does not start: {error}. If the GPU's memory is too small, lower --num-slots."
            ) from error
        if self._llm.args.kv_cache_config.enable_block_reuse:
            raise EngineError("TensorRT-LLM reuses blocks of keys and values: images would get each other's captions.")
        self._runner = asyncio.Runner()
        self._loop, self._is_over = self._runner.get_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        """Held, for the loop itself does not."""
        self._thread = threading.Thread(target=self._serve, name="recap-llm", daemon=True)
        self._thread.start()

    def submit(self, prompt: Prompt) -> None:
        """Hands a prompt to the loop's thread."""
        self._loop.call_soon_threadsafe(self._begin, prompt)

    def close(self) -> None:
        """Ends the thread, then the LLM."""
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join()
        with contextlib.suppress(RuntimeError):  # it may have died before, and that was said
            self._llm.shutdown()

    def _serve(self) -> None:
        with self._runner:  # cancels what is still awaited
            self._runner.run(self._is_over.wait())

    def _begin(self, prompt: Prompt) -> None:
        task = self._loop.create_task(self._caption(prompt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _caption(self, prompt: Prompt) -> None:
        try:
            self._answers.put(await self._answer(prompt))
        except RequestError as error:
            self._answers.put(Answer(prompt.id, [], error=str(error)))
        except Exception as error:  # noqa: BLE001 - the thread's end: whatever it is, the engine's step raises it
            self._answers.put(EngineError(f"TensorRT-LLM's executor died: {error}"))

    async def _answer(self, prompt: Prompt) -> Answer:
        inputs = {
            "prompt": ROUTING_PROMPT,
            # CUDA memory cannot be handed to the process that it belongs to; the copy is 5 MB an image
            "multi_modal_embeddings": {"image": [prompt.table.cpu()]},
            IDS_KEY: prompt.token_ids,
        }
        output = await self._llm.generate_async(inputs, self._sampling_params(prompt)).aresult()
        (caption,) = output.outputs
        reason = caption.finish_reason
        if reason not in ("stop", "length"):
            return Answer(prompt.id, [], error=f"the request ended with {reason}, before its caption did")
        return Answer(prompt.id, list(caption.token_ids), reason == "stop")

    def _sampling_params(self, prompt: Prompt) -> Any:
        s, stops = self._options.sampling, list(self._options.stop_ids)
        end_id = stops.pop() if stops else -1  # without a tokenizer there must be one; -1 is no token
        drawn = {"top_k": s.top_k or None, "top_p": s.top_p, "temperature": s.temperature, "seed": prompt.seed}
        return SamplingParams(
            max_tokens=prompt.max_new_tokens,
            end_id=end_id,
            pad_id=end_id,
            stop_token_ids=stops or None,
            detokenize=False,
            **({"top_k": 1} if s.temperature == 0.0 else drawn),
        )


def _arguments(options: SessionOptions) -> dict[str, Any]:
    """Of LLM, which refuses those that it does not know. No block reuse and no chunks, for the reasons of flow trt."""
    manifest, limits = options.manifest, options.manifest.limits
    return {
        "model": str(options.folder / MODEL_FOLDER),
        "skip_tokenizer_init": True,
        "dtype": manifest.dtype,
        "max_batch_size": options.num_slots,
        "max_input_len": limits.max_input_len,
        "max_seq_len": limits.max_seq_len,
        "max_num_tokens": limits.max_num_tokens,
        "enable_chunked_prefill": False,
        "kv_cache_config": KvCacheConfig(
            enable_block_reuse=False,
            free_gpu_memory_fraction=KV_SHARE,
            dtype="fp8" if manifest.kv_cache_quant_algo else "auto",
        ),
        "cuda_graph_config": CudaGraphConfig(max_batch_size=options.num_slots, enable_padding=True),
    }
