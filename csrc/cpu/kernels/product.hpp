// Products of float32 rows with a packed matrix. For kernels.cpp alone, as numbers.hpp says.
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
constexpr Size kRowsAhead = 16;

// x * Phi(x), of the normal distribution, to some 2e-7. The polynomial is that of erfcc in Numerical Recipes (W. Press
// et al., second edition, 6.2).
inline float gelu(float x) {
  const float z = (x < 0.0F ? -x : x) * 0.70710678F;
  const float t = 1.0F / (1.0F + 0.5F * z);
  const float p = polynomial(t, 0.17087277F, -0.82215223F, 1.48851587F, -1.13520398F, 0.27886807F, -0.18628806F,
                             0.09678418F, 0.37409196F, 1.00002368F, -1.26551223F);
  const float tail = 0.5F * t * exp(p - z * z);  // Phi(-|x|)
  return x * (x < 0.0F ? tail : 1.0F - tail);
}

// x * Phi(x), Phi by the tangent: (1 + tanh(t)) / 2 is 1 / (1 + e^(-2 t)).
inline float gelu_tanh(float x) { return x / (1.0F + exp(-1.59576912F * x * (1.0F + 0.044715F * x * x))); }

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
  } else if (how == Sums::gelu) {
#pragma omp simd
    for (int i = 0; i < kBlockColumns; ++i) out[i] = gelu(x[i]);
  } else {
#pragma omp simd
    for (int i = 0; i < kBlockColumns; ++i) out[i] = gelu_tanh(x[i]);
  }
}

// out[r, :] = bias + sum over k of x[r * x_pitch + k] * matrix[k * matrix_pitch, :] for a block.
template <int rows>
void multiply(const float* x, Size x_pitch, const float* matrix, Size matrix_pitch, Size depth, const float* bias,
              Sums how, float* out, Size out_pitch) {
  const Floats first = bias == nullptr ? Floats{} : load_vector(bias);
  const Floats second = bias == nullptr ? Floats{} : load_vector(bias + kLanes);
  Floats sums[rows][2];
  RECAP_UNROLL
  for (int r = 0; r < rows; ++r) {
    sums[r][0] = first;
    sums[r][1] = second;
  }
  for (Size k = 0; k < depth; ++k, matrix += matrix_pitch) {
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

using Multiply = void (*)(const float*, Size, const float*, Size, Size, const float*, Sums, float*, Size);

template <int... rows>
struct MultiplyTable {
  static constexpr Multiply by_rows[] = {nullptr, multiply<rows + 1>...};
};
template <int... rows>
constexpr MultiplyTable<rows...> make_table(std::integer_sequence<int, rows...>);
constexpr auto& kMultiply = decltype(make_table(std::make_integer_sequence<int, kBlockRows>()))::by_rows;

// Calls action(first, count) for blocks of rows that are as equal as can be.
template <typename Action>
void for_blocks(Size begin, Size end, const Action& action) {
  const Size rows = end - begin;
  const Size blocks = (rows + kBlockRows - 1) / kBlockRows;
  for (Size b = 0; b < blocks; ++b) {
    const Size first = begin + rows * b / blocks;
    action(first, begin + rows * (b + 1) / blocks - first);
  }
}

// Panel by panel, kBlockColumns columns each, as `multiply` reads them; what is missing is zero. Pairs are gate and up:
// row n of the first half of `weight` and of the second one become neighboring vectors.
void pack(const Pack& op, Size begin, Size end, float*) {
  const Size half = op.columns / 2;
  for (Size panel = begin; panel < end; ++panel) {
    float* out = op.packed + panel * op.depth * kBlockColumns;
    for (Size i = 0; i < kBlockColumns; ++i) {
      const Size lane = panel * kLanes + i % kLanes;
      const Size column = op.pairs ? (lane < half ? lane + i / kLanes * half : op.columns) : panel * kBlockColumns + i;
      for (Size k = 0; k < op.depth; ++k) {
        out[k * kBlockColumns + i] = column < op.columns ? op.weight[column * op.depth + k] : 0.0F;
      }
    }
  }
}

// A block of which not all columns are there goes to `out` by way of `scratch`.
void multiply_edge(const Product& op, Size row, Size rows, const float* panel, Size column, Size columns,
                   float* scratch) {
  float bias[kBlockColumns] = {};
  for (Size i = 0; op.bias != nullptr && i < columns; ++i) bias[i] = op.bias[column + i];
  kMultiply[rows](op.x + row * op.depth, op.depth, panel, kBlockColumns, op.depth, bias,
                  op.sums == Sums::add ? Sums::store : op.sums, scratch, kBlockColumns);
  for (Size r = 0; r < rows; ++r) {
    float* out = op.out + (row + r) * op.columns + column;
    for (Size i = 0; i < columns; ++i) {
      const float sum = scratch[r * kBlockColumns + i];
      out[i] = op.sums == Sums::add ? out[i] + sum : sum;
    }
  }
}

void product(const Product& op, Size begin, Size end, float* scratch) {
  const Size width = op.sums == Sums::swiglu ? kLanes : kBlockColumns;
  const Size panels = (op.columns + width - 1) / width;
  const Size groups = (panels + op.panels_per_item - 1) / op.panels_per_item;
  for (Size item = begin; item < end; ++item) {
    const Size first_row = item / groups * op.rows_per_item;
    const Size last_row = first_row + op.rows_per_item < op.rows ? first_row + op.rows_per_item : op.rows;
    const Size first = item % groups * op.panels_per_item;
    const Size last = first + op.panels_per_item < panels ? first + op.panels_per_item : panels;
    for_blocks(first_row, last_row, [&](Size row, Size rows) {
      for (Size p = first; p < last; ++p) {
        const float* panel = op.packed + p * op.depth * kBlockColumns;
        const Size column = p * width;
        const Size columns = op.columns - column < width ? op.columns - column : width;
        if (columns < width) {
          multiply_edge(op, row, rows, panel, column, columns, scratch);
        } else {
          kMultiply[rows](op.x + row * op.depth, op.depth, panel, kBlockColumns, op.depth,
                          op.bias == nullptr ? nullptr : op.bias + column, op.sums, op.out + row * op.columns + column,
                          op.columns);
        }
      }
    });
  }
}

}  // namespace
}  // namespace recap::cpu
