#include "cpu/llama.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/worker.hpp"

namespace recap::cpu {
namespace {

std::int64_t queries_width(const DecoderShape& shape) {
  return shape.num_heads * shape.head_width;
}
std::int64_t kv_width(const DecoderShape& shape) {
  return 2 * shape.num_kv_heads * shape.head_width;
}

// Intermediate results.
struct Buffers {
  float *normed, *qkv, *queries, *attended, *inner;  // [R, ...]
  float *read_x, *read_normed;                       // [N, D]
};

// One thread's way through a step; all threads of the team go it together.
class Pass {
 public:
  Pass(Team& team, const DecoderShape& shape, const DecoderWeights& weights, const Buffers& buffers)
      : worker_(team), shape_(shape), weights_(weights), to_(buffers) {}

  void run(const DecoderRows& rows, const Places& read, Cache cache, float* logits) {
    const std::int64_t layer_size =
        2 * cache.num_slots * cache.num_kv_heads * cache.num_positions * cache.head_width;
    for (std::size_t i = 0; i + 1 < weights_.layers.size(); ++i) {
      run_layer(weights_.layers[i], rows, cache);
      cache.data = static_cast<float*>(cache.data) + layer_size;
    }
    float* x = run_last(weights_.layers.back(), rows, read, cache);
    norm(x, read.rows, weights_.norm, to_.normed);
    multiply(to_.normed, read.rows, shape_.width, weights_.head, Sums::store, shape_.vocabulary,
             logits);
  }

 private:
  void run_layer(const DecoderLayer& layer, const DecoderRows& rows, const Cache& cache) {
    const std::int64_t count = rows.places.rows;
    norm(rows.x, count, layer.norm1, to_.normed);
    multiply(to_.normed, count, shape_.width, layer.qkv, Sums::store,
             queries_width(shape_) + kv_width(shape_), to_.qkv);
    rotate_and_store(shape_.num_heads, rows.places, cache);
    attend(rows, cache);
    feed_forward(layer, count, rows.x);
  }

  // Keys and values of all rows, everything else of those that are read; returns their residual
  // stream.
  float* run_last(const DecoderLayer& layer, const DecoderRows& rows, const Places& read,
                  const Cache& cache) {
    norm(rows.x, rows.places.rows, layer.norm1, to_.normed);
    multiply(to_.normed, rows.places.rows, shape_.width, layer.kv, Sums::store, kv_width(shape_),
             to_.qkv);
    rotate_and_store(0, rows.places, cache);
    float* x = rows.x;
    float* normed = to_.normed;
    if (read.rows < rows.places.rows) {
      x = to_.read_x;
      normed = to_.read_normed;
      worker_.each(read.rows, shape_.width, [&](std::int64_t i) {
        const std::int64_t from = rows.read[i] * shape_.width;
        std::copy_n(rows.x + from, shape_.width, x + i * shape_.width);
        std::copy_n(to_.normed + from, shape_.width, normed + i * shape_.width);
      });
    }
    multiply(normed, read.rows, shape_.width, layer.qkv, Sums::store, queries_width(shape_),
             to_.qkv);
    Cache no_keys = cache;
    no_keys.num_kv_heads = 0;
    rotate_and_store(shape_.num_heads, read, no_keys);
    attend_each(to_.queries, read, cache, to_.attended);
    feed_forward(layer, read.rows, x);
    return x;
  }

  void feed_forward(const DecoderLayer& layer, std::int64_t rows, float* x) {
    multiply(to_.attended, rows, queries_width(shape_), layer.out, Sums::add, shape_.width, x);
    norm(x, rows, layer.norm2, to_.normed);
    multiply(to_.normed, rows, shape_.width, layer.gate_up, Sums::swiglu, shape_.inner_width,
             to_.inner);
    multiply(to_.inner, rows, shape_.inner_width, layer.down, Sums::add, shape_.width, x);
  }

  void norm(float* x, std::int64_t rows, const float* weight, float* out) {
    const AddRmsNorm op{Precision::float32,     rows, shape_.width, x, nullptr, weight, shape_.eps,
                        {out, nullptr, nullptr}};
    worker_.by_row(op, kernels().add_rms_norm, rows, shape_.width, shape_.width);
  }

  void multiply(const float* x, std::int64_t rows, std::int64_t depth, const float* packed,
                Sums sums, std::int64_t columns, float* out) {
    worker_.multiply(x, rows, depth, packed, nullptr, sums, columns, out);
  }

  void rotate_and_store(std::int64_t num_heads, const Places& places, const Cache& cache) {
    const RopeStore op{Precision::float32, num_heads, to_.qkv, weights_.cos,
                       weights_.sin,       places,    cache,   to_.queries};
    worker_.by_row(op, kernels().rope_store, places.rows,
                   (num_heads + 2 * cache.num_kv_heads) * cache.head_width, 0);
  }

  // Prompts as a whole, captions each for itself.
  void attend(const DecoderRows& rows, const Cache& cache) {
    const std::int64_t first = rows.num_prompts * rows.prompt_length;
    const std::int64_t width = queries_width(shape_);
    if (first > 0) {
      const std::int64_t head = cache.num_positions * cache.head_width;
      const std::int64_t slot = cache.num_kv_heads * head;
      const auto* keys = static_cast<const float*>(cache.data);
      worker_.attend(BlockAttention{
          .num_heads = shape_.num_heads,
          .num_kv_heads = cache.num_kv_heads,
          .head_width = cache.head_width,
          .num_blocks = rows.num_prompts,
          .start = rows.prompt_start,
          .length = rows.prompt_length,
          .causal = true,
          .queries = to_.queries,
          .query_pitch = width,
          .keys = keys,
          .values = keys + cache.num_slots * slot,
          .key_pitch = cache.head_width,
          .head_pitch = head,
          .block_pitch = slot,
          .slots = rows.places.slots,
          .out = to_.attended,
      });
    }
    const Places places{rows.places.rows - first, rows.places.slots + first,
                        rows.places.positions + first};
    attend_each(to_.queries + first * width, places, cache, to_.attended + first * width);
  }

  void attend_each(const float* queries, const Places& places, const Cache& cache, float* out) {
    worker_.attend(
        DecodeAttention{Precision::float32, shape_.num_heads, queries, places, cache, out});
  }

  Worker worker_;
  const DecoderShape& shape_;
  const DecoderWeights& weights_;
  const Buffers& to_;
};

}  // namespace

Decoder::Decoder(const DecoderShape& shape, DecoderWeights weights)
    : shape_(shape), weights_(std::move(weights)) {}

void Decoder::forward(const DecoderRows& rows, const Cache& cache, float* logits, int num_threads) {
  check_places(rows.places, cache);
  std::vector<std::int64_t> slots(rows.num_read);
  std::vector<std::int64_t> positions(rows.num_read);
  for (std::int64_t i = 0; i < rows.num_read; ++i) {
    if (rows.read[i] < 0 || rows.read[i] >= rows.places.rows) {
      throw std::out_of_range("row " + std::to_string(rows.read[i]) + " is to be read, there are " +
                              std::to_string(rows.places.rows));
    }
    slots[i] = rows.places.slots[rows.read[i]];
    positions[i] = rows.places.positions[rows.read[i]];
  }
  const Places read{rows.num_read, slots.data(), positions.data()};
  const std::int64_t count = rows.places.rows;
  const std::int64_t queries = queries_width(shape_);
  Buffers buffers{};
  lay_out({{&buffers.normed, count * shape_.width},
           {&buffers.qkv, count * (queries + kv_width(shape_))},
           {&buffers.queries, count * queries},
           {&buffers.attended, count * queries},
           {&buffers.inner, count * shape_.inner_width},
           {&buffers.read_x, rows.num_read * shape_.width},
           {&buffers.read_normed, rows.num_read * shape_.width}},
          memory_);
  run_team(num_threads, [&](Team& team) {
    Pass(team, shape_, weights_, buffers).run(rows, read, cache, logits);
  });
}

}  // namespace recap::cpu
