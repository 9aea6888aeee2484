"""`tensorrt_llm.builder`, `.models` and `.quantization`: a plain Llama is read, quantized in name, and compiled."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from support.tensorrt_fake.llama import DTYPES, Checkpoint
from support.tensorrt_fake.strict import INSTALLED, Strict, TrapError, strict


class QuantAlgo(StrEnum):
    """tensorrt_llm/quantization/mode.py, 1.2; it has more."""

    FP8 = "FP8"
    INT8 = "INT8"
    NVFP4 = "NVFP4"


@dataclass(slots=True, kw_only=True)
class QuantConfig(Strict):
    """tensorrt_llm/models/modeling_utils.py, documentation after 1.2.1."""

    quant_algo: QuantAlgo | None = None
    kv_cache_quant_algo: QuantAlgo | None = None


@dataclass(slots=True, kw_only=True)
class PluginConfig(Strict):
    """tensorrt_llm/plugin/plugin.py, 1.2. The real one drops names that it does not know."""

    dtype: str = "float16"
    gemm_plugin: Literal["auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4"] | None = None


@dataclass(slots=True, kw_only=True)
class BuildConfig(Strict):
    """tensorrt_llm/builder.py, 1.2.1. The real one drops names that it does not know."""

    max_input_len: int = 1024
    max_seq_len: int | None = None
    max_batch_size: int = 2048
    max_beam_width: int = 1
    max_num_tokens: int = 8192
    max_prompt_embedding_table_size: int = 0
    output_timing_cache: str = "model.cache"
    plugin_config: PluginConfig = field(default_factory=PluginConfig)


class LLaMAForCausalLM:
    """tensorrt_llm/models/llama/model.py, 1.2.1; from_checkpoint from memory."""

    def __init__(self, checkpoint: Checkpoint, dtype: str, quantization: Mapping[str, Any]):
        self._checkpoint, self._dtype, self._quantization = checkpoint, dtype, quantization
        self._is_built = False

    @classmethod
    @strict
    def from_hugging_face(cls, hf_model_or_dir: str, dtype: str = "auto") -> "LLaMAForCausalLM":
        """Reads a directory whose path has neither of the two words that change what is read."""
        _check_path(hf_model_or_dir)
        checkpoint = Checkpoint.read(Path(hf_model_or_dir))
        return cls(checkpoint, _dtype(checkpoint, dtype), {"quant_algo": None, "kv_cache_quant_algo": None})

    @classmethod
    @strict
    def quantize(
        cls,
        hf_model_dir: str,
        output_dir: str,
        dtype: str = "auto",
        *,
        quant_config: QuantConfig | None = None,
        calib_dataset: str = "cnn_dailymail",
        calib_batches: int = 512,
        calib_max_seq_length: int = 512,
    ) -> None:
        """Writes a checkpoint that says FP8. Needs a tokenizer beside the weights, and texts on this machine."""
        _check_path(hf_model_dir)
        folder, target = Path(hf_model_dir), Path(output_dir)
        if quant_config is None or quant_config.quant_algo is None:
            raise ValueError(f"The quant_config ({quant_config}) should not call TRT-LLM's quantize")
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            raise OSError(f"{folder} has no tokenizer for the calibration texts")
        _check_texts(calib_dataset)
        checkpoint = Checkpoint.read(folder)
        target.mkdir()
        content = {"dtype": _dtype(checkpoint, dtype), "quantization": asdict(quant_config)}
        (target / "config.json").write_text(json.dumps(content), encoding="utf-8")
        checkpoint.save(target / "rank0.safetensors")

    @classmethod
    @strict
    def from_checkpoint(cls, ckpt_dir: str) -> "LLaMAForCausalLM":
        config = json.loads((Path(ckpt_dir) / "config.json").read_text(encoding="utf-8"))
        checkpoint = Checkpoint.load(Path(ckpt_dir) / "rank0.safetensors")
        return cls(checkpoint, config["dtype"], config["quantization"])


@dataclass(frozen=True)
class Engine:
    """tensorrt_llm/builder.py, 1.2.1: what `build` returns."""

    _checkpoint: Checkpoint
    _config: dict[str, Any]

    @strict
    def save(self, engine_dir: str) -> None:
        folder = Path(engine_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self._config), encoding="utf-8")
        self._checkpoint.save(folder / "rank0.engine")


@strict
def build(model: LLaMAForCausalLM, build_config: BuildConfig) -> Engine:
    """tensorrt_llm/builder.py, 1.2. Compiles a model that none was compiled of yet."""
    if model._is_built:
        raise TrapError("build() has changed this model already: read a fresh one")
    model._is_built = True
    checkpoint, values = model._checkpoint, asdict(build_config)
    length = values["max_seq_len"] = values["max_seq_len"] or checkpoint.config["max_position_embeddings"]
    if values["max_input_len"] > length:
        raise ValueError(f"max_input_len {values['max_input_len']} is over max_seq_len {length}")
    values["max_num_tokens"] = min(values["max_num_tokens"], length * values["max_batch_size"])
    if values["plugin_config"]["gemm_plugin"] not in (model._dtype, None):
        raise ValueError(f"gemm_plugin {values['plugin_config']['gemm_plugin']!r} is not the model's {model._dtype!r}")
    pretrained = {
        "architecture": "LlamaForCausalLM",
        "dtype": model._dtype,
        "vocab_size": checkpoint.config["vocab_size"],
        "quantization": model._quantization,
    }
    version = INSTALLED[0].faults.version
    return Engine(checkpoint, {"version": version, "pretrained_config": pretrained, "build_config": values})


def _dtype(checkpoint: Checkpoint, asked: str) -> str:
    name = checkpoint.config["torch_dtype"] if asked == "auto" else asked
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r}: known are {', '.join(DTYPES)}")
    return str(name)


def _check_path(path: str) -> None:
    if "llava" in path:
        raise TrapError(f"'llava' is in the path {path}: weights would be looked up below language_model.")
    if "vila" in path.lower():
        raise TrapError(f"'vila' is in the path {path}: '/llm' would be added to it")


def _check_texts(dataset: str) -> None:
    """Raises for anything but a folder of texts: the library would ask the network for it (quantize_by_modelopt.py)."""
    if not Path(dataset).is_dir():
        raise TrapError(f"calib_dataset {dataset}: the library would fetch it from the network")
    lines = [line for file in Path(dataset).glob("*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()]
    if not lines or not all(json.loads(line).get("text") for line in lines):
        raise TrapError(f"{dataset}: calibration texts are rows of the column 'text', in .jsonl files")
