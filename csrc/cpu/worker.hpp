// For those that run whole layers, llama.cpp and tower.cpp: weights in memory of their own, vectors copied and matrices
// laid out for products, and the float32 operations of ops.hpp on a team of threads that is there already.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "cpu/ops.hpp"
#include "cpu/parallel.hpp"

namespace recap::cpu {

inline Size divide_up(Size x, Size y) { return (x + y - 1) / y; }

using Floats = std::vector<float>;

struct alignas(64) CacheLine {
  float values[16];
};

// A matrix in panels for Product, with a bias or none.
struct Linear {
  std::vector<CacheLine> panels;
  Size depth = 0, columns = 0;  // columns of the product
  Floats bias;
};

// Lays out a matrix [columns, depth]; with `pairs` it is gate above up, for Sums::swiglu.
inline Linear pack(const float* weight, Size columns, Size depth, bool pairs, const Kernels& kernels, int num_threads) {
  const Size width = kernels.block_columns;
  const Size count = divide_up(columns, width);
  Linear linear{.panels = std::vector<CacheLine>(static_cast<std::size_t>((count * width * depth + 15) / 16)),
                .depth = depth,
                .columns = pairs ? columns / 2 : columns,
                .bias = {}};
  const Pack op{.columns = columns,
                .depth = depth,
                .pairs = pairs,
                .weight = weight,
                .packed = reinterpret_cast<float*>(linear.panels.data())};
  parallel_for(count, 1, num_threads, [&](Size begin, Size end) { kernels.pack(op, begin, end, nullptr); });
  return linear;
}

struct Norm {
  Floats weight, bias;
};

// Memory for intermediate results, which grows with need.
inline float* grow(Floats& memory, Size size) {
  if (std::ssize(memory) < size) {
    memory = {};  // before there is more: nothing in it is needed
    memory.resize(static_cast<std::size_t>(size));
  }
  return memory.data();
}

// One thread of a team. All threads call the same functions in the same order; each returns when all of the operation
// is done.
class Worker {
 public:
  Worker(Team& team, const Kernels& kernels) : team_(team), kernels_(kernels) {}

  void multiply(const float* x, Size rows, const Linear& matrix, Sums sums, float* out) {
    if (rows == 0) return;
    const Size width = sums == Sums::swiglu ? kernels_.block_columns / 2 : kernels_.block_columns;
    const Size panels = divide_up(matrix.columns, width);
    const Size pieces = kPieces * team_.size();
    const Size group = std::clamp<Size>(panels / pieces, 1, kMaxPanels);
    const Size groups = divide_up(panels, group);
    const Size parts = std::clamp<Size>(divide_up(pieces, groups), 1, divide_up(rows, kMinRows));
    const Size rows_per_item = divide_up(rows, parts);
    const Product op{.rows = rows,
                     .depth = matrix.depth,
                     .columns = matrix.columns,
                     .x = x,
                     .packed = reinterpret_cast<const float*>(matrix.panels.data()),
                     .bias = matrix.bias.empty() ? nullptr : matrix.bias.data(),
                     .sums = sums,
                     .out = out,
                     .rows_per_item = rows_per_item,
                     .panels_per_item = group};
    run(op, &Kernels::product, groups * divide_up(rows, rows_per_item), 1, kProductScratch);
  }

  template <typename Op>
  void by_row(const Op& op, Kernel<Op> Kernels::* kernel, Size rows, Size row_elements, Size scratch) {
    run(op, kernel, rows, chunk(rows, row_elements), scratch);
  }

  void attend_blocks(const BlockAttention& op) {
    run(op, &Kernels::block_attention, op.num_blocks * op.num_kv_heads, 1,
        block_attention_scratch(op.start + op.length, op.head_width));
  }

  void attend(const DecodeAttention& op) {
    const Cache& cache = op.cache;
    const Size queries = (op.is_shared() ? kMaxSharing : 1) * (op.num_heads / cache.num_kv_heads);
    run(op, &Kernels::decode_attention, op.num_items(), 1,
        attention_scratch(queries, cache.num_positions, cache.head_width));
  }

  // Calls action(i) for each row.
  template <typename Action>
  void each(Size rows, Size row_elements, const Action& action) {
    team_.run(rows, chunk(rows, row_elements), [&](Size i, Size end) {
      for (; i < end; ++i) action(i);
    });
  }

 private:
  Size chunk(Size rows, Size row_elements) const {
    return std::max(divide_up(rows, kPieces * team_.size()), divide_up(kMinElements, std::max<Size>(1, row_elements)));
  }

  template <typename Op>
  void run(const Op& op, Kernel<Op> Kernels::* kernel, Size count, Size chunk, Size scratch) {
    team_.run(count, chunk, [&](Size begin, Size end) { (kernels_.*kernel)(op, begin, end, thread_scratch(scratch)); });
  }

  // Loops are cut into so many pieces for each thread, so that one which the system holds up delays the others little;
  // but into none of fewer elements, or of a product of about so many rows.
  static constexpr Size kPieces = 4;
  static constexpr Size kMinElements = 1024;
  static constexpr Size kMinRows = 28;
  // As many panels as the cache of a core keeps while rows pass by.
  static constexpr Size kMaxPanels = 4;

  Team& team_;
  const Kernels& kernels_;
};

}  // namespace recap::cpu
