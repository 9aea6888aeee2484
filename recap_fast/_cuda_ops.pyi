"""Operations of the torch engine on NVIDIA GPUs (csrc/cuda), there where the package was built with CUDA.

Arguments are addresses on the current device, `tensor.data_ptr()`, of contiguous arrays. What is at them is not
checked. An operation is put on a stream and not waited for: it can be captured in a CUDA graph after it has run once.
Raises ValueError for sizes and addresses that do not fit, RuntimeError for what CUDA says to the launch.
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
    """`Ops.decode_attention`; an idle row, at position T - 1, gets zeros. The sizes are B, H, K, T, E.

    queries bfloat16 [B, H, E], keys and values [slots, K, T, E] in e4m3 if `in_8_bits`, else in bfloat16, slots and
    positions int64 [B], out bfloat16 [B, H * E]. `quantized` is a scale, float32 [B, 1], and a bound of the values'
    magnitude: out is e4m3 then, the scale bound / 448, and out * scale are the numbers that are meant. H / K is at most
    8, E 64 or 128. e4m3 needs compute capability 8.9.
    """
