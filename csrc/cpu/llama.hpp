// The Llama decoder of the torch engine in float32, all layers of a step in one call: what
// recap_fast/generate/torch_backend/llama.py does, which is its truth. Letters as in cpu_ops.hpp,
// and N rows that are read, F inner width, V vocabulary.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/ops.hpp"

namespace recap::cpu {

struct DecoderShape {
  std::int64_t width, inner_width, num_heads, num_kv_heads, head_width, vocabulary;
  float eps;
};

// Weights of a layer; matrices are packed, gate_up in pairs. The last layer has its queries apart
// from its keys and values.
struct DecoderLayer {
  const float *norm1, *qkv, *kv, *out, *norm2, *gate_up, *down;
};

struct DecoderWeights {
  std::vector<DecoderLayer> layers;
  const float *norm, *head;
  const float *cos, *sin;  // [T, E], as in RopeStore
};

// The rows of a step: those of whole prompts, `prompt_length` each, then decode rows.
struct DecoderRows {
  float* x;  // [R, D], overwritten
  Places places;
  std::int64_t num_prompts, prompt_start, prompt_length;
  std::int64_t num_read;
  const std::int64_t* read;  // [N], the rows that a token is read from, ascending, each once
};

class Decoder {
 public:
  Decoder(const DecoderShape& shape, DecoderWeights weights);

  // Writes logits [N, V]. `cache` is that of the first layer; the others lie behind it. Throws
  // std::out_of_range for places outside of it and for rows to be read that are not there.
  void forward(const DecoderRows& rows, const Cache& cache, float* logits, int num_threads);

 private:
  DecoderShape shape_;
  DecoderWeights weights_;
  std::vector<float> memory_;  // of intermediate results
};

}  // namespace recap::cpu
