"""What a compiled engine was built for, what this machine has, and whether the two fit.

tensorrt_llm/config.json     written by TensorRT-LLM: version, pretrained_config, build_config
tensorrt_llm/rank0.engine    the compiled language model

TensorRT-LLM 1.2 is the last stable release that compiles engines: 1.3.0rc21 removed the compiler. recap-fast was
written for 1.2.1. Nothing here imports it: the import takes half a minute and tells less than the package's metadata.
"""

import importlib.metadata
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.device import Hardware, find_hardware
from recap_fast.generate.fields import Count, Source, read_table
from recap_fast.generate.json_file import read_json
from recap_fast.generate.spec import BACKEND_KEY, SPEC_FILE

logger = logging.getLogger(__name__)

FLOW = "trt"
"""The one way in which engines are built and run: compiled, for one GPU and one version of TensorRT-LLM."""
MODEL_FOLDER = "tensorrt_llm"
CONFIG_FILE, COMPILED_FILE = "config.json", "rank0.engine"
WRITTEN_FOR = "1.2.1"
OLDEST, END = (1, 2, 1), (1, 3)
"""The first release that is taken, and the first one after it that is not."""
WHERE = (
    "Run recap-fast in NVIDIA's container 'TensorRT-LLM Release' of version 1.2.1, from the NGC catalog, or install "
    "the wheel of tensorrt_llm 1.2.1 from NVIDIA's own Python package index: what PyPI has by that name is a stub."
)
DISTRIBUTIONS = {"tensorrt_llm": "tensorrt-llm", "tensorrt": "tensorrt", "modelopt": "nvidia-modelopt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltLimits:
    """Sizes that the language model was built for, by TensorRT-LLM's names."""

    max_batch_size: Count
    """Captions being generated at once."""
    max_input_len: Count
    """Prompt ids: prefix, image and text."""
    max_seq_len: Count
    """Prompt and caption."""
    max_num_tokens: Count
    """Ids of one step, over all requests."""
    max_prompt_embedding_table_size: Count
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
    vocab_size: Count
    fake_id_base: Count
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
        source = Source(Path(SPEC_FILE), "Build the engine again.")
        manifest = read_table(source, cls, content, BACKEND_KEY)
        if "tensorrt_llm" not in manifest.versions:
            raise source.refuse(f": '{BACKEND_KEY}.versions.tensorrt_llm' is missing")
        return manifest


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


def require_library() -> str:
    """The version of TensorRT-LLM that is installed. Raises ConfigError for a missing or an unsuitable one."""
    version = installed_versions().get("tensorrt_llm")
    if version is None:
        raise ConfigError(f"The backend tensorrt-llm needs TensorRT-LLM, which is not installed. {WHERE}")
    check_version(version)
    return version


@contextmanager
def importing() -> Iterator[None]:
    """Around an import of TensorRT-LLM. Raises ConfigError where it is installed and does not load."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"TensorRT-LLM is installed and cannot be imported: {error}. {WHERE}") from error


def check_taken(name: str, given: Any, wanted: Mapping[str, Any]) -> None:
    """Raises EngineError where an object of TensorRT-LLM does not hold what it was given."""
    for key, value in wanted.items():
        if getattr(given, key, None) != value:
            raise EngineError(
                f"TensorRT-LLM's {name} has {key} {getattr(given, key, None)!r} after it was set to {value!r}: this "
                "version takes it under another name. Use TensorRT-LLM 1.2.1."
            )


def check_version(version: str) -> None:
    """Raises ConfigError for a version that compiles no engines or has a known fault; warns about any but 1.2.1."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    release = tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if release == (1, 2, 0):
        raise ConfigError(
            f"TensorRT-LLM {version} corrupts its key-value cache (NVIDIA/TensorRT-LLM #12770, fixed in 1.2.1): "
            f"captions would be wrong. {WHERE}"
        )
    if release < OLDEST:
        raise ConfigError(f"TensorRT-LLM {version} is too old: recap-fast needs 1.2.1. {WHERE}")
    if release >= END:
        raise ConfigError(
            f"TensorRT-LLM {version} is too new: from 1.3.0rc21 on it compiles no engines. Take version 1.2.1, or "
            f"build the engine with --backend torch. {WHERE}"
        )
    if version != WRITTEN_FOR:
        logger.warning(
            "recap-fast was written for TensorRT-LLM %s and finds %s: an interface that nobody has compared. Look at "
            "some captions before you trust it.",
            WRITTEN_FOR,
            version,
        )


def find_gpu(device: str) -> Hardware:
    """The GPU of `--device`. Raises ConfigError where there is none, or it is not the process's first."""
    if device not in ("auto", "cuda", "cuda:0"):
        raise ConfigError(
            f"--device {device}: TensorRT-LLM runs on the first GPU that the process sees. For another one set "
            "CUDA_VISIBLE_DEVICES and leave --device out; for a CPU build the engine with --backend torch."
        )
    if not torch.cuda.is_available():
        raise ConfigError(
            f"TensorRT-LLM needs an NVIDIA GPU, and torch {torch.__version__} sees none. Build the engine with "
            "--backend torch to run it here."
        )
    return find_hardware(torch.device("cuda", 0))


def check_same_machine(manifest: Manifest, version: str, gpu: Hardware) -> None:
    """Raises ConfigError for an engine that was compiled by another version or on another GPU."""
    built, found = (manifest.versions["tensorrt_llm"], manifest.gpu, manifest.sm), (version, gpu.name, gpu.sm)
    if built != found:
        texts = [f"TensorRT-LLM {v} on {name} (compute capability {sm})" for v, name, sm in (built, found)]
        raise ConfigError(
            f"The engine was compiled with {texts[0]}, and here is {texts[1]}: compiled engines run nowhere else. "
            "Build it again on this machine, with the same recipe and checkpoint."
        )


def installed_versions() -> dict[str, str]:
    """Of what a compiled engine depends on, as far as it is there."""
    found = {} if torch.version.cuda is None else {"cuda": torch.version.cuda}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
