"""`build-engine --backend tensorrt-llm`: the language model is compiled; vision tower and projector run in torch.

These are two parts of an engine directory; engine_directory.py writes the rest, as for every engine.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recap_fast.atomic import sha256_of
from recap_fast.build import calibration as texts
from recap_fast.build.checkpoint import Checkpoint
from recap_fast.build.tensorrt_split import add_tokenizer, neutral_folder, write_language_model
from recap_fast.build.weights import write_weights
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.layout import FusedTensor
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec
from recap_fast.generate.tensorrt_backend import compatibility
from recap_fast.generate.tensorrt_backend.compatibility import CONFIG_FILE, MODEL_FOLDER, BuiltLimits, Manifest
from recap_fast.generate.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from recap_fast.progress import OnProgress

logger = logging.getLogger(__name__)

MAX_BATCH = 128
"""Captions at once: the image embeddings of all of them are copied in every step, so more would be slow."""
STEP_TOKENS = 8192
"""Tokens of one step: thirteen prompts of 600 tokens. Larger products gain nothing."""


class TensorRTBuild:
    """One build. Its constructor checks all that can be checked before weights are read."""

    def __init__(
        self,
        spec: EngineSpec,
        checkpoint: Checkpoint,
        plan: Sequence[FusedTensor],
        tokenizer_file: Path,
        calibration: Path | None,
    ):
        """`spec` and `plan` are as for the torch backend; `calibration` holds captions, for FP8.

        Raises ConfigError where library, GPU or choices do not fit.
        """
        self._version, self._gpu = compatibility.require_library(), compatibility.find_gpu("auto")
        self._spec, self._checkpoint, self._plan = spec, checkpoint, plan
        self._tokenizer_file, self._tokenizer = tokenizer_file, load_tokenizer(tokenizer_file)
        _check_decoder(spec)
        _check_precision(spec, tokenizer_file, calibration)
        self._captions = [] if calibration is None else texts.read_captions(calibration)

    def write(self, folder: Path, output: Path, progress: "OnProgress") -> EngineSpec:
        """Writes weights and model into the folder, which will be called `output`, and returns the engine's spec.

        `progress` is about the language model's weights on their way to TensorRT-LLM. Raises EngineError where the
        library built something else than it was told.
        """
        model = folder / MODEL_FOLDER
        ours = [tensor for tensor in self._plan if not tensor.is_of_text]
        vision = write_weights(folder / WEIGHTS_FILE, ours, self._checkpoint, self._spec.compute_precision)
        limits = make_limits(self._spec, self._tokenizer)
        with neutral_folder(output) as staging:
            self._compile(staging, model, limits, progress)
        manifest = self._manifest(limits, model)
        files = {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(model.rglob("*")) if p.is_file()}
        return replace(
            self._spec,
            backend="tensorrt-llm",
            backend_data=asdict(manifest),
            limits=replace(self._spec.limits, num_slots=limits.max_batch_size),
            files={WEIGHTS_FILE: vision.sha256, **files},
            checksums=vision.checksums,
        )

    def _compile(self, staging: Path, model: Path, limits: BuiltLimits, progress: "OnProgress") -> None:
        with compatibility.importing():
            from recap_fast.build.tensorrt_compile import compile_model, load_model, quantize_model

        spec, llama = self._spec, staging / "lm"
        write_language_model(llama, spec, self._checkpoint, progress)
        logger.info("compiling with TensorRT-LLM %s on %s: some minutes", self._version, self._gpu.name)
        if spec.precision == "fp8":
            add_tokenizer(llama, self._tokenizer_file, *texts.find_ends(spec.prompt, self._tokenizer))
            conversations = texts.make_texts(self._captions, spec.prompt, self._tokenizer)
            texts.write_texts(staging / "texts", conversations)
            loaded = quantize_model(llama, staging / "fp8", spec, staging / "texts", len(conversations))
        else:
            loaded = load_model(llama, spec)
        compile_model(loaded, model, spec, limits, staging / "timing.cache")

    def _manifest(self, limits: BuiltLimits, model: Path) -> Manifest:
        """What was built. Raises EngineError where the engine's own config.json says that it is something else."""
        spec = self._spec
        manifest = Manifest(
            versions=compatibility.installed_versions(),
            gpu=self._gpu.name,
            sm=self._gpu.sm,
            dtype=spec.compute_precision,
            quant_algo="FP8" if spec.precision == "fp8" else None,
            kv_cache_quant_algo="FP8" if spec.kv_precision == "fp8" else None,
            calibration_sha256=texts.digest(self._captions) if self._captions else None,
            vocab_size=spec.text.vocab_size,
            fake_id_base=spec.text.vocab_size,
            limits=limits,
        )
        if differing := compatibility.find_differences(model / CONFIG_FILE, manifest):
            raise EngineError(f"TensorRT-LLM built another engine: {'; '.join(differing)}. Use TensorRT-LLM 1.2.1.")
        return manifest


def make_limits(spec: EngineSpec, tokenizer: Tokenizer) -> BuiltLimits:
    """Sizes for an engine's prompts: the table holds the image tokens of a full batch."""
    encoder = PromptEncoder(tokenizer, spec.prompt, max_text_tokens=spec.limits.max_text_tokens)
    shape = spec.slot_shape(len(encoder.prefix_ids))
    longest, caption = shape.text_start + shape.max_text_tokens, shape.num_positions
    batch = min(spec.limits.num_slots, MAX_BATCH)
    return BuiltLimits(
        max_batch_size=batch,
        max_input_len=longest,
        max_seq_len=caption,
        max_num_tokens=min(max(STEP_TOKENS, longest), batch * caption),  # `build` lowers it to what a batch can be
        max_prompt_embedding_table_size=batch * shape.num_image_tokens,
    )


def _check_decoder(spec: EngineSpec) -> None:
    """The conversion is of a plain Llama, which Mistral's is as well."""
    text = spec.text
    scaled = text.rope.factor is not None and text.rope.kind != "llama3"
    found = [
        *(["biases of queries, keys and values, as Qwen2"] if text.qkv_bias else []),
        *(["norms of heads, as Qwen3"] if text.qk_norm else []),
        *([f"rotary positions of the kind {text.rope.kind!r}"] if scaled else []),
    ]
    if found:
        raise ConfigError(
            f"The language model has {' and '.join(found)}. With TensorRT-LLM, recap-fast compiles Llama and Mistral, "
            "with rotary positions unscaled or as Llama 3.1's: use --backend torch."
        )


def _check_precision(spec: EngineSpec, tokenizer_file: Path, calibration: Path | None) -> None:
    if spec.precision == "int8":
        raise ConfigError("precision int8 is the torch backend's: with TensorRT-LLM use fp8, bfloat16 or float16.")
    if spec.precision == "fp8" and calibration is None:
        raise ConfigError(
            f"precision fp8 with TensorRT-LLM needs --calibration with captions: {texts.FORMS}. To make some, caption "
            f"{texts.MAX_TEXTS} of your images with an engine of the torch backend."
        )
    if spec.precision != "fp8" and calibration is not None:
        raise ConfigError(f"--calibration is for precision fp8, and the engine is {spec.precision}: leave it out.")
    if spec.precision == "fp8" and tokenizer_file.suffix == ".model":
        raise ConfigError(
            f"FP8 is calibrated with transformers' tokenizer, which reads no {tokenizer_file.name}: give the model's "
            "tokenizer.json with --tokenizer."
        )
    if spec.kv_precision == "fp8" and spec.precision != "fp8":
        raise ConfigError(
            "kv_precision fp8 comes with FP8's calibration: use precision fp8 too, or kv_precision 'auto'."
        )
