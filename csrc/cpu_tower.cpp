#include "cpu_tower.hpp"

#include <utility>

#include "cpu_worker.hpp"

namespace recap::cpu {
namespace {

// Intermediate results.
struct Buffers {
  float *normed, *qkv, *attended, *inner;
};

void run_layer(Worker& worker, const TowerShape& shape, const TowerLayer& layer, float* x,
               std::int64_t num_images, std::int64_t length, const Buffers& to) {
  const std::int64_t rows = num_images * length;
  const std::int64_t width = shape.width;
  const auto norm = [&](const float* weight, const float* bias) {
    worker.by_row(LayerNorm{rows, width, x, weight, bias, shape.eps, to.normed},
                  kernels().layer_norm, rows, width, 0);
  };
  const auto multiply = [&](const float* from, std::int64_t depth, const Affine& affine, Sums sums,
                            std::int64_t columns, float* out) {
    worker.multiply(from, rows, depth, affine.packed, affine.bias, sums, columns, out);
  };
  norm(layer.norm1, layer.norm1_bias);
  multiply(to.normed, width, layer.qkv, Sums::store, 3 * width, to.qkv);
  worker.attend(BlockAttention{
      .num_heads = shape.num_heads,
      .num_kv_heads = shape.num_heads,
      .head_width = width / shape.num_heads,
      .num_blocks = num_images,
      .start = 0,
      .length = length,
      .causal = false,
      .queries = to.qkv,
      .query_pitch = 3 * width,
      .keys = to.qkv + width,
      .values = to.qkv + 2 * width,
      .key_pitch = 3 * width,
      .head_pitch = width / shape.num_heads,
      .block_pitch = length * 3 * width,
      .slots = nullptr,
      .out = to.attended,
  });
  multiply(to.attended, width, layer.out, Sums::add, width, x);
  norm(layer.norm2, layer.norm2_bias);
  multiply(to.normed, width, layer.fc1, Sums::quick_gelu, shape.inner_width, to.inner);
  multiply(to.inner, shape.inner_width, layer.fc2, Sums::add, width, x);
}

}  // namespace

Tower::Tower(const TowerShape& shape, std::vector<TowerLayer> layers)
    : shape_(shape), layers_(std::move(layers)) {}

void Tower::forward(float* x, std::int64_t num_images, std::int64_t length, int num_threads) {
  const std::int64_t rows = num_images * length;
  Buffers buffers{};
  lay_out({{&buffers.normed, rows * shape_.width},
           {&buffers.qkv, rows * 3 * shape_.width},
           {&buffers.attended, rows * shape_.width},
           {&buffers.inner, rows * shape_.inner_width}},
          memory_);
  run_team(num_threads, [&](Team& team) {
    Worker worker(team);
    for (const TowerLayer& layer : layers_) {
      run_layer(worker, shape_, layer, x, num_images, length, buffers);
    }
  });
}

}  // namespace recap::cpu
