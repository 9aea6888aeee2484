// The layers of CLIP's vision transformer in float32, all in one call: what
// recap_fast/generate/torch_backend/vision.py does, which is their truth.
#pragma once

#include <cstdint>
#include <vector>

namespace recap::cpu {

struct TowerShape {
  std::int64_t width, inner_width, num_heads;
  float eps;
};

// A matrix that Pack has laid out, and what is added to its products.
struct Affine {
  const float *packed, *bias;
};

struct TowerLayer {
  const float *norm1, *norm1_bias;
  Affine qkv, out;
  const float *norm2, *norm2_bias;
  Affine fc1, fc2;
};

class Tower {
 public:
  Tower(const TowerShape& shape, std::vector<TowerLayer> layers);

  // Runs x [images * length, D] through all layers, in place; the activation is quick_gelu.
  void forward(float* x, std::int64_t num_images, std::int64_t length, int num_threads);

 private:
  TowerShape shape_;
  std::vector<TowerLayer> layers_;
  std::vector<float> memory_;  // of intermediate results
};

}  // namespace recap::cpu
