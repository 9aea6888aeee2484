// Products of float32 rows with a packed matrix. For kernels.cpp alone, as
// numbers.hpp says.
#pragma once

#include "cpu/kernels/attention.hpp"
#include "cpu/kernels/numbers.hpp"

// Only what is unrolled stays in registers: by itself GCC leaves loops of so many rows as they are.
#if defined(__clang__)
#define RECAP_UNROLL _Pragma("unroll")
#else
#define RECAP_UNROLL _Pragma("GCC unroll 16")
#endif

namespace recap::cpu {
namespace {

// A block of sums that the registers hold: rows times two vectors of columns.
constexpr int kBlockRows = kLanes == 16 ? 14 : 6;
constexpr int kBlockColumns = 2 * kLanes;

// Rows of a matrix are asked for so far ahead of their use.
constexpr std::int64_t kRowsAhead = 16;

// x * Phi(x), of the normal distribution, to some 2e-7. The polynomial is that of erfcc in
// Numerical Recipes (W. Press et al., second edition, 6.2).
inline float gelu(float x) {
  const float z = (x < 0.0F ? -x : x) * 0.70710678F;
  const float t = 1.0F / (1.0F + 0.5F * z);
  float p = 0.17087277F;
  p = p * t - 0.82215223F;
  p = p * t + 1.48851587F;
  p = p * t - 1.13520398F;
  p = p * t + 0.27886807F;
  p = p * t - 0.18628806F;
  p = p * t + 0.09678418F;
  p = p * t + 0.37409196F;
  p = p * t + 1.00002368F;
  p = p * t - 1.26551223F;
  const float tail = 0.5F * t * exp(p - z * z);  // Phi(-|x|)
  return x * (x < 0.0F ? tail : 1.0F - tail);
}

// Does with two vectors of sums what is to be done with them.
inline void finish(Floats low, Floats high, Sums how, float* out) {
  if (how == Sums::store || how == Sums::add) {
    const bool adds = how == Sums::add;
    store_vector(adds ? low + load_vector(out) : low, out);
    store_vector(adds ? high + load_vector(out + kLanes) : high, out + kLanes);
    return;
  }
  float x[kBlockColumns];
  store_vector(low, x);
  store_vector(high, x + kLanes);
  if (how == Sums::swiglu) {
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) out[i] = x[i] / (1.0F + exp(-x[i])) * x[i + kLanes];
  } else if (how == Sums::quick_gelu) {
#pragma omp simd
    for (int i = 0; i < kBlockColumns; ++i) out[i] = x[i] / (1.0F + exp(-1.702F * x[i]));
  } else {
#pragma omp simd
    for (int i = 0; i < kBlockColumns; ++i) out[i] = gelu(x[i]);
  }
}

// out[r, :] = bias + sum over k of x[r * x_pitch + k] * matrix[k * matrix_pitch, :] for a block.
template <int rows>
void multiply(const float* x, std::int64_t x_pitch, const float* matrix, std::int64_t matrix_pitch,
              std::int64_t depth, const float* bias, Sums how, float* out, std::int64_t out_pitch) {
  const Floats first = bias == nullptr ? Floats{} : load_vector(bias);
  const Floats second = bias == nullptr ? Floats{} : load_vector(bias + kLanes);
  Floats sums[rows][2];
  RECAP_UNROLL
  for (int r = 0; r < rows; ++r) {
    sums[r][0] = first;
    sums[r][1] = second;
  }
  for (std::int64_t k = 0; k < depth; ++k, matrix += matrix_pitch) {
    const Floats low = load_vector(matrix);
    const Floats high = load_vector(matrix + kLanes);
    fetch(matrix + kRowsAhead * matrix_pitch, kBlockColumns);
    RECAP_UNROLL
    for (int r = 0; r < rows; ++r) {
      // a broadcast: subtracting 0 is nothing to a compiler, adding it would turn -0 into 0
      const Floats factor = x[r * x_pitch + k] - Floats{};
      sums[r][0] += factor * low;
      sums[r][1] += factor * high;
    }
  }
  RECAP_UNROLL
  for (int r = 0; r < rows; ++r) finish(sums[r][0], sums[r][1], how, out + r * out_pitch);
}

using Multiply = void (*)(const float*, std::int64_t, const float*, std::int64_t, std::int64_t,
                          const float*, Sums, float*, std::int64_t);

template <int... rows>
struct MultiplyTable {
  static constexpr Multiply by_rows[] = {nullptr, multiply<rows + 1>...};
};
template <int... rows>
constexpr MultiplyTable<rows...> make_table(std::integer_sequence<int, rows...>);
constexpr auto& kMultiply =
    decltype(make_table(std::make_integer_sequence<int, kBlockRows>()))::by_rows;

// Calls action(first, count) for blocks of rows that are as equal as can be.
template <typename Action>
void for_blocks(std::int64_t begin, std::int64_t end, const Action& action) {
  const std::int64_t rows = end - begin;
  const std::int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t first = begin + rows * b / blocks;
    action(first, begin + rows * (b + 1) / blocks - first);
  }
}

// Panel by panel, kBlockColumns columns each, as `multiply` reads them; what is missing is zero.
// Pairs are gate and up: row n of the first half of `weight` and of the second one become
// neighboring vectors.
void pack(const Pack& op, std::int64_t begin, std::int64_t end, float*) {
  const std::int64_t half = op.columns / 2;
  for (std::int64_t panel = begin; panel < end; ++panel) {
    float* out = op.packed + panel * op.depth * kBlockColumns;
    for (std::int64_t i = 0; i < kBlockColumns; ++i) {
      const std::int64_t lane = panel * kLanes + i % kLanes;
      const std::int64_t column = op.pairs ? (lane < half ? lane + i / kLanes * half : op.columns)
                                           : panel * kBlockColumns + i;
      for (std::int64_t k = 0; k < op.depth; ++k) {
        out[k * kBlockColumns + i] = column < op.columns ? op.weight[column * op.depth + k] : 0.0F;
      }
    }
  }
}

// A block of which not all columns are there goes to `out` by way of `scratch`.
void multiply_edge(const Product& op, std::int64_t row, std::int64_t rows, const float* panel,
                   std::int64_t column, std::int64_t columns, float* scratch) {
  float bias[kBlockColumns] = {};
  for (std::int64_t i = 0; op.bias != nullptr && i < columns; ++i) bias[i] = op.bias[column + i];
  kMultiply[rows](op.x + row * op.depth, op.depth, panel, kBlockColumns, op.depth, bias,
                  op.sums == Sums::add ? Sums::store : op.sums, scratch, kBlockColumns);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* out = op.out + (row + r) * op.columns + column;
    for (std::int64_t i = 0; i < columns; ++i) {
      const float sum = scratch[r * kBlockColumns + i];
      out[i] = op.sums == Sums::add ? out[i] + sum : sum;
    }
  }
}

void product(const Product& op, std::int64_t begin, std::int64_t end, float* scratch) {
  const std::int64_t width = op.sums == Sums::swiglu ? kLanes : kBlockColumns;
  const std::int64_t panels = (op.columns + width - 1) / width;
  const std::int64_t groups = (panels + op.panels_per_item - 1) / op.panels_per_item;
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t first_row = item / groups * op.rows_per_item;
    const std::int64_t last_row =
        first_row + op.rows_per_item < op.rows ? first_row + op.rows_per_item : op.rows;
    const std::int64_t first = item % groups * op.panels_per_item;
    const std::int64_t last =
        first + op.panels_per_item < panels ? first + op.panels_per_item : panels;
    for_blocks(first_row, last_row, [&](std::int64_t row, std::int64_t rows) {
      for (std::int64_t p = first; p < last; ++p) {
        const float* panel = op.packed + p * op.depth * kBlockColumns;
        const std::int64_t column = p * width;
        const std::int64_t columns = op.columns - column < width ? op.columns - column : width;
        if (columns < width) {
          multiply_edge(op, row, rows, panel, column, columns, scratch);
        } else {
          kMultiply[rows](op.x + row * op.depth, op.depth, panel, kBlockColumns, op.depth,
                          op.bias == nullptr ? nullptr : op.bias + column, op.sums,
                          op.out + row * op.columns + column, op.columns);
        }
      }
    });
  }
}

}  // namespace
}  // namespace recap::cpu
