// Weights of a model in memory of its own: vectors copied, and matrices laid out for products.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels/kernels.hpp"
#include "cpu/parallel.hpp"

namespace recap::cpu {

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
  const Size count = (columns + width - 1) / width;
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

}  // namespace recap::cpu
