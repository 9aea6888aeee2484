// The operations of the torch engine on CPUs, over raw memory that bindings have checked, and the kernels that compute
// them, compiled once for each level of instructions; what each computes is said in
// recap_fast/generate/ops/__init__.py. Letters: R rows, D width, H query heads, K key/value heads, T positions of a
// slot, E head width.
#pragma once

#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

namespace recap::cpu {

using Size = std::int64_t;

// Of activations and weights; sums are in float32 always.
enum class Precision { float32, bfloat16 };

// Where rows [R, D] go: with a `scale` for each in 8 bits, without in the model's precision.
struct RowsOut {
  void* values;
  float* scale = nullptr;
};

struct AddRmsNorm {
  Precision precision = Precision::float32;
  Size rows, width;
  void* x;                      // [R, D], added to
  const void* delta = nullptr;  // [R, D] or null
  const void* weight;
  float eps;
  RowsOut out;
};

// Swiglu, for which `x` is [R, 2 * width], quick_gelu, gelu_tanh, and quantize_rows, whose `out` is in 8 bits.
struct MapRows {
  Precision precision;
  Size rows, width;
  const void* x;
  RowsOut out;
};

struct Dequantize {
  Precision precision;  // of `out`
  Size rows, width;
  const std::int32_t* sums;
  const float* row_scale;
  const float* channel_scale;
  const float* bias;  // [width] or null
  void* out;
};

// One layer's keys and values, [2, slots, K, T, E], in the model's precision.
struct Cache {
  void* data;
  Size num_slots, num_kv_heads, num_positions, head_width;

  [[gnu::always_inline]] Size head_stride() const {
    return num_positions * head_width;
  }  // from one head of a slot to the next
  [[gnu::always_inline]] Size slot_stride() const { return num_kv_heads * head_stride(); }
  [[gnu::always_inline]] Size values_offset() const { return num_slots * slot_stride(); }  // from keys to values
};

// Where the keys and values of each row are.
struct Places {
  Size rows;
  const Size* slots;
  const Size* positions;
};

// Places copied, as those given may change while kernels run. Throws std::out_of_range for one outside of the cache.
struct PlaceList {
  PlaceList(const Places& places, const Cache& cache);
  Places view() const { return {.rows = std::ssize(slots), .slots = slots.data(), .positions = positions.data()}; }

  std::vector<Size> slots, positions;
};

struct RopeStore {
  Precision precision = Precision::float32;
  Size num_heads;
  const void* qkv;                                        // [R, (H + 2 * K) * E]
  const void *query_norm = nullptr, *key_norm = nullptr;  // weights [E] of each head's RMS norm, or null
  float eps = 0;
  const void* cos;  // [T, E]
  const void* sin;  // [T, E], the first half negated
  Places places;
  Cache cache;
  void* queries;  // [R, H, E]
};

// At most so many rows read their common keys and values together.
constexpr Size kMaxSharing = 4;

// Rows whose first `length` keys and values are the same numbers, in slots of their own: group i is the rows
// order[firsts[i]] up to order[firsts[i + 1]], at most kMaxSharing. With `order` null every row is alone.
struct Sharing {
  Size length = 0;
  Size num_groups = 0;
  const Size* order = nullptr;
  const Size* firsts = nullptr;
};

// Items are key/value heads of rows, or of groups of rows.
struct DecodeAttention {
  Precision precision = Precision::float32;
  Size num_heads;
  const void* queries;  // [R, H, E]
  Places places;
  Cache cache;
  void* out;  // [R, H * E]
  Sharing sharing = {};

  [[gnu::always_inline]] bool is_shared() const { return sharing.order != nullptr; }
  [[gnu::always_inline]] Size num_items() const {
    return (is_shared() ? sharing.num_groups : places.rows) * cache.num_kv_heads;
  }
};

// What becomes of a product's sums.
enum class Sums {
  store,
  add,         // to what is there
  swiglu,      // silu(gate) * up of packed pairs
  quick_gelu,  // x * sigmoid(1.702 x)
  gelu,        // x * Phi(x), Phi by erf
  gelu_tanh,   // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
};

// Lays out a matrix for Product; items are panels.
struct Pack {
  Size columns, depth;
  bool pairs;           // of gate and up, the halves of `weight`, for Sums::swiglu
  const float* weight;  // [columns, depth]
  float* packed;
};

// Rows times a matrix that Pack has laid out, in float32.
struct Product {
  Size rows, depth, columns;  // columns of `out`
  const float* x;             // [R, depth]
  const float* packed;
  const float* bias;  // [columns] or null; never with pairs
  Sums sums;
  float* out;                           // [R, columns]
  Size rows_per_item, panels_per_item;  // into which the work is cut
};

struct LayerNorm {
  Size rows, width;
  const float* x;  // [R, D]
  const float *weight, *bias;
  float eps;
  float* out;
};

// Attention of neighboring rows, those of a prompt or of an image, to one another, in float32; with `start` rows before
// them, and causal, for prompts. Pitches are in floats.
struct BlockAttention {
  Size num_heads, num_kv_heads, head_width;
  Size num_blocks, start = 0, length;  // `length` rows a block
  bool causal = false;
  const float* queries;  // [blocks * length, H * E], rows `query_pitch` apart
  Size query_pitch;
  const float *keys, *values;  // of position 0
  Size key_pitch, head_pitch, block_pitch;
  const Size* slots = nullptr;  // of each row, and so of each block; null: they lie in order
  float* out;                   // [blocks * length, H * E]
};

// Loops over the items [begin, end). `scratch` is memory of the calling thread alone.
template <typename Op>
using Kernel = void (*)(const Op& op, Size begin, Size end, float* scratch);

// Items are rows; of attention (row or prompt, key/value head) pairs, of Pack panels, of Product blocks.
struct Kernels {
  const char* level;
  Kernel<AddRmsNorm> add_rms_norm;                               // scratch [width]
  Kernel<MapRows> swiglu, quick_gelu, gelu_tanh, quantize_rows;  // scratch [width]
  Kernel<Dequantize> dequantize;                                 // no scratch
  Kernel<RopeStore> rope_store;                                  // scratch [head width]
  Kernel<DecodeAttention> decode_attention;                      // scratch attention_scratch()
  Kernel<Pack> pack;                                             // no scratch
  Kernel<Product> product;                                       // scratch kProductScratch
  Kernel<LayerNorm> layer_norm;                                  // no scratch
  Kernel<BlockAttention> block_attention;                        // scratch block_attention_scratch()
  int block_columns;                                             // of a packed panel
};

// The largest block of sums that registers hold.
constexpr Size kMaxBlockRows = 14;
constexpr Size kMaxBlockColumns = 32;
constexpr Size kProductScratch = kMaxBlockRows * kMaxBlockColumns;

// The levels of instructions that this processor has kernels for, the best one, which is used, first. Throws
// std::invalid_argument for another one.
std::vector<std::string> kernel_levels();
void use_kernels(const std::string& level);
// Those that are used. A packed matrix is for those that packed it.
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
