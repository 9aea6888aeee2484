"""Makes the content of engine.json from the recipe, and from the checkpoint where the recipe says nothing."""

import logging
import math
import re

import torch

from recap_fast.build.architecture import Architecture
from recap_fast.build.checkpoint import Checkpoint
from recap_fast.build.preprocessing import read_preprocess
from recap_fast.build.prompting import find_longest, find_stop_ids, make_prompt, warn_of_generation
from recap_fast.build.recipe import AUTO, Recipe
from recap_fast.errors import ConfigError
from recap_fast.generate.device import PRECISIONS, check_precision, find_hardware
from recap_fast.generate.layout import plan_text
from recap_fast.generate.model_spec import TextSpec
from recap_fast.generate.spec import EngineSpec, Limits, Precision
from recap_fast.generate.templates import find_template
from recap_fast.generate.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def make_spec(recipe: Recipe, checkpoint: Checkpoint, architecture: Architecture, tokenizer: Tokenizer) -> EngineSpec:
    """The recipe's values, and the checkpoint's where the recipe has none; `sources` and `files` are still empty.

    Raises ConfigError where recipe, checkpoint and tokenizer do not fit together.
    """
    folder = checkpoint.folder
    if tokenizer.vocab_size > architecture.text.vocab_size:
        raise ConfigError(
            f"The tokenizer has {tokenizer.vocab_size} tokens and the model's embedding {architecture.text.vocab_size} "
            "rows: it belongs to another model. Give the right one with --tokenizer."
        )
    template_name, template = find_template(recipe.template, tokenizer)
    prompt = make_prompt(recipe, template_name)
    encoder = find_longest(recipe, prompt, tokenizer)
    warn_of_generation(folder)
    mode = architecture.preprocess_mode if recipe.preprocess == "auto" else recipe.preprocess
    spec = EngineSpec(
        name=checkpoint.name if recipe.name == AUTO else _sized_name(recipe.name, architecture.text),
        backend="torch",
        precision=_resolve_precision(recipe, checkpoint),
        kv_precision=recipe.kv_precision,
        vision=architecture.vision,
        text=architecture.text,
        preprocess=read_preprocess(folder, architecture.vision.image_size, mode, architecture.family),
        prompt=prompt,
        sampling=recipe.sampling,
        stop_ids=find_stop_ids(recipe, checkpoint.folder, architecture, template, tokenizer),
        limits=Limits(
            max_new_tokens=recipe.limits.max_new_tokens,
            max_text_tokens=recipe.limits.max_text_tokens or encoder.max_text_tokens,
            num_slots=recipe.limits.num_slots,
            prefill_images=min(recipe.limits.prefill_images, recipe.limits.num_slots),
        ),
        cards=recipe.cards,
        notice=recipe.notice,
    )
    shape = spec.slot_shape(len(encoder.prefix_ids))
    if shape.num_positions > spec.text.max_positions:
        raise ConfigError(
            f"The model has {spec.text.max_positions} positions and a caption needs {shape.num_positions} "
            f"({shape.num_prefix} before the image, {shape.num_image_tokens} of the image, {shape.max_text_tokens} "
            f"after it, {shape.max_new_tokens} new): lower limits.max_new_tokens or limits.max_text_tokens. "
            "Positions beyond a sliding window are not supported."
        )
    return spec


def parse_precision(name: str) -> Precision:
    """A precision by its name. Raises ConfigError for another name."""
    if name not in PRECISIONS:
        *first, last = PRECISIONS
        raise ConfigError(f"--precision {name}: expected {', '.join(first)} or {last}.")
    return name


def check_device(spec: EngineSpec) -> None:
    """Raises ConfigError where this machine has a card without the engine's precision; warns where it is slow."""
    hardware = find_hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        note = check_precision(spec.precision, hardware, spec.kv_precision)
    except ConfigError as error:
        raise ConfigError(
            f"{error} To build it for another machine, hide this card: CUDA_VISIBLE_DEVICES= recap-fast ..."
        ) from error
    if note is not None:
        logger.warning("On this machine the engine will be slow: %s", note)


def _sized_name(name: str, text: TextSpec) -> str:
    """The recipe's name; a size in it ('llava-llama3-8b') that is not the language model's becomes what it is."""
    claim = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", name)
    size = sum(math.prod(tensor.shape) for tensor in plan_text(text))
    if claim is None or abs(size / 1e9 - float(claim[1])) < 0.1 * float(claim[1]):
        return name
    unit, scale = ("billion", 1e9) if size >= 1e9 else ("million", 1e6)
    number = f"{size / scale:.3g}"
    sized = f"{name[: claim.start()]}{number}{unit[0]}{name[claim.end() :]}"
    logger.warning(
        "The recipe is for a language model of %s billion parameters, and this one has %s %s: the engine is called %s.",
        claim[1],
        number,
        unit,
        sized,
    )
    return sized


def _resolve_precision(recipe: Recipe, checkpoint: Checkpoint) -> Precision:
    """'auto' is what the language model was published in: its numbers are those that its authors got."""
    if recipe.precision != "auto":
        return recipe.precision
    dtype = checkpoint.tensors["text.layers.0.self_attn.q_proj.weight"].dtype
    if dtype in ("float16", "bfloat16"):
        return parse_precision(dtype)
    if torch.cuda.is_available():
        logger.warning("The checkpoint is in %s, so the engine is in float32; --precision bfloat16 is faster.", dtype)
    return "float32"
