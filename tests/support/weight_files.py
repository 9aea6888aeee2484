"""An engine's weights with other numbers in them."""

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recap_fast.generate.layout import checksum
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec


def change_weights(folder: Path, **changed: Tensor | None) -> None:
    """Puts tensors into an engine's file, '__' for '.' in their names; None takes one out. engine.json stays."""
    named = {name.replace("__", "."): tensor for name, tensor in changed.items()}
    tensors = {**load_file(folder / WEIGHTS_FILE), **named}
    save_file({name: t.clone() for name, t in tensors.items() if t is not None}, folder / WEIGHTS_FILE)


def with_nan(tensor: Tensor, place: int) -> Tensor:
    """A copy of floats in which one number is none."""
    copy = tensor.clone()
    flat = copy.view(-1)
    if tensor.dtype == torch.float8_e4m3fn:
        flat.view(torch.uint8)[place % len(flat)] = 0x7F
    else:
        flat[place % len(flat)] = torch.nan
    return copy


def renew_checksums(folder: Path) -> EngineSpec:
    """Writes engine.json for the file as it is."""
    tensors = load_file(folder / WEIGHTS_FILE)
    found = {name: checksum(t.reshape(-1).view(torch.uint8).numpy().data) for name, t in tensors.items()}
    spec = dataclasses.replace(EngineSpec.load(folder), checksums=found)
    spec.save(folder)
    return spec
