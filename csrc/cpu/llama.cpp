#include "cpu/llama.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace recap::cpu {
namespace {

// Intermediate results.
struct Buffers {
  float *normed, *qkv, *queries, *attended, *inner;  // [R, ...]
  float *read_x, *read_normed;                       // [N, D]
};

// Rows by the images that their slots hold. Those that are not behind the image are alone: they write into it.
struct Groups {
  Groups(const Places& places, const LlamaRows& rows) : length(rows.num_shared) {
    if (rows.images == nullptr) return;
    std::vector<std::pair<Size, Size>> found;  // image and row
    for (Size row = 0; row < places.rows; ++row) found.emplace_back(rows.images[places.slots[row]], row);
    std::ranges::sort(found);
    const auto is_behind = [&](Size row) { return places.positions[row] >= length; };
    for (const auto& [image, row] : found) {
      const Size i = std::ssize(order);
      const bool joins = i > 0 && image == found[order.size() - 1].first && i - firsts.back() < kMaxSharing &&
                         is_behind(row) && is_behind(order.back());
      if (!joins) firsts.push_back(i);
      order.push_back(row);
    }
    firsts.push_back(places.rows);
  }
  Sharing view() const {
    if (order.empty()) return {};
    return {.length = length, .num_groups = std::ssize(firsts) - 1, .order = order.data(), .firsts = firsts.data()};
  }

  Size length;
  std::vector<Size> order, firsts;
};

// One thread's way through a step; all threads of the team go it together.
class Pass {
 public:
  Pass(const Worker& worker, const LlamaModel& model, const Buffers& buffers, const Sharing& rows, const Sharing& read)
      : worker_(worker), model_(model), to_(buffers), sharing_rows_(rows), sharing_read_(read) {}

  void run(const LlamaRows& rows, const Places& read, Cache cache, float* logits) {
    for (std::size_t i = 0; i + 1 < model_.layers.size(); ++i) {
      run_layer(model_.layers[i], rows, cache);
      cache.data = static_cast<float*>(cache.data) + 2 * cache.values_offset();
    }
    float* x = run_last(model_.layers.back(), rows, read, cache);
    norm(x, read.rows, model_.norm, to_.normed);
    worker_.multiply(to_.normed, read.rows, model_.head, Sums::store, logits);
  }

 private:
  void run_layer(const LlamaLayer& layer, const LlamaRows& rows, const Cache& cache) {
    const Size count = rows.places.rows;
    norm(rows.x, count, layer.norm1, to_.normed);
    worker_.multiply(to_.normed, count, layer.qkv, Sums::store, to_.qkv);
    rotate_and_store(layer, model_.num_heads, rows.places, cache);
    attend(rows, cache);
    feed_forward(layer, count, rows.x);
  }

  // Keys and values of all rows, everything else of those that are read; returns their residual stream.
  float* run_last(const LlamaLayer& layer, const LlamaRows& rows, const Places& read, const Cache& cache) {
    norm(rows.x, rows.places.rows, layer.norm1, to_.normed);
    worker_.multiply(to_.normed, rows.places.rows, layer.kv, Sums::store, to_.qkv);
    rotate_and_store(layer, 0, rows.places, cache);
    float* x = rows.x;
    float* normed = to_.normed;
    if (read.rows < rows.places.rows) {
      x = to_.read_x;
      normed = to_.read_normed;
      worker_.each(read.rows, model_.width(), [&](Size i) {
        const Size from = rows.read[i] * model_.width();
        std::copy_n(rows.x + from, model_.width(), x + i * model_.width());
        std::copy_n(to_.normed + from, model_.width(), normed + i * model_.width());
      });
    }
    worker_.multiply(normed, read.rows, layer.qkv, Sums::store, to_.qkv);
    Cache no_keys = cache;
    no_keys.num_kv_heads = 0;
    rotate_and_store(layer, model_.num_heads, read, no_keys);
    attend_each(to_.queries, read, sharing_read_, cache, to_.attended);
    feed_forward(layer, read.rows, x);
    return x;
  }

  void feed_forward(const LlamaLayer& layer, Size rows, float* x) {
    worker_.multiply(to_.attended, rows, layer.out, Sums::add, x);
    norm(x, rows, layer.norm2, to_.normed);
    worker_.multiply(to_.normed, rows, layer.gate_up, Sums::swiglu, to_.inner);
    worker_.multiply(to_.inner, rows, layer.down, Sums::add, x);
  }

  void norm(float* x, Size rows, const Floats& weight, float* out) {
    const AddRmsNorm op{.rows = rows,
                        .width = model_.width(),
                        .x = x,
                        .weight = weight.data(),
                        .eps = model_.eps,
                        .out = {.values = out}};
    worker_.by_row(op, &Kernels::add_rms_norm, rows, model_.width(), model_.width());
  }

  void rotate_and_store(const LlamaLayer& layer, Size num_heads, const Places& places, const Cache& cache) {
    const auto weights = [](const Floats& norm) { return norm.empty() ? nullptr : norm.data(); };
    const RopeStore op{.num_heads = num_heads,
                       .qkv = to_.qkv,
                       .query_norm = weights(layer.query_norm),
                       .key_norm = weights(layer.key_norm),
                       .eps = model_.eps,
                       .cos = model_.cos.data(),
                       .sin = model_.sin.data(),
                       .places = places,
                       .cache = cache,
                       .queries = to_.queries};
    const Size row = (num_heads + 2 * cache.num_kv_heads) * cache.head_width;
    worker_.by_row(op, &Kernels::rope_store, places.rows, row, cache.head_width);
  }

  // Prompts as a whole, captions each for itself.
  void attend(const LlamaRows& rows, const Cache& cache) {
    const Size first = rows.num_prompts * rows.prompt_length;
    const Size width = model_.queries_width();
    if (first > 0) {
      const auto* keys = static_cast<const float*>(cache.data);
      worker_.attend_blocks({
          .num_heads = model_.num_heads,
          .num_kv_heads = cache.num_kv_heads,
          .head_width = cache.head_width,
          .num_blocks = rows.num_prompts,
          .start = rows.prompt_start,
          .length = rows.prompt_length,
          .causal = true,
          .queries = to_.queries,
          .query_pitch = width,
          .keys = keys,
          .values = keys + cache.values_offset(),
          .key_pitch = cache.head_width,
          .head_pitch = cache.head_stride(),
          .block_pitch = cache.slot_stride(),
          .slots = rows.places.slots,
          .out = to_.attended,
      });
    }
    attend_each(to_.queries + first * width,
                {.rows = rows.places.rows - first,
                 .slots = rows.places.slots + first,
                 .positions = rows.places.positions + first},
                sharing_rows_, cache, to_.attended + first * width);
  }

  void attend_each(const float* queries, const Places& places, const Sharing& sharing, const Cache& cache, float* out) {
    worker_.attend({.num_heads = model_.num_heads,
                    .queries = queries,
                    .places = places,
                    .cache = cache,
                    .out = out,
                    .sharing = sharing});
  }

  Worker worker_;
  const LlamaModel& model_;
  const Buffers& to_;
  const Sharing sharing_rows_, sharing_read_;  // of the decode rows, and of those that are read
};

void check_prompts(const LlamaRows& rows, const Cache& cache) {
  const Size length = rows.prompt_length;
  if (std::min({rows.num_prompts, length, rows.prompt_start}) < 0 || length > cache.num_positions ||
      rows.prompt_start > cache.num_positions - length ||
      (length > 0 && rows.num_prompts > rows.places.rows / length)) {
    throw std::out_of_range("the prompts are not within the rows, or not within the positions of the cache");
  }
}

}  // namespace

Llama::Llama(LlamaModel model, const Kernels& kernels) : model_(std::move(model)), kernels_(kernels) {
  check_scratch(model_.width());
  check_scratch(attention_scratch(kMaxSharing * (model_.num_heads / model_.num_kv_heads), model_.num_positions(),
                                  model_.head_width));
  check_scratch(block_attention_scratch(model_.num_positions(), model_.head_width));
}

void Llama::forward(LlamaRows rows, const Cache& cache, float* logits, int num_threads) {
  check_prompts(rows, cache);
  const PlaceList places(rows.places, cache);
  std::vector<Size> read, slots, positions;
  for (Size i = 0; i < rows.num_read; ++i) {
    const Size row = rows.read[i];
    if (row < 0 || row >= rows.places.rows) {
      throw std::out_of_range("row " + std::to_string(row) + " is to be read, there are " +
                              std::to_string(rows.places.rows));
    }
    if (!read.empty() && row <= read.back()) throw std::invalid_argument("the rows to be read do not ascend");
    read.push_back(row);
    slots.push_back(places.slots[static_cast<std::size_t>(row)]);
    positions.push_back(places.positions[static_cast<std::size_t>(row)]);
  }
  rows.places = places.view();
  rows.read = read.data();
  const Places read_places{.rows = rows.num_read, .slots = slots.data(), .positions = positions.data()};
  const Size first = rows.num_prompts * rows.prompt_length;
  const Groups groups({.rows = rows.places.rows - first,
                       .slots = rows.places.slots + first,
                       .positions = rows.places.positions + first},
                      rows);
  const Groups read_groups(read_places, rows);
  const Size count = rows.places.rows;
  const Size queries = model_.queries_width();
  const std::lock_guard lock(mutex_);
  const Buffers buffers{.normed = grow(memory_[0], count * model_.width()),
                        .qkv = grow(memory_[1], count * (queries + model_.kv_width())),
                        .queries = grow(memory_[2], count * queries),
                        .attended = grow(memory_[3], count * queries),
                        .inner = grow(memory_[4], count * model_.layers[0].down.depth),
                        .read_x = grow(memory_[5], rows.num_read * model_.width()),
                        .read_normed = grow(memory_[6], rows.num_read * model_.width())};
  run_team(num_threads, [&](Team& team) {
    Pass({team, kernels_}, model_, buffers, groups.view(), read_groups.view()).run(rows, read_places, cache, logits);
  });
}

}  // namespace recap::cpu
