"""Operations of the torch engine on NVIDIA GPUs (csrc/cuda). The module exists only in packages built with CUDA.

Arrays are contiguous, and given by their addresses on the current device, `tensor.data_ptr()`. What is at them is not
checked. An operation is launched on a stream and not waited for. It can be captured in a CUDA graph after it has run
once. Raises ValueError for sizes and addresses that are not possible, RuntimeError where CUDA refuses the launch.
"""
# ruff: noqa: PYI021 - the documentation is here, the bindings hold conversions only

# Letters: B decode rows, H query heads, K key/value heads, E head width, T positions of a slot.

def decode_attention(
    *,
    queries: int,
    keys: int,
    values: int,
    slots: int,
    positions: int,
    out: int,
    quantized: tuple[int, float] | None,
    in_8_bits: bool,
    sizes: tuple[int, int, int, int, int],
    stream: int,
) -> None:
    """`Ops.attention` of single rows; an idle row, at position T - 1, gets zeros. `sizes` are B, H, K, T, E.

    queries bfloat16 [B, H, E], keys and values [slots, K, T, E] in e4m3 if `in_8_bits`, else in bfloat16, slots and
    positions int64 [B], out bfloat16 [B, H * E]. With `quantized`, the address of scales, float32 [B, 1], and a bound
    of the values' magnitude, out is e4m3, each scale is bound / 448, and the result is out * scale. H / K is at most 8,
    E is 64 or 128. e4m3 needs compute capability 8.9.
    """
