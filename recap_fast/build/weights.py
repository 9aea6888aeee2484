"""weights.safetensors: the tensors of an engine (generate/layout.py), read, cast and written in bounded memory."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from recap_fast.build.checkpoint import Checkpoint, TensorSource
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.layout import (
    CODES,
    EIGHT_BITS,
    FusedTensor,
    StoredTensor,
    checksum,
    file_order,
    order_tensors,
    stored_tensors,
)
from recap_fast.generate.ops.linear import quantize_channels
from recap_fast.generate.spec import Precision
from recap_fast.progress import OnProgress, unwatched
from recap_fast.text import sized

CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """Checksums of a file that was written."""

    sha256: str
    checksums: dict[str, str]
    """One for each tensor, by name: see `layout.checksum`."""


def expected_shapes(plan: list[FusedTensor]) -> dict[str, tuple[int, ...]]:
    """The checkpoint's tensors that a plan reads, by our names."""
    return {name: shape for tensor in plan if not tensor.is_optional for name, shape in tensor.sources.items()}


def check_sides(plan: list[FusedTensor], precision: Precision) -> None:
    """Raises ConfigError where the precision does not take the sides of a layer."""
    if precision not in EIGHT_BITS:
        return
    multiple = EIGHT_BITS[precision].multiple
    for tensor in plan:
        if tensor.is_text_linear and any(side % multiple for side in tensor.shape):
            raise ConfigError(
                f"precision {precision}: {tensor.name} is {list(tensor.shape)}, and {precision} takes multiples of "
                f"{multiple}. Use precision bfloat16."
            )


def write_weights(
    path: Path,
    plan: list[FusedTensor],
    checkpoint: Checkpoint,
    precision: Precision,
    progress: OnProgress = unwatched,
) -> WrittenWeights:
    """Writes the file.

    Memory is bounded by a few pieces of 16 MiB, whatever the checkpoint's size. Raises ConfigError where the disk has
    no room for it, and for a weight that is not finite, or too large for the precision.
    """
    entries = file_order(plan, precision)
    total, done, digest = sum(e.num_bytes for e in entries), 0, hashlib.sha256()
    _check_room(path.parent, total)
    checksums = dict.fromkeys((entry.name for entry in entries), "")
    with path.open("xb") as file:
        header = _header(entries)
        file.write(header)
        digest.update(header)
        for tensor in order_tensors(plan, precision):
            for entry, piece in _pieces(tensor, checkpoint, precision):
                data = piece.contiguous().view(torch.uint8).numpy().data
                file.write(data)
                digest.update(data)
                checksums[entry.name] = checksum(data, checksums[entry.name])
                done += piece.nbytes
                progress(done, total)
    _check(path, entries)
    return WrittenWeights(digest.hexdigest(), checksums)


def _check_room(folder: Path, num_bytes: int) -> None:
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < num_bytes:  # some file systems of networks tell nothing, and say 0
        raise ConfigError(
            f"The weights take {sized(num_bytes)}, and {folder.parent} has {sized(disk.free)} free: "
            "make room there, or give another --output."
        )


def _check(path: Path, entries: list[StoredTensor]) -> None:
    """Has the library read back what our writer wrote."""
    with safe_open(path, framework="pt") as file:
        found = {n: (file.get_slice(n).get_dtype(), tuple(file.get_slice(n).get_shape())) for n in file.keys()}  # noqa: SIM118
    if found != {e.name: (CODES[e.dtype], e.shape) for e in entries}:
        raise EngineError(f"{path} was not written as planned: is the disk full or failing?")


def _header(entries: list[StoredTensor]) -> bytes:
    content, offset = {}, 0
    for entry in entries:
        end = offset + entry.num_bytes
        content[entry.name] = {"dtype": CODES[entry.dtype], "shape": entry.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    return len(text).to_bytes(8, "little") + text


def _pieces(
    tensor: FusedTensor, checkpoint: Checkpoint, precision: Precision
) -> Iterator[tuple[StoredTensor, torch.Tensor]]:
    """The data of a tensor's entries, in order."""
    entries, scales = stored_tensors(tensor, precision), []
    for name, shape in tensor.sources.items():
        source = checkpoint.tensors.get(name)
        for piece in [torch.zeros(shape)] if source is None else source.read(CHUNK_BYTES):
            if len(entries) == 2:
                stored, scale = quantize_channels(_checked(piece.float(), piece, name, source), entries[0].dtype)
                scales.append(scale)
                yield entries[0], stored
            else:
                yield entries[0], _checked(piece.to(entries[0].dtype), piece, name, source)
    if scales:
        yield entries[1], torch.cat(scales)


def _checked(cast: torch.Tensor, piece: torch.Tensor, name: str, source: TensorSource | None) -> torch.Tensor:
    if not torch.isfinite(cast).all():
        why = f"is too large for {cast.dtype}" if torch.isfinite(piece).all() else "is not finite"
        raise ConfigError(f"{source or name}: a weight {why}.".replace("torch.", ""))
    return cast
