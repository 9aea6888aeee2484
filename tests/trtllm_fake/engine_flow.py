"""The compiled flow behind the fake, until the engine is on disk: converting, quantizing, building."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trtllm_fake.contract import Library, wrap
from trtllm_fake.faults import Faults
from trtllm_fake.llama import DTYPES, Checkpoint, TrapError

MODEL = "tensorrt_llm.models.LLaMAForCausalLM"
CALIBRATED = ("FP8", "INT8", "W4A8_AWQ", "NVFP4")


class Flow:
    """What all behaviours of one fake package share."""

    library: Library
    faults: Faults


class Model(Flow):
    """LLaMAForCausalLM: a checkpoint, its type, and how it was quantized."""

    def __init__(self, checkpoint: Checkpoint, dtype: str, quantization: Mapping[str, Any]):
        self.checkpoint, self.dtype, self.quantization = checkpoint, dtype, quantization
        self.is_built = False

    @staticmethod
    def from_hugging_face(
        cls: type, hf_model_or_dir: str, dtype: str, mapping: Any, quant_config: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        """Reads a directory whose path has neither of the two words that change what is read."""
        if kwargs:
            raise TypeError(f"{MODEL}.from_hugging_face: {', '.join(kwargs)} is not in the contract table")
        check_path(hf_model_or_dir)
        if quant_config is not None and quant_config.quant_algo is not None:
            raise TrapError("from_hugging_face does not calibrate: quantize() and from_checkpoint() do FP8")
        checkpoint = Checkpoint.read(Path(hf_model_or_dir))
        return wrap(cls, Model(checkpoint, checkpoint.dtype(dtype), {"quant_algo": None, "kv_cache_quant_algo": None}))

    @staticmethod
    def quantize(cls: type, hf_model_dir: str, output_dir: str, **options: Any) -> None:
        """Writes a checkpoint in FP8. Needs a tokenizer beside the weights, and calibration texts on this machine."""
        if options["kwargs"]:
            raise TypeError(f"{MODEL}.quantize: {', '.join(options['kwargs'])} is not in the contract table")
        check_path(hf_model_dir)
        config = options["quant_config"]
        if config is None or config.quant_algo not in CALIBRATED:
            raise ValueError(f"The quant_config ({config}) should not call TRT-LLM's quantize: it needs no calibration")
        folder = Path(hf_model_dir)
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            raise OSError(f"{folder} has no tokenizer for the calibration texts")
        check_calibration(options["calib_dataset"])
        checkpoint = Checkpoint.read(folder)
        target = Path(output_dir)
        target.mkdir(parents=True, exist_ok=True)
        quantization = {"quant_algo": config.quant_algo, "kv_cache_quant_algo": config.kv_cache_quant_algo}
        model = Model(checkpoint.in_fp8(), checkpoint.dtype(options["dtype"]), quantization)
        (target / "config.json").write_text(json.dumps(model.pretrained_config()), encoding="utf-8")
        model.checkpoint.save(target / "rank0.safetensors")

    @staticmethod
    def from_checkpoint(cls: type, ckpt_dir: str, **_: Any) -> Any:
        """Reads what `quantize` wrote."""
        config = json.loads((Path(ckpt_dir) / "config.json").read_text(encoding="utf-8"))
        checkpoint = Checkpoint.load(Path(ckpt_dir) / "rank0.safetensors")
        return wrap(cls, Model(checkpoint, config["dtype"], config["quantization"]))

    def pretrained_config(self) -> dict[str, Any]:
        """The part of that name in an engine's config.json."""
        config = self.checkpoint.config
        same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        same = (*same, "num_key_value_heads", "max_position_embeddings")
        return {
            "architecture": "LlamaForCausalLM",
            "dtype": self.dtype,
            **{name: config[name] for name in same},
            "quantization": self.quantization,
            "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        }


def check_path(path: str) -> None:
    """Raises TrapError for a path that the library takes for a LLaVA or a VILA checkpoint."""
    if "llava" in path:
        raise TrapError(f"'llava' is in the path {path}: weights would be looked up below language_model.")
    if "vila" in path.lower():
        raise TrapError(f"'vila' is in the path {path}: '/llm' would be added to it")


def check_calibration(dataset: str) -> None:
    """Raises unless it is a folder of texts; the library would ask the network for anything else."""
    folder = Path(dataset)
    if "cnn_dailymail" in dataset:
        raise TrapError("calib_dataset is left at cnn_dailymail: the library would fetch it from the network")
    if not folder.is_dir():
        raise NotImplementedError(f"Unsupported dataset name or local repo directory: {dataset}.")
    rows = [json.loads(line) for file in folder.glob("*.json*") for line in file.read_text().splitlines() if line]
    if not rows or not all(isinstance(row.get("text"), str) and row["text"] for row in rows):
        raise TrapError(f"{folder}: calibration texts are rows of the column 'text', here in .jsonl files")


class Engine(Flow):
    """What `build` returns."""

    def __init__(self, checkpoint: Checkpoint, pretrained: dict[str, Any], build: dict[str, Any]):
        self._checkpoint, self._pretrained, self._build = checkpoint, pretrained, build

    def save(self, engine_dir: str) -> None:
        """Writes config.json and rank0.engine, which holds the weights."""
        folder = Path(engine_dir)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "version": self.faults.version,
            "pretrained_config": self._pretrained,
            "build_config": self._build,
        }
        (folder / "config.json").write_text(json.dumps(content, indent=4), encoding="utf-8")
        self._checkpoint.save(folder / "rank0.engine")


def build(engine_class: type, behaviour: type[Engine], fields: Sequence[str], model: Any, build_config: Any) -> Any:
    """Builds an engine of a model that none was built of yet."""
    behind: Model = model._behind
    if behind.is_built:
        raise TrapError("build() has changed this model already: read a fresh one")
    behind.is_built = True
    values = {name: getattr(build_config, name) for name in fields}
    plugin = values["plugin_config"]
    values["plugin_config"] = dict(vars(plugin._behind))
    if values["max_seq_len"] is None:
        values["max_seq_len"] = behind.checkpoint.config["max_position_embeddings"]
    if values["max_input_len"] > values["max_seq_len"]:
        raise ValueError(f"max_input_len {values['max_input_len']} is over max_seq_len {values['max_seq_len']}")
    values["max_num_tokens"] = min(values["max_num_tokens"], values["max_seq_len"] * values["max_batch_size"])
    gemm = values["plugin_config"]["gemm_plugin"]
    if gemm in DTYPES and gemm != behind.dtype:
        raise ValueError(f"gemm_plugin {gemm!r} is not the model's type {behind.dtype!r}")
    return wrap(engine_class, behaviour(behind.checkpoint, behind.pretrained_config(), values))
