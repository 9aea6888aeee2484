// CLIP's vision tower and LLaVA's projector in float32, from pixels to image tokens in one call: what
// recap_fast/generate/vision/tower.py does, which is their truth. Letters: n images, N patches, S = N + 1 positions
// (class token first), D width, P width of the projector.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "cpu/worker.hpp"

namespace recap::cpu {

constexpr Size kColors = 3;

struct TowerLayer {
  Norm norm1;
  Linear qkv, out;
  Norm norm2;
  Linear fc1, fc2;
};

struct TowerModel {
  Size image_size, patch_size, num_heads;
  float eps;
  Sums activation;               // quick_gelu or gelu
  Floats levels;                 // [3, 256]: each level of each color, normalized
  Floats class_token, position;  // [D], [S, D]
  Linear patch;
  Norm pre_norm;
  std::vector<TowerLayer> layers;
  Linear first, second;  // of the projector

  Size width() const { return std::ssize(class_token); }
  Size num_patches() const { return length() - 1; }
  Size length() const { return std::ssize(position) / width(); }
};

// There is one place for intermediate results: one thread at a time runs `encode`, others wait.
class Tower {
 public:
  // `kernels` are those that the model is packed for.
  Tower(TowerModel model, const Kernels& kernels);

  // Writes image tokens [n, N, P] of pixels [n, 3, image_size, image_size].
  void encode(const std::uint8_t* pixels, Size num_images, float* tokens, int num_threads);

  const TowerModel& model() const { return model_; }

 private:
  const TowerModel model_;
  const Kernels& kernels_;
  std::mutex mutex_;
  std::array<Floats, 6> memory_;  // of intermediate results
};

}  // namespace recap::cpu
