"""What people give as a checkpoint that is none, told apart, so that the error says what to type instead."""

import contextlib
import re
from pathlib import Path

from recap_fast.errors import ConfigError
from recap_fast.generate.json_file import read_json

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_PAGE = re.compile(r"(?:(?:https?:/+)?(?:huggingface\.co|hf\.co)/|hf:/+)([^/]+/[^/]+)(?:/.*)?")
_LLAVA_REST = "non_lora_trainables.bin"
"""What the original LLaVA's training writes beside an adapter: the projector."""
_BELOW = ("*/config.json", "snapshots/*/config.json", "models--*/snapshots/*/config.json")
"""Where models lie in a folder of several, in a model's folder of the Hub's cache, and in the whole cache."""
_GGUF = (
    "GGUF is llama.cpp's format, and its weights are quantized. Give the safetensors that it was made from: the page "
    "of the model on the Hugging Face Hub names them."
)


def check_folder(path: Path) -> None:
    """Raises ConfigError where the path is not the folder of a whole model, and it can be told what it is instead."""
    if not path.exists():
        raise ConfigError(
            f"There is no folder {path}: --checkpoint takes the folder of a model.{download_advice(path)}"
        )
    if path.suffix == ".gguf" and path.is_file():
        raise ConfigError(f"{path} is a GGUF file. {_GGUF}")
    if not path.is_dir():
        raise ConfigError(f"{path} is not a folder: give the folder of the model, --checkpoint {path.parent}.")
    _check_content(path, {entry.name for entry in path.iterdir()})


def _check_content(folder: Path, names: set[str]) -> None:
    weights = {name for name in names if name.endswith((".safetensors", ".bin"))}
    if "adapter_config.json" in names and weights <= {"adapter_model.safetensors", "adapter_model.bin", _LLAVA_REST}:
        raise ConfigError(_merge(folder))
    if not weights and any(name.endswith(".gguf") for name in names):
        raise ConfigError(f"{folder} has GGUF files only. {_GGUF}")
    if "config.json" not in names:
        models = sorted({config.parent for pattern in _BELOW for config in folder.glob(pattern)})
        if models:
            listed = "".join(f"\n  --checkpoint {model}" for model in models[:5])
            raise ConfigError(f"{folder} has no config.json of its own, but there are models in it. Give one:{listed}")


def download_advice(path: Path, option: str = "--checkpoint") -> str:
    """How to get a model whose name on the Hub, or page, was given where a folder belongs; '' where it is none."""
    given = path.as_posix()
    page = _HUB_PAGE.fullmatch(given)
    name = page[1] if page else given
    if not _HUB_NAME.fullmatch(name):
        return " Copy the files of a URL to a folder first." if re.match(r"\w+:/", given) else ""
    folder = name.rsplit("/", 1)[-1]
    return (
        f" If {name} is a model of the Hugging Face Hub, download it first:\n"
        "  pip install huggingface_hub\n"
        f"  hf download {name} --local-dir {folder}\n"
        f"and give {option} {folder}."
    )


def _merge(folder: Path) -> str:
    """How to merge an adapter, by PEFT or, where the original LLaVA's training wrote it, by LLaVA's own script."""
    base = None
    with contextlib.suppress(ConfigError):
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    base = base if isinstance(base, str) and base else "BASE"
    if (folder / _LLAVA_REST).is_file():
        command = (
            "  python scripts/merge_lora_weights.py \\\n"
            f"      --model-path {folder} --model-base {base} --save-model-path merged\n"
            "in a clone of https://github.com/haotian-liu/LLaVA"
        )
    else:
        command = (
            '  python -c "import peft, transformers as t; '
            f"model = t.LlavaForConditionalGeneration.from_pretrained('{base}', dtype='auto'); "
            f"peft.PeftModel.from_pretrained(model, '{folder}').merge_and_unload().save_pretrained('merged'); "
            f"t.AutoProcessor.from_pretrained('{base}').save_pretrained('merged')\"\n"
            "with the packages peft and transformers"
        )
    return (
        f"{folder} is an adapter (LoRA), which holds what was added to the weights of {base}. Merge both:\n"
        f"{command}, and give --checkpoint merged."
    )
