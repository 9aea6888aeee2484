"""TensorRT-LLM compiles a plain Llama to an engine, in FP8 after ModelOpt has calibrated it.

All names are those of TensorRT-LLM 1.2.1; tests/support/tensorrt_fake says where each was read.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tensorrt_llm.builder import BuildConfig, build
from tensorrt_llm.models import LLaMAForCausalLM
from tensorrt_llm.models.modeling_utils import QuantConfig
from tensorrt_llm.quantization import QuantAlgo

from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tensorrt_backend.compatibility import BuiltLimits, check_taken

CALIBRATION_LENGTH = 512
"""Tokens of a calibration text at most."""


def load_model(llama: Path, spec: EngineSpec) -> Any:
    """TensorRT-LLM's model of a plain Llama's folder, in the engine's precision."""
    return LLaMAForCausalLM.from_hugging_face(str(llama), dtype=spec.compute_precision)


def quantize_model(llama: Path, output: Path, spec: EngineSpec, texts: Path, num_texts: int) -> Any:
    """The same in FP8: ModelOpt runs the texts of a folder (`texts`/train.jsonl) through it and sets the scales."""
    kv_cache = QuantAlgo.FP8 if spec.kv_precision == "fp8" else None
    LLaMAForCausalLM.quantize(
        str(llama),
        str(output),
        dtype=spec.compute_precision,
        quant_config=QuantConfig(quant_algo=QuantAlgo.FP8, kv_cache_quant_algo=kv_cache),
        calib_dataset=str(texts),
        calib_batches=num_texts,
        calib_max_seq_length=CALIBRATION_LENGTH,
    )
    return LLaMAForCausalLM.from_checkpoint(str(output))


def compile_model(model: Any, output: Path, spec: EngineSpec, limits: BuiltLimits, timing_cache: Path) -> None:
    """Compiles the model and writes config.json and rank0.engine. Takes minutes.

    BuildConfig and PluginConfig drop what they do not know without a word, so everything is read back. No plugin is set
    to 'auto', which reads as the plugins' dtype. FP8 attention of prompts, where keys and values are FP8, `build` sets.
    Without a path for the timing cache it leaves one in the working directory. Raises EngineError for a value that was
    not taken.
    """
    wanted = {**asdict(limits), "max_beam_width": 1, "output_timing_cache": str(timing_cache)}
    config = BuildConfig(**wanted)
    check_taken("BuildConfig", config, wanted)
    dtype = spec.compute_precision
    plugins = {"dtype": dtype, "gemm_plugin": None if spec.precision == "fp8" else dtype}
    for name, value in plugins.items():
        setattr(config.plugin_config, name, value)
    check_taken("PluginConfig", config.plugin_config, plugins)
    build(model, config).save(str(output))
