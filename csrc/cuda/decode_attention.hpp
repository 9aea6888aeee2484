// Attention of single rows to the key/value cache: `Ops.attention` in recap_fast/generate/ops/__init__.py.
#pragma once

#include <cstdint>

namespace recap::cuda {

// Query heads that share a key/value head, at most: the columns of a product on the matrix units.
constexpr int kMaxGroup = 8;

// Addresses are on the device, arrays contiguous. All sizes are in elements.
struct DecodeAttention {
  bool in_8_bits;  // the cache: e4m3, else bfloat16
  int rows, num_heads, num_kv_heads, num_positions, head_width;
  const void* queries;                    // bfloat16 [rows, heads, width]
  const void *keys, *values;              // [slots, kv heads, positions, width]
  const std::int64_t *slots, *positions;  // [rows]; a row attends to positions 0 to its own; at the last one it is idle
  void* out;                              // [rows, heads * width]: bfloat16, or with `scale` e4m3
  float* scale;                           // [rows], or null
  float bound;                            // of a value's magnitude; with `scale`, out * (bound / 448) is the result
};

// Launches it on a stream, a cudaStream_t, and does not wait. Throws std::runtime_error where CUDA refuses it.
void launch(const DecodeAttention& op, void* stream);

}  // namespace recap::cuda
