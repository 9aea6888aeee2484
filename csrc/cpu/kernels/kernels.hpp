// The inner loops of ops.cpp and worker.hpp, compiled once for each level of instructions.
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
  Kernel<DecodeAttention> decode_attention;  // scratch attention_scratch()
  Kernel<Pack> pack;                         // no scratch
  Kernel<Product> product;                   // scratch kProductScratch
  Kernel<LayerNorm> layer_norm;              // no scratch
  Kernel<BlockAttention> block_attention;    // scratch block_attention_scratch()
  int block_columns;                         // of a packed panel
};

// The largest block of sums that registers hold.
constexpr std::int64_t kMaxBlockRows = 14;
constexpr std::int64_t kMaxBlockColumns = 32;
constexpr std::int64_t kProductScratch = kMaxBlockRows * kMaxBlockColumns;

// Of this processor, as use_kernels() chose them. A packed matrix is for those that packed it.
const Kernels& kernels();

// Memory of the calling thread; it grows with need and lives as long as its thread.
float* thread_scratch(std::int64_t size);

// Throws std::length_error where threads would need too much: they cannot say that they got none.
void check_scratch(std::int64_t size);

// The number of floats that attention works in: of `group` queries to `length` positions each, and
// of whole blocks.
inline std::int64_t attention_scratch(std::int64_t group, std::int64_t length,
                                      std::int64_t head_width) {
  return group * (length + 2 * head_width + 1);
}
inline std::int64_t block_attention_scratch(std::int64_t length, std::int64_t head_width) {
  const std::int64_t keys = length + kMaxBlockColumns;
  const std::int64_t width = head_width + kMaxBlockColumns;
  return 2 * width * keys + kMaxBlockRows * (2 * width + keys);
}

#if defined(__x86_64__)
extern const Kernels kernels_v4;  // AVX-512
extern const Kernels kernels_v3;  // AVX2
#endif
extern const Kernels kernels_baseline;

}  // namespace recap::cpu
