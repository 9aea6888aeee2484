"""The operations of the torch engine on CPUs (csrc/cpu/ops.hpp): float32 and bfloat16, everything without the GIL.

Tensors are torch's, contiguous, on the CPU, and those that are written to (`out`, `x` of `add_rms_norm`, `cache`,
`logits`, `tokens`) must not overlap others. What does not fit raises before anything is written: TypeError for what is
no tensor, ValueError for another dtype, shape or layout and for memory that was freed, IndexError for a slot, position
or row that is not there. Activations are float32 or bfloat16, the same for all tensors of a call. `num_threads` is 1 to
1024.
"""
# ruff: noqa: PYI021 - the documentation is here, the bindings hold conversions only

from typing import final

from torch import Tensor

# Letters: R rows, D width, H query heads, K key/value heads, E head width, T positions of a slot, N rows that are read,
# V vocabulary, n images, P width of the decoder.

def use_threads_of(library: str) -> None:
    """The path of a library that is loaded: the threads of the OpenMP runtime that it is linked to are used from now
    on, before that one thread. Raises ValueError where there is none."""

def kernel_levels() -> list[str]:
    """The levels of instructions that this processor has kernels for, the best one, which is used, first."""

def use_kernels(level: str) -> None:
    """For tests; models that were made before keep their level. Raises ValueError for a level that is not there."""

def add_rms_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, out: Tensor, scale: Tensor | None, num_threads: int
) -> None:
    """x [R, D], delta [R, D], weight [D].

    `out` here and below: [R, D], in int8 where there is a `scale`, float32 [R, 1], else in the dtype of activations.
    """

def swiglu(gate_up: Tensor, out: Tensor, scale: Tensor | None, num_threads: int) -> None:
    """gate_up [R, 2 * D]."""

def quick_gelu(x: Tensor, out: Tensor, scale: Tensor | None, num_threads: int) -> None: ...
def gelu_tanh(x: Tensor, out: Tensor, scale: Tensor | None, num_threads: int) -> None: ...
def quantize_rows(x: Tensor, out: Tensor, scale: Tensor, num_threads: int) -> None: ...
def dequantize(
    sums: Tensor, row_scale: Tensor, channel_scale: Tensor, bias: Tensor | None, out: Tensor, num_threads: int
) -> None:
    """sums int32 [R, D], row_scale [R, 1], channel_scale [D], bias [D], these in float32."""

def rope_store(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    positions: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    cache: Tensor,
    out: Tensor,
    num_threads: int,
) -> None:
    """qkv [R, (H + 2 * K) * E], cos and sin [T, E], slots and positions int64 [R], the norms' weights [E], cache
    [2, slots, K, T, E], out [R, H, E]."""

def decode_attention(
    queries: Tensor, cache: Tensor, slots: Tensor, positions: Tensor, out: Tensor, num_threads: int
) -> None:
    """queries [R, H, E], cache [2, slots, K, T, E], slots and positions int64 [R], out [R, H * E]."""

@final
class Llama:
    """A decoder in float32, with copies of its weights. Threads take turns."""

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        eps: float,
        weights: dict[str, Tensor],
        num_threads: int,
    ) -> None:
        """`weights`: those of an engine's file by its names, with biases and norms of heads if it has them,
        text.head.weight also where it is tied, and text.cos and text.sin [T, E]. Raises KeyError for one that is not
        there."""

    def forward(
        self,
        x: Tensor,
        slots: Tensor,
        positions: Tensor,
        prompts: tuple[int, int, int],
        read: Tensor,
        cache: Tensor,
        logits: Tensor,
        num_threads: int,
        images: tuple[Tensor, int] | None = None,
    ) -> None:
        """x [R, D], overwritten; slots and positions int64 [R]; read int64 [N], ascending; cache of all layers,
        [layers, 2, slots, K, T, E]; logits [N, V].

        `prompts`: their number, first position and length; their rows come first. `images`: numbers of the slots, int64
        [slots], and a position; slots of equal numbers hold the same keys and values before it, so that captions behind
        it may read one's for all.
        """

@final
class Tower:
    """A vision tower and its projector in float32, with copies of their weights. Threads take turns."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_heads: int,
        num_layers: int,
        eps: float,
        activation: str,
        num_dropped: int,
        weights: dict[str, Tensor],
        num_threads: int,
    ) -> None:
        """`weights`: those of an engine's file by its names, and vision.levels [3, 256]. Matrices may have no bias, and
        there may be no class token and no norm before the layers. `activation` is quick_gelu, gelu or gelu_tanh;
        `num_dropped` of an image's positions, the first ones, become no tokens.
        """

    def encode(self, pixels: Tensor, tokens: Tensor, num_threads: int) -> None:
        """pixels uint8 [n, 3, side, side], tokens [n, positions - num_dropped, P]."""
