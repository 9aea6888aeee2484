// CLIP's or SigLIP's vision tower and LLaVA's projector in float32, from pixels to image tokens in one call: what
// recap_fast/generate/vision/tower.py does, which is their truth. Letters: n images, S positions (a class token before
// the patches, where there is one), N of them that become image tokens, D width, P width of the projector.
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
  Size num_dropped;  // positions, the first ones, that become no image tokens
  float eps;
  Sums activation;               // quick_gelu, gelu or gelu_tanh
  Floats levels;                 // [3, 256]: each level of each color, normalized
  Floats class_token, position;  // [D] or empty, [S, D]
  Linear patch;
  Norm pre_norm;  // or empty
  std::vector<TowerLayer> layers;
  Linear first, second;  // of the projector

  Size width() const { return patch.columns; }
  Size length() const { return std::ssize(position) / width(); }
  Size num_classes() const { return std::ssize(class_token) / width(); }
  Size num_patches() const { return length() - num_classes(); }
  Size num_tokens() const { return length() - num_dropped; }
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
