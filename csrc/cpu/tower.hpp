// CLIP's vision tower and LLaVA's projector in float32, from pixels to image tokens in one call:
// what recap_fast/generate/vision/tower.py does, which is their truth. Letters: n images, N
// patches, S = N + 1 positions (class token first), D width, P width of the projector.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/ops.hpp"

namespace recap::cpu {

struct TowerShape {
  std::int64_t image_size, patch_size, width, inner_width, num_heads, projector_width;
  float eps;
  Sums activation;  // quick_gelu or gelu
};

// A matrix that Pack has laid out, and what is added to its products; null for nothing.
struct Affine {
  const float *packed, *bias;
};

struct TowerLayer {
  const float *norm1, *norm1_bias;
  Affine qkv, out;
  const float *norm2, *norm2_bias;
  Affine fc1, fc2;
};

struct TowerWeights {
  const float* levels;  // [3, 256]: each level of each color, normalized
  Affine patch;
  const float *class_token, *position;  // [D], [S, D]
  const float *pre_norm, *pre_norm_bias;
  std::vector<TowerLayer> layers;
  Affine first, second;  // of the projector
};

class Tower {
 public:
  Tower(const TowerShape& shape, TowerWeights weights);

  // Writes image tokens [n, N, P] of pixels [n, 3, image_size, image_size].
  void encode(const std::uint8_t* pixels, std::int64_t num_images, float* tokens, int num_threads);

 private:
  TowerShape shape_;
  TowerWeights weights_;
  std::vector<float> memory_;  // of intermediate results
};

}  // namespace recap::cpu
