// The inner loops of cpu_ops.cpp, compiled once for each level of instructions.
#pragma once

#include "cpu/ops.hpp"

namespace recap::cpu {

// Loops over the items [begin, end). `scratch` is memory of the calling thread alone.
template <typename Op>
using Kernel = void (*)(const Op& op, std::int64_t begin, std::int64_t end, float* scratch);

// Items are rows; of attention (row or prompt, key/value head) pairs, of Pack panels, of Product
// blocks.
struct Kernels {
  Kernel<AddRmsNorm> add_rms_norm;           // scratch [width]
  Kernel<Swiglu> swiglu;                     // scratch [width]
  Kernel<QuickGelu> quick_gelu;              // scratch [width]
  Kernel<QuantizeRows> quantize_rows;        // scratch [width]
  Kernel<Dequantize> dequantize;             // no scratch
  Kernel<RopeStore> rope_store;              // no scratch
  Kernel<DecodeAttention> decode_attention;  // scratch as attention_scratch() says
  Kernel<Pack> pack;                         // no scratch
  Kernel<Product> product;                   // scratch kProductScratch
  Kernel<LayerNorm> layer_norm;              // no scratch
  Kernel<BlockAttention> block_attention;    // scratch as attention_scratch() says
  int block_columns;                         // of a packed panel
};

// The largest block of sums that registers hold.
constexpr std::int64_t kMaxBlockRows = 14;
constexpr std::int64_t kMaxBlockColumns = 32;
constexpr std::int64_t kProductScratch = kMaxBlockRows * kMaxBlockColumns;

// Of this processor.
const Kernels& kernels();

// Memory of the calling thread; it grows with need and lives as long as its thread.
float* thread_scratch(std::int64_t size);

// Throws std::out_of_range for a place outside of the cache.
void check_places(const Places& places, const Cache& cache);

// The number of floats that attention works in.
inline std::int64_t attention_scratch(const DecodeAttention& op) {
  const std::int64_t group = op.num_heads / op.cache.num_kv_heads;
  return group * (op.cache.num_positions + 2 * op.cache.head_width + 1);
}
inline std::int64_t attention_scratch(const BlockAttention& op) {
  const std::int64_t length = op.start + op.length + kMaxBlockColumns;
  const std::int64_t width = op.head_width + kMaxBlockColumns;
  return 2 * width * length + kMaxBlockRows * (2 * width + length);
}

#if defined(__x86_64__)
extern const Kernels kernels_v4;  // AVX-512
extern const Kernels kernels_v3;  // AVX2
#endif
extern const Kernels kernels_baseline;

}  // namespace recap::cpu
