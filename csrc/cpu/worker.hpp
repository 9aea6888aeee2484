// The float32 operations of ops.hpp on a team of threads that is there already, for those that run
// whole layers: llama.cpp and tower.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "cpu/kernels/kernels.hpp"
#include "cpu/parallel.hpp"
#include "cpu/weights.hpp"

namespace recap::cpu {

inline std::int64_t divide_up(std::int64_t x, std::int64_t y) {
  return (x + y - 1) / y;
}

// Sets pointers to parts of one block of memory, which grows with need.
using Part = std::pair<float**, std::int64_t>;
inline void lay_out(std::initializer_list<Part> parts, std::vector<float>& memory) {
  std::int64_t size = 0;
  for (const Part& part : parts) size += part.second;
  if (memory.size() < static_cast<std::size_t>(size)) {
    memory = {};  // before there is more: nothing in it is needed
    memory.resize(size);
  }
  float* next = memory.data();
  for (const auto& [pointer, count] : parts) {
    *pointer = next;
    next += count;
  }
}

// One thread of a team. All threads call the same functions in the same order; each returns when
// all of the operation is done.
class Worker {
 public:
  Worker(Team& team, const Kernels& kernels) : team_(team), kernels_(kernels) {}

  void multiply(const float* x, std::int64_t rows, const PackedMatrix& matrix, Sums sums,
                float* out, const float* bias = nullptr) {
    if (rows == 0) return;
    const std::int64_t width =
        sums == Sums::swiglu ? kernels_.block_columns / 2 : kernels_.block_columns;
    const std::int64_t panels = divide_up(matrix.columns, width);
    const std::int64_t pieces = kPieces * team_.size();
    const std::int64_t group = std::clamp<std::int64_t>(panels / pieces, 1, kMaxPanels);
    const std::int64_t groups = divide_up(panels, group);
    const std::int64_t parts =
        std::clamp<std::int64_t>(divide_up(pieces, groups), 1, divide_up(rows, kMinRows));
    const std::int64_t rows_per_item = divide_up(rows, parts);
    const Product op{.rows = rows,
                     .depth = matrix.depth,
                     .columns = matrix.columns,
                     .x = x,
                     .packed = matrix.panels.get(),
                     .bias = bias,
                     .sums = sums,
                     .out = out,
                     .rows_per_item = rows_per_item,
                     .panels_per_item = group};
    run(op, kernels_.product, groups * divide_up(rows, rows_per_item), 1, kProductScratch);
  }

  template <typename Op>
  void by_row(const Op& op, Kernel<Op> kernel, std::int64_t rows, std::int64_t row_elements,
              std::int64_t scratch) {
    run(op, kernel, rows, chunk(rows, row_elements), scratch);
  }

  void attend(const BlockAttention& op) {
    run(op, kernels_.block_attention, op.num_blocks * op.num_kv_heads, 1,
        block_attention_scratch(op.start + op.length, op.head_width));
  }

  void attend(const DecodeAttention& op) {
    const Cache& cache = op.cache;
    run(op, kernels_.decode_attention, op.places.rows * cache.num_kv_heads, 1,
        attention_scratch(op.num_heads / cache.num_kv_heads, cache.num_positions,
                          cache.head_width));
  }

  // Calls action(i) for each row.
  template <typename Action>
  void each(std::int64_t rows, std::int64_t row_elements, const Action& action) {
    team_.run(rows, chunk(rows, row_elements), [&](std::int64_t i, std::int64_t end) {
      for (; i < end; ++i) action(i);
    });
  }

 private:
  std::int64_t chunk(std::int64_t rows, std::int64_t row_elements) const {
    return std::max(divide_up(rows, kPieces * team_.size()),
                    divide_up(kMinElements, std::max<std::int64_t>(1, row_elements)));
  }

  template <typename Op>
  void run(const Op& op, Kernel<Op> kernel, std::int64_t count, std::int64_t chunk,
           std::int64_t scratch) {
    team_.run(count, chunk, [&](std::int64_t begin, std::int64_t end) {
      kernel(op, begin, end, thread_scratch(scratch));
    });
  }

  // Loops are cut into so many pieces for each thread, so that one which the system holds up delays
  // the others little; but into none of fewer elements, or of a product of about so many rows.
  static constexpr std::int64_t kPieces = 4;
  static constexpr std::int64_t kMinElements = 1024;
  static constexpr std::int64_t kMinRows = 28;
  // As many panels as the cache of a core keeps while rows pass by.
  static constexpr std::int64_t kMaxPanels = 4;

  Team& team_;
  const Kernels& kernels_;
};

}  // namespace recap::cpu
