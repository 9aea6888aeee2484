"""What people give as a checkpoint that is none, told apart, so that the error says what to type instead."""

import contextlib
import re
from pathlib import Path

from recap_fast.build.hub_name import advice_on_shadow
from recap_fast.errors import ConfigError
from recap_fast.generate.json_file import read_json

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
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
        copy = " Copy the files of a URL to a folder first." if re.match(r"\w+:/", path.as_posix()) else ""
        raise ConfigError(
            f"There is no folder {path}: --checkpoint takes the folder of a model, or its name on the Hugging Face "
            f"Hub, ORG/NAME.{copy}"
        )
    if path.suffix == ".gguf" and path.is_file():
        raise ConfigError(f"{path} is a GGUF file. {_GGUF}")
    if not path.is_dir():
        raise ConfigError(f"{path} is not a folder: give the folder of the model, --checkpoint {path.parent}.")
    check_content(path, {entry.name for entry in path.iterdir()}, str(path), advice_on_shadow(path))


def check_content(folder: Path, names: set[str], shown: str, advice: str = "") -> None:
    """Raises ConfigError where a folder of files of these names holds something else than a whole model in safetensors.

    `shown` is what the folder is called in the error, and `advice` is added where it has nothing of a model. Of the
    files themselves, only an adapter's config is read.
    """
    weights = {name for name in names if name.endswith((".safetensors", ".bin"))}
    if "adapter_config.json" in names and weights <= {"adapter_model.safetensors", "adapter_model.bin", _LLAVA_REST}:
        raise ConfigError(_merge(folder, shown, by_llava=_LLAVA_REST in names))
    if "config.json" not in names:
        models = sorted({config.parent for pattern in _BELOW for config in folder.glob(pattern)})
        if models:
            listed = "".join(f"\n  --checkpoint {model}" for model in models[:5])
            raise ConfigError(f"{shown} has no config.json of its own, but there are models in it. Give one:{listed}")
    _check_format(weights, names, shown)
    if "config.json" not in names:
        raise ConfigError(f"{shown} has no config.json: it is no model, or its download is not complete.{advice}")


def _check_format(weights: set[str], names: set[str], shown: str) -> None:
    if not weights and any(name.endswith(".gguf") for name in names):
        raise ConfigError(f"{shown} has GGUF files only. {_GGUF}")
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles and not any(name.endswith(".safetensors") for name in weights):
        raise ConfigError(
            f"{shown} holds pickles ({', '.join(pickles[:3])}), which can run code when they are opened, and no "
            'safetensors. Convert each file once: python -c "import torch; from safetensors.torch import save_file; '
            "weights = torch.load('FILE.bin', weights_only=True); "
            "save_file({k: v.clone() for k, v in weights.items()}, 'FILE.safetensors')\""
        )


def _merge(folder: Path, shown: str, *, by_llava: bool) -> str:
    """How to merge an adapter, by PEFT or, where the original LLaVA's training wrote it, by LLaVA's own script."""
    base = None
    with contextlib.suppress(ConfigError):
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    base = base if isinstance(base, str) and base else "BASE"
    if by_llava:
        command = (
            "  python scripts/merge_lora_weights.py \\\n"
            f"      --model-path {shown} --model-base {base} --save-model-path merged\n"
            "in a clone of https://github.com/haotian-liu/LLaVA"
        )
    else:
        command = (
            '  python -c "import peft, transformers as t; '
            f"model = t.LlavaForConditionalGeneration.from_pretrained('{base}', dtype='auto'); "
            f"peft.PeftModel.from_pretrained(model, '{shown}').merge_and_unload().save_pretrained('merged'); "
            f"t.AutoProcessor.from_pretrained('{base}').save_pretrained('merged')\"\n"
            "with the packages peft and transformers"
        )
    return (
        f"{shown} is an adapter (LoRA), which holds what was added to the weights of {base}. Merge both:\n"
        f"{command}, and give --checkpoint merged."
    )
