"""The least that a correct user of both flows does: what tests of the fake call it with.

The project's backend is another user, in recap_fast/generate/tensorrt_backend/, with tests of its own.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from support.engines import Pair
from torch import Tensor

from recap_fast.records import Request
from trtllm_fake.plain_llama import image_table

Prompt = tuple[Sequence[int], Sequence[int], Tensor, int]
"""Ids before the image, ids after it, its table [rows, D], and the most new tokens."""


def prompt_of(pair: Pair, request: Request) -> Prompt:
    """A request's prompt, its table from transformers' own tower and projector."""
    table = image_table(pair.model, pair.inputs(request.pixels, request.text_ids)["pixel_values"])
    return pair.prompts.prefix_ids.tolist(), request.text_ids.tolist(), table, request.max_new_tokens


def build_engine(llama: Path, folder: Path, num_rows: int, **changes: Any) -> Path:
    """Compiles a Llama for four requests of `num_rows` image tokens each; `changes` go to BuildConfig."""
    from tensorrt_llm.builder import BuildConfig, build
    from tensorrt_llm.models import LLaMAForCausalLM

    limits = {"max_batch_size": 4, "max_input_len": 256, "max_seq_len": 320, "max_num_tokens": 1024}
    values = {**limits, "max_prompt_embedding_table_size": 4 * num_rows, **changes}
    build(LLaMAForCausalLM.from_hugging_face(str(llama)), BuildConfig(**values)).save(str(folder))
    return folder


def open_executor(engine: Path, *, reuse: bool = False, **changes: Any) -> Any:
    """An executor; `changes` go to its configuration."""
    from tensorrt_llm.bindings import executor

    config = executor.ExecutorConfig(kv_cache_config=executor.KvCacheConfig(enable_block_reuse=reuse), **changes)
    return executor.Executor(engine, executor.ModelType.DECODER_ONLY, config)


def make_request(prompt: Prompt, vocab_size: int, client_id: int = 0, **changes: Any) -> Any:
    """A greedy request; `changes` go to Request."""
    from tensorrt_llm.bindings import executor

    before, after, table, max_tokens = prompt
    values = {
        "sampling_config": executor.SamplingConfig(top_k=1),
        "output_config": executor.OutputConfig(exclude_input_from_output=True),
        "prompt_tuning_config": executor.PromptTuningConfig(table),
        "client_id": client_id,
        **changes,
    }
    ids = [*before, *range(vocab_size, vocab_size + len(table)), *after]
    return executor.Request(ids, max_tokens, **values)


def await_all(running: Any, count: int) -> list[Any]:
    """As many responses, in the order in which they come."""
    responses: list[Any] = []
    while len(responses) < count:
        responses += running.await_responses(timeout=timedelta(milliseconds=100))
    return responses


def tokens_of(response: Any) -> list[int]:
    """The token ids of an executor's response, which must be one without an error."""
    assert not response.has_error(), response.error_msg
    (tokens,) = response.result.output_token_ids
    return list(tokens)


def register_classes() -> None:
    """A model class and an input processor for LLaVA, as the facts page describes them."""
    import tensorrt_llm.inputs.registry as registry
    from tensorrt_llm._torch.models.modeling_llama import LlamaForCausalLM
    from tensorrt_llm._torch.models.modeling_multimodal_utils import fuse_input_embeds
    from tensorrt_llm._torch.models.modeling_utils import register_auto_model

    class Processor(registry.BaseMultimodalInputProcessor):
        processor = tokenizer = config = dtype = None

        def __call__(self, inputs: Any, sampling_params: Any) -> Any:
            raise NotImplementedError

        def attach_multimodal_embeddings(self, inputs: Any, multimodal_embedding: Any, sampling_params: Any) -> Any:
            (table,) = multimodal_embedding["image"]
            return inputs["test_ids"], {"multimodal_data": {"multimodal_embedding": table}}

    class Llava(LlamaForCausalLM):  # type: ignore[misc]
        def forward(
            self,
            attn_metadata: Any,
            input_ids: Any = None,
            position_ids: Any = None,
            inputs_embeds: Any = None,
            return_context_logits: bool = False,
            **kwargs: Any,
        ) -> Any:
            params = kwargs.pop("multimodal_params", [])[: attn_metadata.num_contexts]
            tables = [p.multimodal_data["multimodal_embedding"] for p in params]
            input_ids, inputs_embeds = fuse_input_embeds(self.model.embed_tokens, input_ids, tables)
            return super().forward(attn_metadata, input_ids, position_ids, inputs_embeds, return_context_logits)

    where = registry.MultimodalPlaceholderPlacement.BEFORE_TEXT
    metadata = registry.MultimodalPlaceholderMetadata(placeholder_map={"image": "<image>"}, placeholder_placement=where)
    registered = registry.register_input_processor(Processor, model_type="test", placeholder_metadata=metadata)(Llava)
    register_auto_model("TestLlava")(registered)


def open_llm(llama: Path, *, reuse: bool = False, **changes: Any) -> Any:
    """An LLM of a directory whose architecture is TestLlava; `changes` go to its arguments."""
    import tensorrt_llm
    from tensorrt_llm import llmapi

    values = {
        "skip_tokenizer_init": True,
        "kv_cache_config": llmapi.KvCacheConfig(enable_block_reuse=reuse),
        "cuda_graph_config": llmapi.CudaGraphConfig(max_batch_size=4, enable_padding=True),
        "max_batch_size": 4,
        **changes,
    }
    return tensorrt_llm.LLM(model=str(llama), **values)


def generate(llm: Any, prompt: Prompt, vocab_size: int, **sampling: Any) -> Any:
    """Hands over one prompt; `sampling` goes to SamplingParams."""
    from tensorrt_llm.llmapi import SamplingParams

    before, after, table, max_tokens = prompt
    ids = [*before, *range(vocab_size, vocab_size + len(table)), *after]
    inputs = {"prompt": "<image>", "multi_modal_embeddings": {"image": [table]}, "test_ids": ids}
    params = SamplingParams(max_tokens=max_tokens, detokenize=False, **{"end_id": -1, **sampling})
    return llm.generate_async(inputs, params)
