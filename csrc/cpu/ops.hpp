// The operations of the torch engine on CPUs, over raw memory that bindings.cpp has checked; what
// each computes is said in recap_fast/generate/ops/__init__.py. Letters: R rows, D
// width, H query heads, K key/value heads, T positions of a slot, E head width.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace recap::cpu {

// The levels of instructions that this processor has kernels for, the best one, which is used,
// first. Throws std::invalid_argument for another one.
std::vector<std::string> kernel_levels();
void use_kernels(const std::string& level);

// Of activations and weights; sums are in float32 always.
enum class Precision { float32, bfloat16 };

// Where rows [R, D] go: to `rows` in the model's precision, or where that is null to `values` in 8
// bits with one `scale` for each row.
struct RowsOut {
  void* rows;
  std::int8_t* values;
  float* scale;
};

struct AddRmsNorm {
  Precision precision;
  std::int64_t rows, width;
  void* x;            // [R, D], added to
  const void* delta;  // [R, D] or null
  const void* weight;
  float eps;
  RowsOut out;
};

struct Swiglu {
  Precision precision;
  std::int64_t rows, width;
  const void* gate_up;  // [R, 2 * width]
  RowsOut out;
};

struct QuickGelu {
  Precision precision;
  std::int64_t rows, width;
  const void* x;
  RowsOut out;
};

struct QuantizeRows {
  Precision precision;
  std::int64_t rows, width;
  const void* x;
  RowsOut out;  // in 8 bits
};

struct Dequantize {
  Precision precision;  // of `out`
  std::int64_t rows, width;
  bool float_sums;
  const void* sums;  // of int32 or float32
  const float* row_scale;
  const float* channel_scale;
  const float* bias;  // [width] or null
  void* out;
};

// One layer's keys and values, [2, slots, K, T, E], in the model's precision.
struct Cache {
  void* data;
  std::int64_t num_slots, num_kv_heads, num_positions, head_width;
};

// Where the keys and values of each row are.
struct Places {
  std::int64_t rows;
  const std::int64_t* slots;
  const std::int64_t* positions;
};

// Places that are inside of a cache, copied: what they were copied from may change while kernels
// run. Throws std::out_of_range for others.
class PlaceList {
 public:
  PlaceList(const Places& places, const Cache& cache);
  Places view() const;

 private:
  std::vector<std::int64_t> slots_, positions_;
};

struct RopeStore {
  Precision precision;
  std::int64_t num_heads;
  const void* qkv;  // [R, (H + 2 * K) * E]
  const void* cos;  // [T, E]
  const void* sin;  // [T, E], the first half negated
  Places places;
  Cache cache;
  void* queries;  // [R, H, E]
};

struct DecodeAttention {
  Precision precision;
  std::int64_t num_heads;
  const void* queries;  // [R, H, E]
  Places places;
  Cache cache;
  void* out;  // [R, H * E]
};

// What becomes of a product's sums.
enum class Sums {
  store,
  add,         // to what is there
  swiglu,      // silu(gate) * up of packed pairs
  quick_gelu,  // x * sigmoid(1.702 x)
  gelu,        // x * Phi(x), Phi by erf
};

// Lays out a matrix for Product; items are panels.
struct Pack {
  std::int64_t columns, depth;
  bool pairs;           // of gate and up, the halves of `weight`, for Sums::swiglu
  const float* weight;  // [columns, depth]
  float* packed;
};

// Rows times a matrix that Pack has laid out, in float32.
struct Product {
  std::int64_t rows, depth, columns;  // columns of `out`
  const float* x;                     // [R, depth]
  const float* packed;
  const float* bias;  // [columns] or null; never with pairs
  Sums sums;
  float* out;                                   // [R, columns]
  std::int64_t rows_per_item, panels_per_item;  // into which the work is cut
};

struct LayerNorm {
  std::int64_t rows, width;
  const float* x;  // [R, D]
  const float *weight, *bias;
  float eps;
  float* out;
};

// Attention of neighboring rows, those of a prompt or of an image, to one another, in float32; with
// `start` rows before them, and causal, for prompts. Pitches are in floats.
struct BlockAttention {
  std::int64_t num_heads, num_kv_heads, head_width;
  std::int64_t num_blocks, start, length;  // `length` rows a block
  bool causal;
  const float* queries;  // [blocks * length, H * E], rows `query_pitch` apart
  std::int64_t query_pitch;
  const float *keys, *values;  // of position 0
  std::int64_t key_pitch, head_pitch, block_pitch;
  const std::int64_t* slots;  // of each row, and so of each block; null where they lie in order
  float* out;                 // [blocks * length, H * E]
};

// Each of those below runs on up to `num_threads` threads (see parallel.hpp) and gives the same
// bits with any number of them. Those with places throw std::out_of_range for one outside of the
// cache, and all std::length_error for rows too wide to work on.
void run(const AddRmsNorm& op, int num_threads);
void run(const Swiglu& op, int num_threads);
void run(const QuickGelu& op, int num_threads);
void run(const QuantizeRows& op, int num_threads);
void run(const Dequantize& op, int num_threads);
void run(RopeStore op, int num_threads);
void run(DecodeAttention op, int num_threads);

}  // namespace recap::cpu
