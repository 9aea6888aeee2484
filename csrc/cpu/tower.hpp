// CLIP's vision tower and LLaVA's projector in float32, from pixels to image tokens in one call:
// what recap_fast/generate/vision/tower.py does, which is their truth. Letters: n images, N
// patches, S = N + 1 positions (class token first), D width, P width of the projector.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "cpu/ops.hpp"
#include "cpu/weights.hpp"

namespace recap::cpu {

constexpr std::int64_t kColors = 3;

struct TowerShape {
  std::int64_t image_size, patch_size, width, inner_width, num_heads, projector_width;
  float eps;
  Sums activation;  // quick_gelu or gelu

  std::int64_t grid() const { return image_size / patch_size; }
  std::int64_t num_patches() const { return grid() * grid(); }
  std::int64_t length() const { return num_patches() + 1; }
  std::int64_t patch_pixels() const { return kColors * patch_size * patch_size; }
};

// Of a norm, or of a matrix [out, in] as an engine's file has it, whose bias may be null.
struct WeightAndBias {
  const float *weight, *bias;
};

struct TowerWeights {
  struct Layer {
    WeightAndBias norm1, qkv, out, norm2, fc1, fc2;
  };
  const float* levels;  // [3, 256]: each level of each color, normalized
  WeightAndBias patch;
  const float *class_token, *position;  // [D], [S, D]
  WeightAndBias pre_norm;
  std::vector<Layer> layers;
  WeightAndBias first, second;  // of the projector
};

// A tower as it is kept.
struct PackedTower {
  struct Norm {
    FloatArray weight, bias;
  };
  struct Affine {
    PackedMatrix matrix;
    FloatArray bias;
  };
  struct Layer {
    Norm norm1;
    Affine qkv, out;
    Norm norm2;
    Affine fc1, fc2;
  };
  FloatArray levels;
  Affine patch;
  FloatArray class_token, position;
  Norm pre_norm;
  std::vector<Layer> layers;
  Affine first, second;
};

// Keeps copies of its weights. There is one place for intermediate results, so one thread at a time
// runs `encode` and others wait.
class Tower {
 public:
  // Throws std::invalid_argument for a shape that no tower has.
  Tower(const TowerShape& shape, const TowerWeights& weights, int num_threads);

  // Writes image tokens [n, N, P] of pixels [n, 3, image_size, image_size].
  void encode(const std::uint8_t* pixels, std::int64_t num_images, float* tokens, int num_threads);

  const TowerShape& shape() const { return shape_; }

 private:
  const TowerShape shape_;
  const Kernels& kernels_;  // those that matrices are packed for
  PackedTower weights_;
  std::mutex mutex_;
  std::vector<float> memory_;  // of intermediate results
};

}  // namespace recap::cpu
