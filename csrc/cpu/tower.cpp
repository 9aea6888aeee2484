#include "cpu/tower.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/worker.hpp"

namespace recap::cpu {
namespace {

constexpr std::int64_t kLevels = 256;

// Intermediate results.
struct Buffers {
  float* patches;  // [n * N, pixels of a patch], and image tokens without class
  float *x, *normed, *qkv, *attended, *inner;  // [n * S, ...]
};

// One thread's way from pixels to image tokens; all threads of the team go it together.
class Pass {
 public:
  Pass(Team& team, const TowerShape& shape, const PackedTower& weights, const Kernels& kernels,
       std::int64_t num_images, const Buffers& buffers)
      : worker_(team, kernels),
        kernels_(kernels),
        shape_(shape),
        weights_(weights),
        num_images_(num_images),
        rows_(num_images * shape.length()),
        to_(buffers) {}

  void run(const std::uint8_t* pixels, float* tokens) {
    const std::int64_t patches = num_images_ * shape_.num_patches();
    cut(pixels);
    multiply(to_.patches, patches, weights_.patch, Sums::store, to_.normed);
    embed();
    norm(weights_.pre_norm, to_.x);
    for (const PackedTower::Layer& layer : weights_.layers) run_layer(layer);
    drop_class();
    multiply(to_.patches, patches, weights_.first, Sums::gelu, to_.inner);
    multiply(to_.inner, patches, weights_.second, Sums::store, tokens);
  }

 private:
  // Normalized pixels, one patch a row, colors apart.
  void cut(const std::uint8_t* pixels) {
    const std::int64_t side = shape_.image_size;
    const std::int64_t patch = shape_.patch_size;
    const std::int64_t grid = shape_.grid();
    const std::int64_t size = shape_.patch_pixels();
    worker_.each(num_images_ * grid * grid, size, [=, this](std::int64_t i) {
      const std::int64_t place = i % (grid * grid);
      const std::uint8_t* from = pixels + i / (grid * grid) * kColors * side * side +
                                 place / grid * patch * side + place % grid * patch;
      float* to = to_.patches + i * size;
      for (std::int64_t color = 0; color < kColors; ++color, from += side * side) {
        const float* levels = weights_.levels.get() + color * kLevels;
        for (std::int64_t y = 0; y < patch; ++y) {
          for (std::int64_t x = 0; x < patch; ++x) *to++ = levels[from[y * side + x]];
        }
      }
    });
  }

  // The class token before the patches of each image, and positions added.
  void embed() {
    const std::int64_t width = shape_.width;
    const std::int64_t length = shape_.length();
    worker_.each(rows_, width, [=, this](std::int64_t row) {
      const std::int64_t image = row / length;
      const std::int64_t place = row % length;
      const float* from = place == 0 ? weights_.class_token.get()
                                     : to_.normed + (image * (length - 1) + place - 1) * width;
      const float* position = weights_.position.get() + place * width;
      float* to = to_.x + row * width;
      for (std::int64_t i = 0; i < width; ++i) to[i] = from[i] + position[i];
    });
  }

  void drop_class() {
    const std::int64_t size = shape_.num_patches() * shape_.width;
    worker_.each(num_images_, size, [=, this](std::int64_t image) {
      const float* from = to_.x + image * (size + shape_.width) + shape_.width;
      std::copy_n(from, size, to_.patches + image * size);
    });
  }

  void run_layer(const PackedTower::Layer& layer) {
    const std::int64_t width = shape_.width;
    norm(layer.norm1, to_.normed);
    multiply(to_.normed, rows_, layer.qkv, Sums::store, to_.qkv);
    worker_.attend(BlockAttention{
        .num_heads = shape_.num_heads,
        .num_kv_heads = shape_.num_heads,
        .head_width = width / shape_.num_heads,
        .num_blocks = num_images_,
        .start = 0,
        .length = shape_.length(),
        .causal = false,
        .queries = to_.qkv,
        .query_pitch = 3 * width,
        .keys = to_.qkv + width,
        .values = to_.qkv + 2 * width,
        .key_pitch = 3 * width,
        .head_pitch = width / shape_.num_heads,
        .block_pitch = shape_.length() * 3 * width,
        .slots = nullptr,
        .out = to_.attended,
    });
    multiply(to_.attended, rows_, layer.out, Sums::add, to_.x);
    norm(layer.norm2, to_.normed);
    multiply(to_.normed, rows_, layer.fc1, shape_.activation, to_.inner);
    multiply(to_.inner, rows_, layer.fc2, Sums::add, to_.x);
  }

  void norm(const PackedTower::Norm& norm, float* out) {
    const LayerNorm op{.rows = rows_,
                       .width = shape_.width,
                       .x = to_.x,
                       .weight = norm.weight.get(),
                       .bias = norm.bias.get(),
                       .eps = shape_.eps,
                       .out = out};
    worker_.by_row(op, kernels_.layer_norm, rows_, shape_.width, 0);
  }

  void multiply(const float* x, std::int64_t rows, const PackedTower::Affine& affine, Sums sums,
                float* out) {
    worker_.multiply(x, rows, affine.matrix, sums, out, affine.bias.get());
  }

  Worker worker_;
  const Kernels& kernels_;
  const TowerShape& shape_;
  const PackedTower& weights_;
  std::int64_t num_images_, rows_;
  const Buffers& to_;
};

PackedTower::Norm pack_norm(const WeightAndBias& from, std::int64_t width) {
  return {.weight = copy_floats(from.weight, width), .bias = copy_floats(from.bias, width)};
}

PackedTower::Affine pack_affine(const WeightAndBias& from, std::int64_t columns, std::int64_t depth,
                                const Packer& packer) {
  return {.matrix = {from.weight, columns, depth, packer}, .bias = copy_floats(from.bias, columns)};
}

PackedTower pack_weights(const TowerShape& shape, const TowerWeights& weights,
                         const Packer& packer) {
  const std::int64_t width = shape.width;
  const std::int64_t projector_width = shape.projector_width;
  PackedTower packed{
      .levels = copy_floats(weights.levels, kColors * kLevels),
      .patch = pack_affine(weights.patch, width, shape.patch_pixels(), packer),
      .class_token = copy_floats(weights.class_token, width),
      .position = copy_floats(weights.position, shape.length() * width),
      .pre_norm = pack_norm(weights.pre_norm, width),
      .layers = {},
      .first = pack_affine(weights.first, projector_width, width, packer),
      .second = pack_affine(weights.second, projector_width, projector_width, packer),
  };
  for (const TowerWeights::Layer& layer : weights.layers) {
    packed.layers.push_back({
        .norm1 = pack_norm(layer.norm1, width),
        .qkv = pack_affine(layer.qkv, 3 * width, width, packer),
        .out = pack_affine(layer.out, width, width, packer),
        .norm2 = pack_norm(layer.norm2, width),
        .fc1 = pack_affine(layer.fc1, shape.inner_width, width, packer),
        .fc2 = pack_affine(layer.fc2, width, shape.inner_width, packer),
    });
  }
  return packed;
}

const TowerShape& checked(const TowerShape& shape) {
  if (std::min({shape.width, shape.num_heads, shape.projector_width}) < 1 ||
      shape.width % shape.num_heads != 0) {
    throw std::invalid_argument("Tower: " + std::to_string(shape.width) +
                                " channels cannot be divided among " +
                                std::to_string(shape.num_heads) + " heads");
  }
  if (shape.patch_size < 1 || shape.image_size < shape.patch_size) {
    throw std::invalid_argument("Tower: an image of " + std::to_string(shape.image_size) +
                                " pixels has no patch of " + std::to_string(shape.patch_size));
  }
  check_scratch(block_attention_scratch(shape.length(), shape.width / shape.num_heads));
  return shape;
}

}  // namespace

Tower::Tower(const TowerShape& shape, const TowerWeights& weights, int num_threads)
    : shape_(checked(shape)),
      kernels_(kernels()),
      weights_(pack_weights(shape, weights, {.kernels = kernels_, .num_threads = num_threads})) {}

void Tower::encode(const std::uint8_t* pixels, std::int64_t num_images, float* tokens,
                   int num_threads) {
  const std::int64_t rows = num_images * shape_.length();
  const std::lock_guard lock(mutex_);
  Buffers buffers{};
  lay_out({{&buffers.patches, rows * std::max(shape_.patch_pixels(), shape_.width)},
           {&buffers.x, rows * shape_.width},
           {&buffers.normed, rows * shape_.width},
           {&buffers.qkv, rows * 3 * shape_.width},
           {&buffers.attended, rows * shape_.width},
           {&buffers.inner, rows * std::max(shape_.inner_width, shape_.projector_width)}},
          memory_);
  run_team(num_threads, [&](Team& team) {
    Pass(team, shape_, weights_, kernels_, num_images, buffers).run(pixels, tokens);
  });
}

}  // namespace recap::cpu
