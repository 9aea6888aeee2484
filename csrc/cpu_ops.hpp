// The operations of the torch engine on CPUs, over raw memory; what each computes is said in
// recap_fast/generate/torch_backend/ops/__init__.py. Letters: R rows, D width, H query heads, K
// key/value heads, T positions of a slot, E head width.
#pragma once

#include <cstdint>

namespace recap::cpu {

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

struct QuantiseRows {
  Precision precision;
  std::int64_t rows, width;
  const void* x;
  RowsOut out;  // in 8 bits
};

struct Dequantise {
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

// Each runs on up to `num_threads` threads (see parallel.hpp) and gives the same bits with any
// number of them. Those with places throw std::out_of_range for one outside of the cache.
void run(const AddRmsNorm& op, int num_threads);
void run(const Swiglu& op, int num_threads);
void run(const QuickGelu& op, int num_threads);
void run(const QuantiseRows& op, int num_threads);
void run(const Dequantise& op, int num_threads);
void run(const RopeStore& op, int num_threads);
void run(const DecodeAttention& op, int num_threads);

}  // namespace recap::cpu
