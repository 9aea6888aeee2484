"""Counts the kernels that a step launches on a GPU, and the bytes that they read and write at least.

An operation of torch counts as one kernel, after torch has decomposed those that are made of others. So does a launch
of one of our own kernels. Views and allocations launch nothing; `LAUNCHES` has the operations that launch several. What
cuBLAS and cuDNN launch beside their main kernels is not known here.

Bytes are those of every argument and result, once each; caches are left out of account. An operation that indexes a
table reads as many bytes as it returns. Of keys and values, only the positions that the rows attend to are counted.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

SDPA = "scaled_dot_product_attention"
"""One kernel, of cuDNN or FlashAttention. Its result has the strides of the queries."""
ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
NO_LAUNCH = ALLOCATIONS | {"_unsafe_view"}
LAUNCHES = {"constant_pad_nd": 2}
"""Kernels of an operation, where it is not one: padding fills, then copies."""
BY_INDEX = frozenset({"index", "embedding", "index_select", "gather"})
MAX_CAT = 128
"""Tensors that one kernel of `cat` takes at most."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a step."""

    name: str
    """That of aten, or of the kernel's function."""
    launches: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How many positions of the cache a step reads, for the kernels that get all of it."""

    decode_positions: int
    """Positions that a running caption attends to, on average."""
    num_images: int
    prompt_positions: int
    """Of an image, its text and what is before it."""

    def positions(self, kernel: str, grid: tuple[int, ...]) -> int | None:
        """Positions whose keys the kernel reads or writes; None for a kernel that is not known."""
        rules: dict[str, Callable[[], int]] = {
            r"store": lambda: grid[0],  # a program is a row
            r"prefill|prompt": lambda: self.num_images * self.prompt_positions,
            r"decode|attention": lambda: grid[0] * self.decode_positions,
        }
        return next((count() for pattern, count in rules.items() if re.search(pattern, kernel)), None)


class Recorder(TorchDispatchMode):
    """Notes every operation on tensors that runs within it. `launch` is for `fake_card` to call."""

    def __init__(self, reach: Reach):
        super().__init__()
        self.operations: list[Operation] = []
        self.cache: Tensor | None = None
        """Keys and values of all layers [layers, 2, slots, K, T, E]."""
        self._reach = reach

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and notes it, or those that it is made of."""
        del types
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if func.namespace == "prim":  # asks a tensor for its device
            return func(*args, **kwargs)
        if name != SDPA and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        result = _attend(func, args, kwargs) if name == SDPA else func(*args, **kwargs)
        if not (func.is_view or name in NO_LAUNCH):
            self.operations.append(Operation(name, _launches(name, args), _bytes_of(name, (args, kwargs), result)))
        return result

    def launch(self, kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """Notes a launch of one of our kernels."""
        name = kernel.__name__
        num_bytes = sum(self._argument_bytes(name, grid, x) for x in tree_leaves(args) if isinstance(x, Tensor))
        if name.startswith("add_rms_norm") and args[1].sums is not None:  # it writes the sum, too
            num_bytes += size_of(args[0])
        self.operations.append(Operation(name, 1, num_bytes))

    def _argument_bytes(self, kernel: str, grid: tuple[int, ...], argument: Tensor) -> int:
        """All of a tensor, but of a layer's keys or values [slots, K, T, E] no more than is reached."""
        cache = self.cache
        if cache is None or argument.untyped_storage()._cdata != cache.untyped_storage()._cdata:
            return size_of(argument)
        positions = self._reach.positions(kernel, grid)
        if positions is None:
            return size_of(argument)
        heads, _, width = argument.shape[-3:]
        parts = math.prod(argument.shape[:-4])  # keys, or values, or both
        return parts * positions * heads * width * argument.itemsize


def _attend(sdpa: Any, args: Any, kwargs: Any) -> Tensor:
    """A result as cuDNN makes it, after torch's checks of shapes: on a GPU's tensors, torch would ask the driver."""
    shapes, options = tree_map_only(Tensor, lambda x: x.to("meta"), (args, kwargs))
    result = torch.empty_like(args[0])
    assert sdpa(*shapes, **options).shape == result.shape
    return result


def size_of(x: Tensor) -> int:
    """Bytes in memory of a tensor's numbers; those that are repeated by a stride of 0 count once."""
    sides = [side for side, stride in zip(x.shape, x.stride(), strict=True) if stride or side == 0]
    return math.prod(sides) * x.itemsize


def _launches(name: str, args: tuple[Any, ...]) -> int:
    return math.ceil(len(args[0]) / MAX_CAT) if name == "cat" else LAUNCHES.get(name, 1)


def _bytes_of(name: str, arguments: Any, result: Any) -> int:
    tensors = list(_tensors(arguments))
    written = sum(map(size_of, _tensors(result)))
    if name in BY_INDEX:  # as many of the table's rows as there are results
        return 2 * written + sum(map(size_of, tensors[1:]))
    if name == "index_put_":  # what is put: read, and written to as much of the table
        return 2 * sum(map(size_of, tensors[1:]))
    if name == "constant_pad_nd":
        return written + 2 * size_of(tensors[0])
    return sum(map(size_of, tensors)) + written


def _tensors(values: Any) -> Iterator[Tensor]:
    leaves: Iterable[Any] = tree_leaves(values)
    return (x for x in leaves if isinstance(x, Tensor))
