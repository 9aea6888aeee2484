#include "cpu/tower.hpp"

#include <algorithm>
#include <utility>

namespace recap::cpu {
namespace {

constexpr Size kLevels = 256;

// Intermediate results.
struct Buffers {
  float* patches;                              // [n * patches, pixels of a patch], and what becomes image tokens
  float *x, *normed, *qkv, *attended, *inner;  // [n * S, ...]
};

// One thread's way from pixels to image tokens; all threads of the team go it together.
class Pass {
 public:
  Pass(const Worker& worker, const TowerModel& model, Size num_images, const Buffers& buffers)
      : worker_(worker), model_(model), num_images_(num_images), rows_(num_images * model.length()), to_(buffers) {}

  void run(const std::uint8_t* pixels, float* tokens) {
    const Size num_tokens = num_images_ * model_.num_tokens();
    cut(pixels);
    worker_.multiply(to_.patches, num_images_ * model_.num_patches(), model_.patch, Sums::store, to_.normed);
    embed();
    if (!model_.pre_norm.weight.empty()) norm(model_.pre_norm, to_.x);
    for (const TowerLayer& layer : model_.layers) run_layer(layer);
    worker_.multiply(select(), num_tokens, model_.first, Sums::gelu, to_.inner);
    worker_.multiply(to_.inner, num_tokens, model_.second, Sums::store, tokens);
  }

 private:
  // Normalized pixels, one patch a row, colors apart.
  void cut(const std::uint8_t* pixels) {
    const Size side = model_.image_size;
    const Size patch = model_.patch_size;
    const Size grid = model_.image_size / patch;
    const Size size = model_.patch.depth;
    worker_.each(num_images_ * grid * grid, size, [=, this](Size i) {
      const Size place = i % (grid * grid);
      const std::uint8_t* from =
          pixels + i / (grid * grid) * kColors * side * side + place / grid * patch * side + place % grid * patch;
      float* to = to_.patches + i * size;
      for (Size color = 0; color < kColors; ++color, from += side * side) {
        const float* levels = model_.levels.data() + color * kLevels;
        for (Size y = 0; y < patch; ++y) {
          for (Size x = 0; x < patch; ++x) *to++ = levels[from[y * side + x]];
        }
      }
    });
  }

  // The class token, where there is one, before the patches of each image, and positions added.
  void embed() {
    const Size width = model_.width();
    const Size length = model_.length();
    const Size classes = model_.num_classes();
    worker_.each(rows_, width, [=, this](Size row) {
      const Size image = row / length;
      const Size place = row % length;
      const float* from = place < classes ? model_.class_token.data()
                                          : to_.normed + (image * (length - classes) + place - classes) * width;
      const float* position = model_.position.data() + place * width;
      float* to = to_.x + row * width;
      for (Size i = 0; i < width; ++i) to[i] = from[i] + position[i];
    });
  }

  // The positions that become image tokens, next to one another.
  const float* select() {
    if (model_.num_dropped == 0) return to_.x;
    const Size size = model_.num_tokens() * model_.width();
    const Size dropped = model_.num_dropped * model_.width();
    worker_.each(num_images_, size, [=, this](Size image) {
      std::copy_n(to_.x + image * (dropped + size) + dropped, size, to_.patches + image * size);
    });
    return to_.patches;
  }

  void run_layer(const TowerLayer& layer) {
    const Size width = model_.width();
    norm(layer.norm1, to_.normed);
    worker_.multiply(to_.normed, rows_, layer.qkv, Sums::store, to_.qkv);
    worker_.attend_blocks({
        .num_heads = model_.num_heads,
        .num_kv_heads = model_.num_heads,
        .head_width = width / model_.num_heads,
        .num_blocks = num_images_,
        .length = model_.length(),
        .queries = to_.qkv,
        .query_pitch = 3 * width,
        .keys = to_.qkv + width,
        .values = to_.qkv + 2 * width,
        .key_pitch = 3 * width,
        .head_pitch = width / model_.num_heads,
        .block_pitch = model_.length() * 3 * width,
        .out = to_.attended,
    });
    worker_.multiply(to_.attended, rows_, layer.out, Sums::add, to_.x);
    norm(layer.norm2, to_.normed);
    worker_.multiply(to_.normed, rows_, layer.fc1, model_.activation, to_.inner);
    worker_.multiply(to_.inner, rows_, layer.fc2, Sums::add, to_.x);
  }

  void norm(const Norm& norm, float* out) {
    const LayerNorm op{.rows = rows_,
                       .width = model_.width(),
                       .x = to_.x,
                       .weight = norm.weight.data(),
                       .bias = norm.bias.data(),
                       .eps = model_.eps,
                       .out = out};
    worker_.by_row(op, &Kernels::layer_norm, rows_, model_.width(), 0);
  }

  Worker worker_;
  const TowerModel& model_;
  Size num_images_, rows_;
  const Buffers& to_;
};

}  // namespace

Tower::Tower(TowerModel model, const Kernels& kernels) : model_(std::move(model)), kernels_(kernels) {
  check_scratch(block_attention_scratch(model_.length(), model_.width() / model_.num_heads));
}

void Tower::encode(const std::uint8_t* pixels, Size num_images, float* tokens, int num_threads) {
  const Size rows = num_images * model_.length();
  const std::lock_guard lock(mutex_);
  const Size width = model_.width();
  const Size inner_width = model_.layers.empty() ? 0 : model_.layers[0].fc1.columns;
  const Buffers buffers{.patches = grow(memory_[0], rows * std::max(model_.patch.depth, width)),
                        .x = grow(memory_[1], rows * width),
                        .normed = grow(memory_[2], rows * width),
                        .qkv = grow(memory_[3], rows * 3 * width),
                        .attended = grow(memory_[4], rows * width),
                        .inner = grow(memory_[5], rows * std::max(inner_width, model_.second.columns))};
  run_team(num_threads, [&](Team& team) { Pass({team, kernels_}, model_, num_images, buffers).run(pixels, tokens); });
}

}  // namespace recap::cpu
