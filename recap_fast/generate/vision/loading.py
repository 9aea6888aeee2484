"""From an engine directory to weights on a device, in the precision that the device computes in."""

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recap_fast.cpus import usable_cpus
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import shown
from recap_fast.generate.json_file import check_readable
from recap_fast.generate.layout import CODES, StoredTensor, checksum, engine_tensors
from recap_fast.generate.ops.linear import quantize_channels
from recap_fast.generate.spec import EngineSpec

logger = logging.getLogger(__name__)

MAX_VERIFIERS = 4
CHUNK_BYTES = 1 << 20
"""Verified at once: what fits a processor's own cache."""
AGAIN = "Copy the engine directory again, or build it again."
LEAST_NOT_FINITE = {
    torch.float32: 0x7F80_0000,
    torch.bfloat16: 0x7F80,
    torch.float16: 0x7C00,
    torch.float8_e4m3fn: 0x7F,
}
"""The bits of the least positive float that is not finite: infinity, or where there is none NaN."""


def model_dtype(spec: EngineSpec, device: torch.device) -> torch.dtype:
    """What everything that is not in 8 bits is computed in.

    That is bfloat16 in 8-bit engines, or float32 on a CPU without instructions for bfloat16.
    """
    is_8_bits = spec.precision != spec.compute_precision
    if is_8_bits and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    dtype: torch.dtype = getattr(torch, spec.compute_precision)
    return dtype


def load_weights(path: Path, spec: EngineSpec, device: torch.device, *, verify: bool = True) -> dict[str, Tensor]:
    """All tensors of the engine's weight file, streamed to the device; on a CPU they stay memory-mapped where they can.

    With `verify` other threads compare each tensor with its checksum in engine.json meanwhile, and look for numbers
    that are not finite. On a CPU the layers of an int8 engine's vision tower are quantized here: there, unlike on a
    GPU, they are worth it. Raises ConfigError, with the tensor's name, for a file that is not the one that was built.
    """
    dtype = model_dtype(spec, device)
    weights: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            expected = engine_tensors(spec)
            _check_header(path, file, expected)
            for name, tensor in _verified(path, file, expected, spec.checksums) if verify else _read(file, expected):
                placed = tensor.to(device)
                weights[name] = placed.to(dtype) if placed.dtype == torch.bfloat16 else placed
    except (OSError, SafetensorError) as error:
        check_readable(path)
        raise ConfigError(f"{path} cannot be read ({error}): build the engine again.") from error
    if spec.precision == "int8" and device.type == "cpu":
        for name in [n for n in weights if n.startswith("vision.layers.") and weights[n].ndim == 2]:
            weights[name], weights[name.replace(".weight", ".scale")] = quantize_channels(weights[name], torch.int8)
    return weights


def _check_header(path: Path, file: Any, expected: Sequence[StoredTensor]) -> None:
    """Raises ConfigError for the first tensor that is missing, unknown, or of another type or shape."""
    names = set(file.keys())
    unknown = sorted(names.difference(tensor.name for tensor in expected))
    if unknown:
        raise ConfigError(f"{path} has the tensor {unknown[0]}, which no engine of these shapes has. {AGAIN}")
    for tensor in expected:
        if tensor.name not in names:
            raise ConfigError(f"{path} lacks the tensor {tensor.name}. {AGAIN}")
        found = file.get_slice(tensor.name)
        if (found.get_dtype(), tuple(found.get_shape())) != (CODES[tensor.dtype], tensor.shape):
            raise ConfigError(
                f"{path}: the tensor {tensor.name} is {found.get_dtype()} {found.get_shape()}, and by engine.json "
                f"{CODES[tensor.dtype]} {list(tensor.shape)}. {AGAIN}"
            )


def _read(file: Any, expected: Iterable[StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    for tensor in expected:
        yield tensor.name, file.get_tensor(tensor.name)


def _verified(
    path: Path, file: Any, expected: Iterable[StoredTensor], checksums: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors, which other threads verify a few ahead. Raises ConfigError for the first one that is damaged."""
    if not checksums:
        logger.warning("%s was built without checksums, so it is not verified. Build the engine again.", path.parent)
    num_threads = min(MAX_VERIFIERS, math.ceil(usable_cpus()))
    pending: deque[tuple[str, Tensor, Future[None]]] = deque()
    with ThreadPoolExecutor(num_threads, "recap-verify") as pool:
        try:
            for name, tensor in _read(file, expected):
                wanted = checksums.get(name, "none") if checksums else None
                pending.append((name, tensor, pool.submit(_verify, path, name, tensor, wanted)))
                if len(pending) > 2 * num_threads:
                    yield _awaited(pending)
            while pending:
                yield _awaited(pending)
        finally:
            pool.shutdown(cancel_futures=True)


def _awaited(pending: deque[tuple[str, Tensor, Future[None]]]) -> tuple[str, Tensor]:
    name, tensor, verifying = pending.popleft()
    verifying.result()
    return name, tensor


def _verify(path: Path, name: str, tensor: Tensor, wanted: str | None) -> None:
    """Raises ConfigError where a tensor's bytes are not those of its checksum, or one of its numbers is not finite."""
    found, is_finite = "", True
    data = tensor.view(torch.uint8).numpy().reshape(-1)
    for start in range(0, len(data), CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        found = found if wanted is None else checksum(chunk.data, found)
        is_finite = is_finite and _is_finite(chunk, tensor.dtype)
    if wanted is not None and found != wanted:
        raise ConfigError(
            f"{path}: the tensor {name} is damaged: its checksum is {found}, by engine.json {shown(wanted)}. {AGAIN}"
        )
    if not is_finite:
        raise ConfigError(f"{path}: the tensor {name} has numbers that are not finite. {AGAIN}")


def _is_finite(data: NDArray[np.uint8], dtype: torch.dtype) -> bool:
    """Whether all of these floats are, by their bits: those of infinity and NaN are larger than all others.

    Read as signed numbers the bits of positive floats are the largest, read as unsigned ones those of negative floats.
    """
    if dtype not in LEAST_NOT_FINITE:
        return True
    signed, unsigned = (data.view(f"{sign}{dtype.itemsize}") for sign in "iu")
    sign = 1 << 8 * dtype.itemsize - 1
    least = LEAST_NOT_FINITE[dtype]
    return int(signed.max()) < least and int(unsigned.max()) < sign + least
