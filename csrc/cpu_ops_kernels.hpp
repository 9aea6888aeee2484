// The inner loops of cpu_ops.cpp, compiled once for each level of instructions.
#pragma once

#include "cpu_ops.hpp"

namespace recap::cpu {

// Loops over the items [begin, end). `scratch` is memory of the calling thread alone.
template <typename Op>
using Kernel = void (*)(const Op& op, std::int64_t begin, std::int64_t end, float* scratch);

// Items are rows, of attention (row, key/value head) pairs.
struct Kernels {
  Kernel<AddRmsNorm> add_rms_norm;           // scratch [width]
  Kernel<Swiglu> swiglu;                     // scratch [width]
  Kernel<QuickGelu> quick_gelu;              // scratch [width]
  Kernel<QuantiseRows> quantise_rows;        // scratch [width]
  Kernel<Dequantise> dequantise;             // no scratch
  Kernel<RopeStore> rope_store;              // no scratch
  Kernel<DecodeAttention> decode_attention;  // scratch as attention_scratch() says
};

// The number of floats that attention works in.
inline std::int64_t attention_scratch(const DecodeAttention& op) {
  const std::int64_t group = op.num_heads / op.cache.num_kv_heads;
  return group * (op.cache.num_positions + 2 * op.cache.head_width + 1);
}

#if defined(__x86_64__)
extern const Kernels kernels_v4;  // AVX-512
extern const Kernels kernels_v3;  // AVX2
#endif
extern const Kernels kernels_baseline;

}  // namespace recap::cpu
