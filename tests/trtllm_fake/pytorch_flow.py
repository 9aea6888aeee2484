"""The PyTorch flow behind the fake: registries, the routing of prompts as in 1.2.1, and a loop that calls the model."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from trtllm_fake.contract import HeldValues, wrap
from trtllm_fake.engine_flow import Flow
from trtllm_fake.llama import DTYPES, Checkpoint, Running, Sampler, TrapError
from trtllm_fake.loop import Job, Loop
from trtllm_fake.output import Output

SINGLE_PROCESS = "TLLM_WORKER_USE_SINGLE_PROCESS"
LLMAPI = "tensorrt_llm.llmapi"
REASONS = {"END_ID": "stop", "STOP_WORDS": "stop", "LENGTH": "length", "CANCELLED": "cancelled"}


class Registries:
    """Model classes by architecture, input processors by model class."""

    def __init__(self) -> None:
        self.models: dict[str, type] = {}
        self.processors: dict[type, type] = {}
        self.is_single_process = os.environ.get(SINGLE_PROCESS) == "1"
        """Read once, when the package is imported."""

    def register_auto_model(self, name: str) -> Callable[[type], type]:
        def register(model: type) -> type:
            self.models[name] = model
            return model

        return register

    def register_input_processor(
        self, processor_cls: type, model_type: str, placeholder_metadata: Any
    ) -> Callable[[type], type]:
        if placeholder_metadata is None:
            raise ValueError(f"A valid placeholder_metadata must be provided but got {placeholder_metadata}")

        def register(model: type) -> type:
            self.processors[model] = processor_cls
            return model

        return register


class Llm(Flow):
    """LLM: one model, its input processor and its loop."""

    registries: Registries

    def __init__(self, **options: Any):
        self._check(options)
        self.args = HeldValues(options)
        self.tokenizer = None
        folder = Path(options["model"])
        checkpoint = Checkpoint.read(folder)
        (architecture,) = checkpoint.config["architectures"]
        if architecture not in self.registries.models:
            raise ValueError(f"Unknown architecture for AutoModelForCausalLM: {architecture}")
        model_class = self.registries.models[architecture]
        self._model = self._load(model_class, checkpoint, folder, options["dtype"])
        processor = self.registries.processors.get(model_class)
        self.input_processor = (
            processor(str(folder), self._model.config, None, trust_remote_code=True) if processor else None
        )
        self._seen: dict[tuple[int, ...], Any] = {}
        self._is_shut = False
        self._warm_up()
        self._loop = Loop(self, options["max_batch_size"], self.faults, self._deliver)

    def generate_async(self, inputs: Any, sampling_params: Any, streaming: bool, **others: Any) -> Any:
        """Routes a prompt (README of the facts, 2.3) and hands it to the loop."""
        if self._is_shut or self._loop.is_dead:
            raise self._loop.failure or RuntimeError("LLM is shutting down")
        if streaming or any(value is not None for value in others.values()):
            raise TrapError(f"the fake has none of this: streaming={streaming}, {others}")
        if sampling_params is None or sampling_params.end_id is None:
            raise ValueError(
                "tokenizer is required to reset end_id if it is None, or you can explicitly specify the end_id for "
                "sampling_params"
            )
        ids, params = self._preprocess(inputs, sampling_params)
        if len(ids) > self.args.max_num_tokens:
            raise ValueError(
                f"The sum of prompt length ({float(len(ids))}), query length (0) should not exceed max_num_tokens "
                f"({self.args.max_num_tokens})"
            )
        output = Output(self, inputs.get("prompt") if isinstance(inputs, dict) else None, ids, sampling_params)
        request = HeldValues({"ids": ids, "params": params, "sampling": sampling_params, "output": output})
        (output.request_id,) = self._loop.submit([request])
        return wrap(self.library.objects[f"{LLMAPI}.RequestOutput"], output)

    def shutdown(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
        self.shutdown()

    def start(self, job: Job) -> Running:
        """What the loop needs of a request; with block reuse it gets the embeddings of the first of the same ids."""
        request = job.request
        room = (self.args.max_seq_len or self._model.config.max_position_embeddings) - len(request.ids)
        if room < 1:
            raise ValueError(f"a prompt of {len(request.ids)} tokens leaves no room below max_seq_len")
        if request.params is not None and self.args.kv_cache_config.enable_block_reuse:
            request.params = self._seen.setdefault(tuple(request.ids), request.params)
        sampling = request.sampling
        return Running(
            max_tokens=min(sampling.max_tokens, room),
            end_id=None if sampling.ignore_eos else sampling.end_id,
            stop_words=[[i] for i in sampling.stop_token_ids or ()],
            sampler=Sampler(sampling.top_k, sampling.top_p, sampling.temperature, sampling.seed),
        )

    def advance(self, new: Sequence[Job], old: Sequence[Job]) -> None:
        """One call of the model: rows of the prompts first, then one row of each that runs."""
        rows = [list(job.request.ids) for job in new]
        rows += [job.running.tokens[-1:] for job in old if job.running]
        starts = [0] * len(new) + [len(j.request.ids) + len(j.running.tokens) - 1 for j in old if j.running]
        jobs = [*new, *old]
        params = [job.request.params for job in jobs if job.request.params is not None]
        try:
            logits = self._call([job.running for job in jobs], rows, starts, len(new), params)
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        for job, row in zip(jobs, logits, strict=True):
            assert job.running is not None
            job.running.take(row, keep_end_id=self.faults.keep_end_id)

    def completion(self, job: Job, sampling: Any) -> Any:
        """CompletionOutput of a job that has ended; stop words are taken off, end_id is not."""
        assert job.running is not None
        tokens, stop_reason = list(job.running.tokens), None
        if job.running.finish == "STOP_WORDS":
            stop_reason = tokens[-1]
            tokens = tokens if sampling.include_stop_str_in_output else tokens[:-1]
        names = self.library.contract.entry(f"{LLMAPI}.CompletionOutput")["read"]
        values = dict.fromkeys(names) | {"index": 0, "text": "", "token_ids": tokens, "length": len(tokens)}
        values |= {"finish_reason": REASONS[job.running.finish or ""], "stop_reason": stop_reason}
        return wrap(self.library.objects[f"{LLMAPI}.CompletionOutput"], HeldValues(values))

    def cancel(self, request_id: int) -> None:
        self._loop.cancel(request_id)

    def error(self, message: str) -> BaseException:
        """RequestError with a message."""
        made: BaseException = self.library.objects[f"{LLMAPI}.RequestError"](message)
        return made

    @property
    def failure(self) -> BaseException | None:
        """Why nothing more will come."""
        if self._loop.failure is not None:
            return self._loop.failure
        is_known = self._loop.is_dead and not self.faults.dies_silently
        return RuntimeError("the worker has ended") if is_known else None

    def _check(self, options: Mapping[str, Any]) -> None:
        """Raises for what the library refuses, or what a user would regret."""
        if options["backend"] not in (None, "pytorch"):
            raise ValueError(f"backend={options['backend']!r} is not the PyTorch flow")
        graphs = options["cuda_graph_config"]
        if graphs is not None and graphs.batch_sizes and graphs.max_batch_size:
            raise ValueError("CudaGraphConfig: set only one of batch_sizes and max_batch_size")
        if not options["skip_tokenizer_init"]:
            raise TrapError("skip_tokenizer_init is False: the library would look for a tokenizer in the directory")
        if not self.registries.is_single_process:
            raise TrapError(f"{SINGLE_PROCESS} was not 1 at the import: a worker process knows no registered class")
        if options["enable_chunked_prefill"]:
            raise TrapError("chunked prefill cuts the image's rows apart")

    def _load(self, model_class: type, checkpoint: Checkpoint, folder: Path, dtype: str) -> Any:
        from transformers import LlamaConfig

        quant = folder / "hf_quant_config.json"
        if quant.is_file() and json.loads(quant.read_text())["quantization"]["quant_algo"] == "FP8":
            checkpoint = checkpoint.in_fp8()
        config = wrap(
            self.library.objects["tensorrt_llm._torch.model_config.ModelConfig"],
            HeldValues({"pretrained_config": LlamaConfig(**checkpoint.config), "mapping": None, "quant_config": None}),
        )
        model = model_class(config)
        model.load_weights(checkpoint.tensors)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(DTYPES[checkpoint.dtype(dtype)])
        return model

    def _warm_up(self) -> None:
        """A prompt without an image and a step of decoding, before any request."""
        running = Running(max_tokens=1, end_id=None, stop_words=(), sampler=Sampler())
        self._call([running], [[0] * 8], [0], 1, [])
        self._call([running], [[0]], [8], 0, [])

    @torch.inference_mode()
    def _call(
        self, running: Sequence[Any], rows: Sequence[Sequence[int]], starts: Sequence[int], contexts: int, params: Any
    ) -> Tensor:
        lengths = [len(row) for row in rows]
        values = {
            "num_contexts": contexts,
            "num_generations": len(rows) - contexts,
            "num_seqs": len(rows),
            "num_tokens": sum(lengths),
            "seq_lens": torch.tensor(lengths),
            "padded_num_tokens": None,
            "sequences": list(running),
        }
        metadata = self.library.objects["tensorrt_llm._torch.attention_backend.AttentionMetadata"]
        positions = [s + i for s, n in zip(starts, lengths, strict=True) for i in range(n)]
        logits: Tensor = self._model.forward(
            attn_metadata=wrap(metadata, HeldValues(values)),
            input_ids=torch.tensor([i for row in rows for i in row], dtype=torch.int32),
            position_ids=torch.tensor([positions], dtype=torch.int32),
            inputs_embeds=None,
            return_context_logits=False,
            multimodal_params=params,
        )
        return logits

    def _preprocess(self, inputs: Any, sampling: Any) -> tuple[list[int], Any]:
        """Ids and MultimodalParams, by the order in which 1.2.1 looks at a prompt's keys."""
        if isinstance(inputs, list):
            inputs = {"prompt_token_ids": inputs}
        if not isinstance(inputs, dict):
            raise TypeError(f"The inputs must be type str or list of int, but got {type(inputs)}")
        is_image = "multi_modal_data" in inputs or "multi_modal_embeddings" in inputs
        if not inputs.get("prompt") and inputs.get("prompt_token_ids") and is_image and self.input_processor:
            raise TrapError("token ids with multimodal inputs: 1.2.1 decodes them to text and drops the embeddings")
        if "prompt_token_ids" in inputs:
            return inputs["prompt_token_ids"], None
        if "prompt" not in inputs:
            raise TypeError(f"The inputs must be type str or list of int, but got {type(inputs)}")
        if self.input_processor is None:
            raise TrapError("no input processor is registered for the class: DefaultInputProcessor takes no embeddings")
        if "multi_modal_data" in inputs or "multi_modal_embeddings" not in inputs:
            ids, extra = self.input_processor(inputs, sampling)
        else:
            given = inputs["multi_modal_embeddings"]
            ids, extra = self.input_processor.attach_multimodal_embeddings(inputs, given, sampling)
        return check_ids(ids), self._params(extra)

    def _params(self, extra: Mapping[str, Any] | None) -> Any:
        if not extra:
            return None
        data = extra.get("multimodal_data")
        table = (data or {}).get("multimodal_embedding")
        if table is None or table.ndim != 2:
            raise TrapError(f"multimodal_embedding is {table!r}: [rows, D] is wanted")
        if table.device.type != "cpu":
            raise TrapError("a CUDA tensor's handle cannot be opened by the process that made it: give CPU tensors")
        made: Any = self.library.objects["tensorrt_llm.inputs.multimodal.MultimodalParams"]
        return made(multimodal_input=extra.get("multimodal_input"), multimodal_data=data)

    def _deliver(self, job: Job) -> None:
        job.request.output.put(job)


def check_ids(ids: Any) -> list[int]:
    """Raises TypeError for what is no list of Python's own integers."""
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise TypeError(f"the input processor gave {type(ids).__name__}, not a list of int")
    return ids
