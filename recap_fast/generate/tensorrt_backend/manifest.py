"""What engine.json says of a TensorRT-LLM engine beside what every engine has, and how it fits the engine's own files.

tensorrt_llm/config.json     written by TensorRT-LLM: version, pretrained_config, build_config
tensorrt_llm/rank0.engine    the compiled language model
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recap_fast.errors import ConfigError
from recap_fast.generate.json_file import read_json

FLOW = "trt"
"""The one way in which engines are built and run: compiled, for one GPU and one version of TensorRT-LLM."""
MODEL_FOLDER = "tensorrt_llm"
CONFIG_FILE, COMPILED_FILE = "config.json", "rank0.engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltLimits:
    """Sizes that the language model was built for, by TensorRT-LLM's names."""

    max_batch_size: int
    """Captions being generated at once."""
    max_input_len: int
    """Prompt ids: prefix, image and text."""
    max_seq_len: int
    """Prompt and caption."""
    max_num_tokens: int
    """Ids of one step, over all requests."""
    max_prompt_embedding_table_size: int
    """Rows of the image embeddings of a full batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The table `tensorrt_llm` of engine.json."""

    flow: str = FLOW
    versions: dict[str, str] = field(default_factory=dict)
    """Of tensorrt_llm, tensorrt, modelopt and cuda, as far as they were there."""
    gpu: str
    """The card that it was built on."""
    sm: str
    """Its compute capability, such as '9.0'."""
    dtype: str
    """Of activations, and so of the image embeddings."""
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    calibration_sha256: str | None
    """Of the texts that FP8 was calibrated with."""
    vocab_size: int
    fake_id_base: int
    """The id of an image's first token: those of the image are fake_id_base, fake_id_base + 1, and so on."""
    limits: BuiltLimits

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Manifest":
        """Of what `dataclasses.asdict` gave. Raises ConfigError for another flow than `FLOW`, and for anything else."""
        if (flow := content.get("flow", FLOW)) != FLOW:
            raise ConfigError(
                f"The engine was built for TensorRT-LLM's flow {flow!r}, and this version runs only {FLOW!r}: build it "
                "again, with --backend tensorrt-llm to compile it, or with --backend torch."
            )
        try:
            return cls(**{**content, "limits": BuiltLimits(**content["limits"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"engine.json says nothing of TensorRT-LLM's engine ({error}): build the engine again."
            ) from error


def check_model_folder(folder: Path, manifest: Manifest) -> None:
    """Compares engine.json with what the engine's own config.json says. Raises ConfigError naming each difference."""
    path = folder / MODEL_FOLDER / CONFIG_FILE
    missing = [file.name for file in (path, path.with_name(COMPILED_FILE)) if not file.is_file()]
    if missing:
        raise ConfigError(f"{path.parent} lacks {' and '.join(missing)}: build the engine again.")
    differing = find_differences(path, manifest)
    if differing:
        raise ConfigError(
            f"{path} does not belong to the engine.json of {folder}: {'; '.join(differing)}. Build the engine again, "
            "or copy the whole folder."
        )


def find_differences(path: Path, manifest: Manifest) -> list[str]:
    """What the engine's own config.json has otherwise."""
    expected = {
        "version": manifest.versions["tensorrt_llm"],
        "pretrained_config.vocab_size": manifest.vocab_size,
        "pretrained_config.dtype": manifest.dtype,
        "pretrained_config.quantization.quant_algo": manifest.quant_algo,
        "pretrained_config.quantization.kv_cache_quant_algo": manifest.kv_cache_quant_algo,
        **{f"build_config.{name}": value for name, value in asdict(manifest.limits).items()},
    }
    config, differing = read_json(path), []
    for name, value in expected.items():
        found: Any = config
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found != value:
            differing.append(f"{name} is {found!r} where engine.json has {value!r}")
    return differing
