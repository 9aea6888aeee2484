// The inner loops of ops.cpp and worker.hpp, compiled once for each level of instructions.
#pragma once

#include "cpu/ops.hpp"

namespace recap::cpu {

// Loops over the items [begin, end). `scratch` is memory of the calling thread alone.
template <typename Op>
using Kernel = void (*)(const Op& op, Size begin, Size end, float* scratch);

// Items are rows; of attention (row or prompt, key/value head) pairs, of Pack panels, of Product blocks.
struct Kernels {
  const char* level;
  Kernel<AddRmsNorm> add_rms_norm;                    // scratch [width]
  Kernel<MapRows> swiglu, quick_gelu, quantize_rows;  // scratch [width]
  Kernel<Dequantize> dequantize;                      // no scratch
  Kernel<RopeStore> rope_store;                       // no scratch
  Kernel<DecodeAttention> decode_attention;           // scratch attention_scratch()
  Kernel<Pack> pack;                                  // no scratch
  Kernel<Product> product;                            // scratch kProductScratch
  Kernel<LayerNorm> layer_norm;                       // no scratch
  Kernel<BlockAttention> block_attention;             // scratch block_attention_scratch()
  int block_columns;                                  // of a packed panel
};

// The largest block of sums that registers hold.
constexpr Size kMaxBlockRows = 14;
constexpr Size kMaxBlockColumns = 32;
constexpr Size kProductScratch = kMaxBlockRows * kMaxBlockColumns;

// Of this processor, as use_kernels() chose them. A packed matrix is for those that packed it.
const Kernels& kernels();

// Memory of the calling thread; it grows with need and lives as long as its thread.
float* thread_scratch(Size size);

// Throws std::length_error where threads would need too much: they cannot say that they got none.
void check_scratch(Size size);

// The number of floats that attention works in: of `group` queries to `length` positions each, and of whole blocks.
inline Size attention_scratch(Size group, Size length, Size head_width) {
  return group * (length + 2 * head_width + 1);
}
inline Size block_attention_scratch(Size length, Size head_width) {
  const Size keys = length + kMaxBlockColumns;
  const Size width = head_width + kMaxBlockColumns;
  return 2 * width * keys + kMaxBlockRows * (2 * width + keys);
}

#if defined(__x86_64__)
extern const Kernels kernels_v4;  // AVX-512
extern const Kernels kernels_v3;  // AVX2
#endif
extern const Kernels kernels_baseline;

}  // namespace recap::cpu
