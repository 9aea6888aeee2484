"""`build-engine`: a recipe and a checkpoint become an engine directory.

    weights.safetensors   the engine's own tensors (weights.py)
    tensorrt_llm/         the language model, for that backend (tensorrt.py)
    tokenizer.json        or tokenizer.model, as it came
    engine.json           everything else (generate/spec.py), written last

The folder gets its name when it is complete; whatever interrupts the build leaves nothing that looks like an engine.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from recap_fast.atomic import sha256_of, sync_folder
from recap_fast.build.architecture import Architecture, read_architecture
from recap_fast.build.checkpoint import Checkpoint, open_checkpoint
from recap_fast.build.engine_spec import check_device, make_spec, parse_precision
from recap_fast.build.model_files import add_weights, describe_sources, find_checkpoint, find_tokenizer_file
from recap_fast.build.recipe import load_recipe, recipe_files
from recap_fast.build.tensorrt import TensorRTBuild
from recap_fast.build.weights import CHUNK_BYTES, check_sides, expected_shapes, write_weights
from recap_fast.errors import ConfigError
from recap_fast.generate.replacement import BUILDING, beside, remove_leftovers, replace_folder, restore
from recap_fast.generate.spec import SPEC_FILE, WEIGHTS_FILE, Backend, EngineSpec
from recap_fast.generate.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from recap_fast.progress import OnProgress


def build_engine(
    recipe: str | Path,
    checkpoint: str | Path,
    output: str | Path,
    *,
    tokenizer: str | Path | None = None,
    precision: str | None = None,
    overwrite: bool = False,
    progress: "OnProgress" = lambda done, total: None,
    backend: Backend = "torch",
    calibration: str | Path | None = None,
    announce: Callable[[EngineSpec, Tokenizer], None] = lambda spec, tokenizer: None,
) -> EngineSpec:
    """Builds an engine directory and returns what its engine.json says.

    `recipe` is a path or the name of a recipe that ships; `checkpoint` a folder, or a name on the Hugging Face Hub such
    as 'org/name' or 'org/name@revision', which is downloaded into the Hub's cache; `tokenizer` a folder, a file or such
    a name to use instead of the checkpoint's; `precision` replaces the recipe's; `progress` is called with bytes
    written and bytes in all; `calibration` has captions, for FP8 of the backend tensorrt-llm; `announce` is called with
    what will be built, when all is checked that can be checked before a weight is read. Raises ConfigError for anything
    that cannot be used.
    """
    output = Path(output)
    if output.is_symlink():
        output = output.resolve()
    choices = load_recipe(recipe)
    if precision is not None:
        choices = replace(choices, precision=parse_precision(precision))
    if backend == "torch" and calibration:
        raise ConfigError("--calibration is for --backend tensorrt-llm: leave it out.")
    restore(output, SPEC_FILE)
    _check_output(output, overwrite)
    found = find_checkpoint(checkpoint)
    architecture = read_architecture(found.path)
    tokenizer_file = find_tokenizer_file(tokenizer, found, architecture.text.vocab_size)
    vocabulary = load_tokenizer(tokenizer_file.path)
    found = add_weights(found, checkpoint)
    source = open_checkpoint(found.path, found.title)
    architecture = _check_tensors(source, architecture)
    spec = make_spec(choices, source, architecture, vocabulary)
    plan = architecture.plan()
    check_sides(plan, spec.precision)
    check_device(spec)
    tensorrt = None
    if backend == "tensorrt-llm":
        captions = None if calibration is None else Path(calibration)
        tensorrt = TensorRTBuild(spec, source, plan, tokenizer_file.path, captions)
    announce(replace(spec, backend=backend), vocabulary)
    with _new_folder(output, overwrite) as folder:
        if tensorrt is not None:
            spec = tensorrt.write(folder, output, progress)
        else:
            written = write_weights(folder / WEIGHTS_FILE, plan, source, spec.precision, progress)
            spec = replace(spec, files={WEIGHTS_FILE: written.sha256}, checksums=written.checksums)
        stored = folder / ("tokenizer.model" if tokenizer_file.path.suffix == ".model" else "tokenizer.json")
        shutil.copyfile(tokenizer_file.path, stored)
        sources = describe_sources(recipe_files(recipe), found, source.files, tokenizer_file)
        spec = replace(spec, sources=sources, files={**spec.files, stored.name: sha256_of(stored)})
        spec.save(folder)
    return spec


def _check_tensors(checkpoint: Checkpoint, architecture: Architecture) -> Architecture:
    """Checks every tensor against the architecture; returns it with `tied_head` as the file has it."""
    text = architecture.text
    is_tied = text.tied_head and "head.weight" not in checkpoint.tensors
    untied = replace(architecture, text=replace(text, tied_head=is_tied))
    ran = architecture.vision.num_layers
    unused = [f"vision.encoder.layers.{i}." for i in range(ran, architecture.num_vision_layers)]
    checkpoint.check(expected_shapes(untied.plan()), unused)
    if not text.tied_head or is_tied:
        return untied
    head, embedding = checkpoint.tensors["head.weight"], checkpoint.tensors["text.embed_tokens.weight"]
    if head.dtype == embedding.dtype:
        pairs = zip(head.read(CHUNK_BYTES), embedding.read(CHUNK_BYTES), strict=True)
        if all(torch.equal(a, b) for a, b in pairs):
            return architecture
    raise ConfigError(
        f"{checkpoint.folder}: config.json ties the head to the embedding, and {head.name} differs from "
        f"{embedding.name}. If the head is meant to be used, set tie_word_embeddings to false."
    )


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / SPEC_FILE).is_file():
        raise ConfigError(f"--output {output} exists and is not an engine directory: give another folder.")
    if not overwrite:
        raise ConfigError(f"--output {output} holds an engine: give another folder, or --overwrite to replace it.")


@contextlib.contextmanager
def _new_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `output` that takes its name when the block ends well, and is removed when it does not."""
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    folder = beside(output, BUILDING)
    folder.mkdir()
    try:
        yield folder
        for path in folder.rglob("*"):
            _sync(path)
        _sync(folder)
        _check_output(output, overwrite)
        if output.exists():
            replace_folder(folder, output, SPEC_FILE)
        else:
            folder.rename(output)
            sync_folder(output.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
    else:
        with path.open("rb") as file:
            os.fsync(file.fileno())
