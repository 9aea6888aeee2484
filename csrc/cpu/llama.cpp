#include "cpu/llama.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/worker.hpp"

namespace recap::cpu {
namespace {

// Intermediate results.
struct Buffers {
  float *normed, *qkv, *queries, *attended, *inner;  // [R, ...]
  float *read_x, *read_normed;                       // [N, D]
};

// One thread's way through a step; all threads of the team go it together.
class Pass {
 public:
  Pass(Team& team, const LlamaShape& shape, const PackedLlama& weights, const Kernels& kernels,
       const Buffers& buffers)
      : worker_(team, kernels), kernels_(kernels), shape_(shape), weights_(weights), to_(buffers) {}

  void run(const LlamaRows& rows, const Places& read, Cache cache, float* logits) {
    const std::int64_t layer_size =
        2 * cache.num_slots * cache.num_kv_heads * cache.num_positions * cache.head_width;
    for (std::size_t i = 0; i + 1 < weights_.layers.size(); ++i) {
      run_layer(weights_.layers[i], rows, cache);
      cache.data = static_cast<float*>(cache.data) + layer_size;
    }
    float* x = run_last(weights_.layers.back(), rows, read, cache);
    norm(x, read.rows, weights_.norm.get(), to_.normed);
    worker_.multiply(to_.normed, read.rows, weights_.head, Sums::store, logits);
  }

 private:
  void run_layer(const PackedLlama::Layer& layer, const LlamaRows& rows, const Cache& cache) {
    const std::int64_t count = rows.places.rows;
    norm(rows.x, count, layer.norm1.get(), to_.normed);
    worker_.multiply(to_.normed, count, layer.qkv, Sums::store, to_.qkv);
    rotate_and_store(shape_.num_heads, rows.places, cache);
    attend(rows, cache);
    feed_forward(layer, count, rows.x);
  }

  // Keys and values of all rows, everything else of those that are read; returns their residual
  // stream.
  float* run_last(const PackedLlama::Layer& layer, const LlamaRows& rows, const Places& read,
                  const Cache& cache) {
    norm(rows.x, rows.places.rows, layer.norm1.get(), to_.normed);
    worker_.multiply(to_.normed, rows.places.rows, layer.kv, Sums::store, to_.qkv);
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
    worker_.multiply(normed, read.rows, layer.qkv, Sums::store, to_.qkv);
    Cache no_keys = cache;
    no_keys.num_kv_heads = 0;
    rotate_and_store(shape_.num_heads, read, no_keys);
    attend_each(to_.queries, read, cache, to_.attended);
    feed_forward(layer, read.rows, x);
    return x;
  }

  void feed_forward(const PackedLlama::Layer& layer, std::int64_t rows, float* x) {
    worker_.multiply(to_.attended, rows, layer.out, Sums::add, x);
    norm(x, rows, layer.norm2.get(), to_.normed);
    worker_.multiply(to_.normed, rows, layer.gate_up, Sums::swiglu, to_.inner);
    worker_.multiply(to_.inner, rows, layer.down, Sums::add, x);
  }

  void norm(float* x, std::int64_t rows, const float* weight, float* out) {
    const AddRmsNorm op{.precision = Precision::float32,
                        .rows = rows,
                        .width = shape_.width,
                        .x = x,
                        .delta = nullptr,
                        .weight = weight,
                        .eps = shape_.eps,
                        .out = {.rows = out, .values = nullptr, .scale = nullptr}};
    worker_.by_row(op, kernels_.add_rms_norm, rows, shape_.width, shape_.width);
  }

  void rotate_and_store(std::int64_t num_heads, const Places& places, const Cache& cache) {
    const RopeStore op{.precision = Precision::float32,
                       .num_heads = num_heads,
                       .qkv = to_.qkv,
                       .cos = weights_.cos.get(),
                       .sin = weights_.sin.get(),
                       .places = places,
                       .cache = cache,
                       .queries = to_.queries};
    worker_.by_row(op, kernels_.rope_store, places.rows,
                   (num_heads + 2 * cache.num_kv_heads) * cache.head_width, 0);
  }

  // Prompts as a whole, captions each for itself.
  void attend(const LlamaRows& rows, const Cache& cache) {
    const std::int64_t first = rows.num_prompts * rows.prompt_length;
    const std::int64_t width = shape_.queries_width();
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
    const Places places{.rows = rows.places.rows - first,
                        .slots = rows.places.slots + first,
                        .positions = rows.places.positions + first};
    attend_each(to_.queries + first * width, places, cache, to_.attended + first * width);
  }

  void attend_each(const float* queries, const Places& places, const Cache& cache, float* out) {
    worker_.attend(DecodeAttention{.precision = Precision::float32,
                                   .num_heads = shape_.num_heads,
                                   .queries = queries,
                                   .places = places,
                                   .cache = cache,
                                   .out = out});
  }

  Worker worker_;
  const Kernels& kernels_;
  const LlamaShape& shape_;
  const PackedLlama& weights_;
  const Buffers& to_;
};

void check_shape(const LlamaShape& shape) {
  if (std::min({shape.num_layers, shape.width, shape.inner_width, shape.num_heads,
                shape.num_kv_heads, shape.head_width, shape.num_positions, shape.vocabulary}) < 1) {
    throw std::invalid_argument("Llama: a size is 0");
  }
  if (shape.num_heads % shape.num_kv_heads != 0 || shape.head_width % 2 != 0) {
    throw std::invalid_argument("Llama: " + std::to_string(shape.num_heads) + " heads of width " +
                                std::to_string(shape.head_width) + " cannot share " +
                                std::to_string(shape.num_kv_heads));
  }
  check_scratch(shape.width);
  check_scratch(attention_scratch(shape.num_heads / shape.num_kv_heads, shape.num_positions,
                                  shape.head_width));
  check_scratch(block_attention_scratch(shape.num_positions, shape.head_width));
}

PackedLlama::Layer pack_layer(const LlamaShape& shape, const LlamaWeights::Layer& layer,
                              bool is_last, const Packer& packer) {
  const std::int64_t width = shape.width;
  const std::int64_t queries = shape.queries_width();
  const std::int64_t kv = shape.kv_width();
  PackedLlama::Layer packed{
      .norm1 = copy_floats(layer.norm1, width),
      .qkv = {layer.qkv, is_last ? queries : queries + kv, width, packer},
      .kv = {},
      .out = {layer.out, width, queries, packer},
      .norm2 = copy_floats(layer.norm2, width),
      .gate_up = {layer.gate_up, 2 * shape.inner_width, width, packer, /*pairs=*/true},
      .down = {layer.down, width, shape.inner_width, packer},
  };
  if (is_last) packed.kv = {layer.qkv + queries * width, kv, width, packer};
  return packed;
}

PackedLlama pack_weights(const LlamaShape& shape, const LlamaWeights& weights,
                         const Packer& packer) {
  check_shape(shape);
  PackedLlama packed;
  for (const LlamaWeights::Layer& layer : weights.layers) {
    const bool is_last = &layer == &weights.layers.back();
    packed.layers.push_back(pack_layer(shape, layer, is_last, packer));
  }
  packed.norm = copy_floats(weights.norm, shape.width);
  packed.head = {weights.head, shape.vocabulary, shape.width, packer};
  packed.cos = copy_floats(weights.cos, shape.num_positions * shape.head_width);
  packed.sin = copy_floats(weights.sin, shape.num_positions * shape.head_width);
  return packed;
}

void check_prompts(const LlamaRows& rows, const Cache& cache) {
  const std::int64_t length = rows.prompt_length;
  if (rows.num_prompts < 0 || length < 0 || length > cache.num_positions || rows.prompt_start < 0 ||
      rows.prompt_start > cache.num_positions - length ||
      (length > 0 && rows.num_prompts > rows.places.rows / length)) {
    throw std::out_of_range(std::to_string(rows.num_prompts) + " prompts of " +
                            std::to_string(length) + " rows from position " +
                            std::to_string(rows.prompt_start) + " on are not among " +
                            std::to_string(rows.places.rows) + " rows of up to " +
                            std::to_string(cache.num_positions) + " positions");
  }
}

void check_read(const std::vector<std::int64_t>& read, std::int64_t num_rows) {
  std::int64_t previous = -1;
  for (const std::int64_t row : read) {
    if (row < 0 || row >= num_rows) {
      throw std::out_of_range("row " + std::to_string(row) + " is to be read, there are " +
                              std::to_string(num_rows));
    }
    if (row <= previous) throw std::invalid_argument("the rows to be read do not ascend");
    previous = row;
  }
}

}  // namespace

Llama::Llama(const LlamaShape& shape, const LlamaWeights& weights, int num_threads)
    : shape_(shape),
      kernels_(kernels()),
      weights_(pack_weights(shape, weights, {.kernels = kernels_, .num_threads = num_threads})) {}

void Llama::forward(LlamaRows rows, const Cache& cache, float* logits, int num_threads) {
  const PlaceList places(rows.places, cache);
  const std::vector<std::int64_t> read(rows.read, rows.read + rows.num_read);
  check_prompts(rows, cache);
  check_read(read, rows.places.rows);
  rows.places = places.view();
  rows.read = read.data();
  std::vector<std::int64_t> slots, positions;
  for (const std::int64_t row : read) {
    slots.push_back(rows.places.slots[row]);
    positions.push_back(rows.places.positions[row]);
  }
  const Places read_places{
      .rows = rows.num_read, .slots = slots.data(), .positions = positions.data()};
  const std::int64_t count = rows.places.rows;
  const std::int64_t queries = shape_.queries_width();
  const std::lock_guard lock(mutex_);
  Buffers buffers{};
  lay_out({{&buffers.normed, count * shape_.width},
           {&buffers.qkv, count * (queries + shape_.kv_width())},
           {&buffers.queries, count * queries},
           {&buffers.attended, count * queries},
           {&buffers.inner, count * shape_.inner_width},
           {&buffers.read_x, rows.num_read * shape_.width},
           {&buffers.read_normed, rows.num_read * shape_.width}},
          memory_);
  run_team(num_threads, [&](Team& team) {
    Pass(team, shape_, weights_, kernels_, buffers).run(rows, read_places, cache, logits);
  });
}

}  // namespace recap::cpu
