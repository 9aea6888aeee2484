#include "cpu/tower.hpp"

#include <algorithm>
#include <utility>

#include "cpu/worker.hpp"

namespace recap::cpu {
namespace {

constexpr std::int64_t kColors = 3;
constexpr std::int64_t kLevels = 256;

// Intermediate results.
struct Buffers {
  float* patches;  // [n * N, pixels of a patch], and image tokens without class
  float *x, *normed, *qkv, *attended, *inner;  // [n * S, ...]
};

struct Sizes {
  explicit Sizes(const TowerShape& shape)
      : grid(shape.image_size / shape.patch_size),
        patches(grid * grid),
        length(patches + 1),
        patch_pixels(kColors * shape.patch_size * shape.patch_size) {}

  std::int64_t grid, patches, length, patch_pixels;
};

// One thread's way from pixels to image tokens; all threads of the team go it together.
class Pass {
 public:
  Pass(Team& team, const TowerShape& shape, const TowerWeights& weights, std::int64_t num_images,
       const Buffers& buffers)
      : worker_(team),
        shape_(shape),
        sizes_(shape),
        weights_(weights),
        num_images_(num_images),
        rows_(num_images * sizes_.length),
        to_(buffers) {}

  void run(const std::uint8_t* pixels, float* tokens) {
    const std::int64_t patches = num_images_ * sizes_.patches;
    const std::int64_t width = shape_.width;
    cut(pixels);
    multiply(to_.patches, patches, sizes_.patch_pixels, weights_.patch, Sums::store, width,
             to_.normed);
    embed();
    norm(weights_.pre_norm, weights_.pre_norm_bias, to_.x);
    for (const TowerLayer& layer : weights_.layers) run_layer(layer);
    drop_class();
    multiply(to_.patches, patches, width, weights_.first, Sums::gelu, shape_.projector_width,
             to_.inner);
    multiply(to_.inner, patches, shape_.projector_width, weights_.second, Sums::store,
             shape_.projector_width, tokens);
  }

 private:
  // Normalized pixels, one patch a row, colors apart.
  void cut(const std::uint8_t* pixels) {
    const std::int64_t side = shape_.image_size;
    const std::int64_t patch = shape_.patch_size;
    worker_.each(num_images_ * sizes_.patches, sizes_.patch_pixels, [=, this](std::int64_t i) {
      const std::int64_t place = i % sizes_.patches;
      const std::uint8_t* from = pixels + i / sizes_.patches * kColors * side * side +
                                 place / sizes_.grid * patch * side + place % sizes_.grid * patch;
      float* to = to_.patches + i * sizes_.patch_pixels;
      for (std::int64_t color = 0; color < kColors; ++color, from += side * side) {
        const float* levels = weights_.levels + color * kLevels;
        for (std::int64_t y = 0; y < patch; ++y) {
          for (std::int64_t x = 0; x < patch; ++x) *to++ = levels[from[y * side + x]];
        }
      }
    });
  }

  // The class token before the patches of each image, and positions added.
  void embed() {
    worker_.each(rows_, shape_.width, [this](std::int64_t row) {
      const std::int64_t image = row / sizes_.length;
      const std::int64_t place = row % sizes_.length;
      const float* from = place == 0
                              ? weights_.class_token
                              : to_.normed + (image * sizes_.patches + place - 1) * shape_.width;
      const float* position = weights_.position + place * shape_.width;
      float* to = to_.x + row * shape_.width;
      for (std::int64_t i = 0; i < shape_.width; ++i) to[i] = from[i] + position[i];
    });
  }

  void drop_class() {
    worker_.each(num_images_, sizes_.patches * shape_.width, [this](std::int64_t image) {
      std::copy_n(to_.x + (image * sizes_.length + 1) * shape_.width, sizes_.patches * shape_.width,
                  to_.patches + image * sizes_.patches * shape_.width);
    });
  }

  void run_layer(const TowerLayer& layer) {
    const std::int64_t width = shape_.width;
    norm(layer.norm1, layer.norm1_bias, to_.normed);
    multiply(to_.normed, rows_, width, layer.qkv, Sums::store, 3 * width, to_.qkv);
    worker_.attend(BlockAttention{
        .num_heads = shape_.num_heads,
        .num_kv_heads = shape_.num_heads,
        .head_width = width / shape_.num_heads,
        .num_blocks = num_images_,
        .start = 0,
        .length = sizes_.length,
        .causal = false,
        .queries = to_.qkv,
        .query_pitch = 3 * width,
        .keys = to_.qkv + width,
        .values = to_.qkv + 2 * width,
        .key_pitch = 3 * width,
        .head_pitch = width / shape_.num_heads,
        .block_pitch = sizes_.length * 3 * width,
        .slots = nullptr,
        .out = to_.attended,
    });
    multiply(to_.attended, rows_, width, layer.out, Sums::add, width, to_.x);
    norm(layer.norm2, layer.norm2_bias, to_.normed);
    multiply(to_.normed, rows_, width, layer.fc1, shape_.activation, shape_.inner_width, to_.inner);
    multiply(to_.inner, rows_, shape_.inner_width, layer.fc2, Sums::add, width, to_.x);
  }

  void norm(const float* weight, const float* bias, float* out) {
    worker_.by_row(LayerNorm{rows_, shape_.width, to_.x, weight, bias, shape_.eps, out},
                   kernels().layer_norm, rows_, shape_.width, 0);
  }

  void multiply(const float* x, std::int64_t rows, std::int64_t depth, const Affine& affine,
                Sums sums, std::int64_t columns, float* out) {
    worker_.multiply(x, rows, depth, affine.packed, affine.bias, sums, columns, out);
  }

  Worker worker_;
  const TowerShape& shape_;
  Sizes sizes_;
  const TowerWeights& weights_;
  std::int64_t num_images_, rows_;
  const Buffers& to_;
};

}  // namespace

Tower::Tower(const TowerShape& shape, TowerWeights weights)
    : shape_(shape), weights_(std::move(weights)) {}

void Tower::encode(const std::uint8_t* pixels, std::int64_t num_images, float* tokens,
                   int num_threads) {
  const Sizes sizes(shape_);
  const std::int64_t rows = num_images * sizes.length;
  Buffers buffers{};
  lay_out({{&buffers.patches, rows * std::max(sizes.patch_pixels, shape_.width)},
           {&buffers.x, rows * shape_.width},
           {&buffers.normed, rows * shape_.width},
           {&buffers.qkv, rows * 3 * shape_.width},
           {&buffers.attended, rows * shape_.width},
           {&buffers.inner, rows * std::max(shape_.inner_width, shape_.projector_width)}},
          memory_);
  run_team(num_threads, [&](Team& team) {
    Pass(team, shape_, weights_, num_images, buffers).run(pixels, tokens);
  });
}

}  // namespace recap::cpu
