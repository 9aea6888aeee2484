// The Llama decoder of the torch engine in float32, all layers of a step in one call: what
// recap_fast/generate/torch_backend/llama.py does, which is its truth. Letters as in ops.hpp, and N
// rows that are read, F inner width, V vocabulary.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "cpu/ops.hpp"
#include "cpu/weights.hpp"

namespace recap::cpu {

struct LlamaShape {
  std::int64_t num_layers, width, inner_width, num_heads, num_kv_heads, head_width, num_positions,
      vocabulary;
  float eps;

  std::int64_t queries_width() const { return num_heads * head_width; }
  std::int64_t kv_width() const { return 2 * num_kv_heads * head_width; }
};

// Matrices [out, in] as an engine's file has them. `qkv` holds queries, keys, values, `gate_up`
// gate and up.
struct LlamaWeights {
  struct Layer {
    const float *norm1, *qkv, *out, *norm2, *gate_up, *down;
  };
  std::vector<Layer> layers;
  const float *norm, *head;
  const float *cos, *sin;  // [T, E], as in RopeStore
};

// The rows of a step: those of whole prompts, `prompt_length` each, then decode rows.
struct LlamaRows {
  float* x;  // [R, D], overwritten
  Places places;
  std::int64_t num_prompts, prompt_start, prompt_length;
  std::int64_t num_read;
  const std::int64_t* read;  // [N], the rows that a token is read from, ascending, each once
};

// A decoder as it is kept. The last layer has its queries apart from its keys and values.
struct PackedLlama {
  struct Layer {
    FloatArray norm1;
    PackedMatrix qkv, kv, out;
    FloatArray norm2;
    PackedMatrix gate_up, down;
  };
  std::vector<Layer> layers;
  FloatArray norm;
  PackedMatrix head;
  FloatArray cos, sin;
};

// Keeps copies of its weights. There is one place for intermediate results, so one thread at a time
// runs `forward` and others wait.
class Llama {
 public:
  // Throws std::invalid_argument for a shape that no decoder has.
  Llama(const LlamaShape& shape, const LlamaWeights& weights, int num_threads);

  // Writes logits [N, V]. `cache` is that of the first layer; the others lie behind it. Throws
  // std::out_of_range for places outside of it and for prompts and rows to be read that are not
  // there.
  void forward(LlamaRows rows, const Cache& cache, float* logits, int num_threads);

  const LlamaShape& shape() const { return shape_; }

 private:
  const LlamaShape shape_;
  const Kernels& kernels_;  // those that matrices are packed for
  PackedLlama weights_;
  std::mutex mutex_;
  std::vector<float> memory_;  // of intermediate results
};

}  // namespace recap::cpu
