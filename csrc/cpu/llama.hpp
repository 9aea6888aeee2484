// The decoder of the torch engine in float32, all layers of a step in one call: what
// recap_fast/generate/torch_backend/llama.py does, which is its truth. Letters as in ops.hpp, and N rows that are read,
// F inner width, V vocabulary.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "cpu/worker.hpp"

namespace recap::cpu {

// The last layer has its queries apart from its keys and values. `gate_up` is packed in pairs. Heads have a norm each,
// or none: then `query_norm` and `key_norm` are empty.
struct LlamaLayer {
  Floats norm1;
  Linear qkv, kv, out;
  Floats query_norm, key_norm;
  Floats norm2;
  Linear gate_up, down;
};

struct LlamaModel {
  Size num_heads, num_kv_heads, head_width;
  float eps;
  std::vector<LlamaLayer> layers;  // one or more
  Floats norm;
  Linear head;
  Floats cos, sin;  // [T, E], as in RopeStore

  Size width() const { return std::ssize(norm); }
  Size queries_width() const { return num_heads * head_width; }
  Size kv_width() const { return 2 * num_kv_heads * head_width; }
  Size num_positions() const { return std::ssize(cos) / head_width; }
};

// The rows of a step: those of whole prompts, `prompt_length` each, then decode rows.
struct LlamaRows {
  float* x;  // [R, D], overwritten
  Places places;
  Size num_prompts, prompt_start, prompt_length;
  Size num_read;
  const Size* read;              // [N], the rows that a token is read from, ascending, each once
  const Size* images = nullptr;  // [slots], or null: slots of equal numbers hold the same keys and values
  Size num_shared = 0;           // up to this position
};

// There is one place for intermediate results: one thread at a time runs `forward`, others wait.
class Llama {
 public:
  // `kernels` are those that the model is packed for.
  Llama(LlamaModel model, const Kernels& kernels);

  // Writes logits [N, V]. `cache` is that of the first layer; the others lie behind it. Throws std::out_of_range for
  // places outside of it, and for prompts and rows to be read that are not there.
  void forward(LlamaRows rows, const Cache& cache, float* logits, int num_threads);

  const LlamaModel& model() const { return model_; }

 private:
  const LlamaModel model_;
  const Kernels& kernels_;
  std::mutex mutex_;
  std::array<Floats, 7> memory_;  // of intermediate results
};

}  // namespace recap::cpu
