"""`build-engine`: a recipe and a checkpoint become an engine directory.

    weights.safetensors   the engine's own tensors (weights.py)
    tensorrt_llm/         the language model, for that backend (tensorrt_backend/build.py)
    tokenizer.json        or tokenizer.model, as it came
    engine.json           all the rest (spec.py), written last

The folder gets its name when it is complete; whatever interrupts the build leaves nothing that looks like an engine.
"""

import contextlib
import hashlib
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors
import torch

from recap_fast.atomic import is_alive, owner
from recap_fast.build.architecture import Architecture, read_architecture, read_ids
from recap_fast.build.checkpoint import Checkpoint, open_checkpoint
from recap_fast.build.preprocessing import read_preprocess
from recap_fast.build.recipe import AUTO, Recipe, find_recipe, load_recipe
from recap_fast.build.tensorrt import Parts, TensorRTBuild
from recap_fast.build.weights import OnProgress, check_sides, expected_shapes, write_weights
from recap_fast.errors import ConfigError
from recap_fast.generate.json_file import read_json
from recap_fast.generate.prompt import PromptEncoder, Template, find_template
from recap_fast.generate.spec import SPEC_FILE, WEIGHTS_FILE, Backend, EngineSpec, Limits, Precision, PromptSpec
from recap_fast.generate.tokenizer import TOKENIZER_FILES, Tokenizer, find_tokenizer, load_tokenizer
from recap_fast.generate.torch_backend.precision import check_precision, find_hardware
from recap_fast.version import __version__

logger = logging.getLogger(__name__)


def build_engine(
    recipe: str | Path,
    checkpoint: Path,
    output: Path,
    *,
    tokenizer: Path | None = None,
    precision: str | None = None,
    overwrite: bool = False,
    progress: OnProgress | None = None,
    backend: Backend = "torch",
    calibration: Path | None = None,
) -> EngineSpec:
    """Builds an engine directory and returns what its engine.json says.

    `recipe` is a path or the name of a recipe that ships; `tokenizer` a folder or file to use instead of the
    checkpoint's; `precision` replaces the recipe's; `progress` is called with bytes written and bytes in all;
    `calibration` has captions, for FP8 of the backend tensorrt-llm. Raises ConfigError for anything that cannot be
    used, before any weight is read where that can be known.
    """
    choices = load_recipe(recipe)
    if precision is not None:
        choices = replace(choices, precision=_precision(precision))
    if backend == "torch" and calibration:
        raise ConfigError("--calibration is for --backend tensorrt-llm: leave it out.")
    _check_output(output, overwrite)
    source = open_checkpoint(checkpoint)
    architecture = read_architecture(checkpoint)
    tokenizer_file = _find_tokenizer(checkpoint, tokenizer)
    architecture = _check_tensors(source, architecture)
    spec = make_spec(choices, source, architecture, load_tokenizer(tokenizer_file))
    plan = architecture.plan()
    check_sides(plan, spec.precision)
    _check_device(spec)
    progress, parts = progress or _no_progress, Parts(spec, source, architecture, tokenizer_file)
    tensorrt = TensorRTBuild(parts, calibration) if backend == "tensorrt-llm" else None
    with _new_folder(output, overwrite) as folder:
        if tensorrt is not None:
            spec = tensorrt.write(folder, output, progress)
        else:
            digest = write_weights(folder / WEIGHTS_FILE, plan, source, spec.precision, progress)
            spec = replace(spec, files={WEIGHTS_FILE: digest})
        stored = folder / ("tokenizer.model" if tokenizer_file.suffix == ".model" else "tokenizer.json")
        shutil.copyfile(tokenizer_file, stored)
        sources = _sources(find_recipe(recipe), source, tokenizer_file)
        spec = replace(spec, sources=sources, files={**spec.files, stored.name: _sha256(stored)})
        spec.save(folder)
    return spec


def make_spec(recipe: Recipe, checkpoint: Checkpoint, architecture: Architecture, tokenizer: Tokenizer) -> EngineSpec:
    """What the recipe says, and where it is silent the checkpoint; `sources` and `files` are still empty.

    Raises ConfigError where recipe, checkpoint and tokenizer do not fit together.
    """
    folder = checkpoint.folder
    if tokenizer.vocab_size > architecture.text.vocab_size:
        raise ConfigError(
            f"The tokenizer has {tokenizer.vocab_size} tokens and the model's embedding {architecture.text.vocab_size} "
            "rows: it is another model's. Give the right one with --tokenizer."
        )
    template_name, template = find_template(recipe.template, tokenizer)
    prompt = PromptSpec(template=template_name, text=recipe.prompt)
    mode = architecture.preprocess_mode if recipe.preprocess == "auto" else recipe.preprocess
    spec = EngineSpec(
        name=folder.resolve().name if recipe.name == AUTO else recipe.name,
        backend="torch",
        precision=_resolve_precision(recipe, checkpoint),
        kv_precision=recipe.kv_precision,
        vision=architecture.vision,
        text=architecture.text,
        preprocess=read_preprocess(folder, architecture.vision.image_size, mode),
        prompt=prompt,
        stop_ids=_stop_ids(recipe, checkpoint.folder, architecture, template, tokenizer),
        limits=_limits(recipe, tokenizer, prompt),
        cards=recipe.cards,
        notice=recipe.notice,
    )
    _check_positions(spec, tokenizer)
    return spec


def _precision(name: str) -> Precision:
    for known in ("float32", "bfloat16", "float16", "fp8", "int8"):
        if name == known:
            return known
    raise ConfigError(f"--precision {name}: expected float32, bfloat16, float16, fp8 or int8.")


def _resolve_precision(recipe: Recipe, checkpoint: Checkpoint) -> Precision:
    """'auto' is what the language model was published in: its numbers are those that its authors got."""
    if recipe.precision != "auto":
        return recipe.precision
    dtype = checkpoint.tensors["text.layers.0.self_attn.q_proj.weight"].dtype
    return "float32" if dtype == "float64" else _precision(dtype)


def _check_device(spec: EngineSpec) -> None:
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


def _check_tensors(checkpoint: Checkpoint, architecture: Architecture) -> Architecture:
    """Checks every tensor against the architecture; returns it with `tied_head` as the file has it."""
    text, names = architecture.text, ("head.weight", "text.embed_tokens.weight")
    is_tied = text.tied_head and "head.weight" not in checkpoint.tensors
    untied = replace(architecture, text=replace(text, tied_head=is_tied))
    ran = architecture.vision.num_layers
    unused = [f"vision.encoder.layers.{i}." for i in range(ran, architecture.num_vision_layers)]
    checkpoint.check(expected_shapes(untied.plan()), unused)
    if not text.tied_head or is_tied:
        return untied
    head, embedding = (checkpoint.tensors[name] for name in names)
    chunk_bytes = 16 << 20
    if head.dtype == embedding.dtype:
        pairs = zip(head.read(chunk_bytes), embedding.read(chunk_bytes), strict=True)
        if all(torch.equal(a, b) for a, b in pairs):
            return architecture
    raise ConfigError(
        f"{checkpoint.folder}: config.json ties the head to the embedding, and {head.name} differs from "
        f"{embedding.name}. Set tie_word_embeddings to false where the head is meant to be read."
    )


def _find_tokenizer(checkpoint: Path, given: Path | None) -> Path:
    file = find_tokenizer(given or checkpoint)
    if file is not None:
        return file
    names = " or ".join(TOKENIZER_FILES)
    if given is not None:
        raise ConfigError(f"--tokenizer {given}: there is no {names}.")
    raise ConfigError(
        f"{checkpoint} has no {names}. Give the language model's with --tokenizer, a folder or a file: "
        "for LLaVA on LLaMA-3 that of meta-llama/Meta-Llama-3-8B-Instruct."
    )


def _stop_ids(
    recipe: Recipe, folder: Path, architecture: Architecture, template: Template, tokenizer: Tokenizer
) -> tuple[int, ...]:
    """The recipe's; else the checkpoint's (generation_config.json before config.json) and the template's."""
    if recipe.stop_ids or recipe.stop_tokens:
        ids = {*recipe.stop_ids, *_special_ids(tokenizer, recipe.stop_tokens)}
        unknown = [token for token in recipe.stop_tokens if tokenizer.special_id(token) is None]
        if unknown:
            raise ConfigError(f"The recipe's stop_tokens {', '.join(unknown)} are no special tokens of the tokenizer.")
    else:
        path = folder / "generation_config.json"
        given = read_ids(read_json(path).get("eos_token_id")) if path.is_file() else ()
        ids = {*(given or architecture.eos_ids), *_special_ids(tokenizer, template.stop_tokens)}
    outside = sorted(i for i in ids if not 0 <= i < architecture.text.vocab_size)
    if outside or not ids:
        what = f"Stop ids {outside} are outside the vocabulary" if outside else "There are no stop ids"
        raise ConfigError(f"{what}: name the tokens that end an answer in the recipe's stop_tokens.")
    for token_id in ids - set(recipe.stop_ids):
        if text := tokenizer.detokenize([np.array([token_id], np.int32)])[0]:
            logger.warning("%s stops at token %d, which is text: %r.", folder, token_id, text)
    return tuple(sorted(ids))


def _special_ids(tokenizer: Tokenizer, tokens: tuple[str, ...]) -> list[int]:
    """The ids of those tokens that the tokenizer has."""
    return [token_id for token in tokens if (token_id := tokenizer.special_id(token)) is not None]


def _limits(recipe: Recipe, tokenizer: Tokenizer, prompt: PromptSpec) -> Limits:
    limits = recipe.limits
    encoder = PromptEncoder(tokenizer, prompt, max_text_tokens=limits.max_text_tokens or None)
    return Limits(
        max_new_tokens=limits.max_new_tokens,
        max_text_tokens=encoder.max_text_tokens,
        num_slots=limits.num_slots,
        prefill_images=min(limits.prefill_images, limits.num_slots),
    )


def _check_positions(spec: EngineSpec, tokenizer: Tokenizer) -> None:
    prefix = len(PromptEncoder(tokenizer, spec.prompt, max_text_tokens=spec.limits.max_text_tokens).prefix_ids)
    image, text, new = spec.vision.num_image_tokens, spec.limits.max_text_tokens, spec.limits.max_new_tokens
    needed = prefix + image + text + new
    if needed > spec.text.max_positions:
        raise ConfigError(
            f"The model has {spec.text.max_positions} positions and a caption needs {needed} ({prefix} before the "
            f"image, {image} of the image, {text} after it, {new} new): lower limits.max_new_tokens or "
            "limits.max_text_tokens."
        )


def _sources(recipe: Path, checkpoint: Checkpoint, tokenizer_file: Path) -> dict[str, object]:
    configs = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
    read = [*checkpoint.files, *(p for name in configs if (p := checkpoint.folder / name).is_file())]
    return {
        "recipe": {"file": recipe.name, "sha256": _sha256(recipe)},
        "checkpoint": {"folder": str(checkpoint.folder.resolve()), "files": {p.name: _sha256(p) for p in read}},
        "tokenizer": {"file": str(tokenizer_file.resolve()), "sha256": _sha256(tokenizer_file)},
        "versions": {
            "recap-fast": __version__,
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
            "python": platform.python_version(),
        },
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / SPEC_FILE).is_file():
        raise ConfigError(f"--output {output} is there and is no engine directory: give another folder.")
    if not overwrite:
        raise ConfigError(f"--output {output} holds an engine: give another folder, or --overwrite to replace it.")


@contextlib.contextmanager
def _new_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `output` that takes its name when the block ends well, and is removed when it does not."""
    output.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{output.name}.", ".building"
    for path in output.parent.iterdir():
        if path.name.startswith(prefix) and path.suffix == suffix:
            builder = path.name.removeprefix(prefix).removesuffix(suffix)
            if builder == owner() or not is_alive(builder):
                shutil.rmtree(path, ignore_errors=True)
    folder = output.parent / f"{prefix}{owner()}{suffix}"
    folder.mkdir()
    try:
        yield folder
        for path in (p for p in folder.rglob("*") if p.is_file()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        _check_output(output, overwrite)
        if output.exists():
            replaced = folder.with_suffix(".replaced")
            output.replace(replaced)
            folder.replace(output)
            shutil.rmtree(replaced)
        else:
            folder.replace(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _no_progress(done: int, total: int) -> None:
    pass
