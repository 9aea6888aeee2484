// Weights of a model in memory of its own: vectors copied, and matrices laid out for products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "cpu/kernels/kernels.hpp"
#include "cpu/parallel.hpp"

namespace recap::cpu {

struct Free {
  void operator()(float* x) const { std::free(x); }
};
using FloatArray = std::unique_ptr<float[], Free>;

// Not set, from the beginning of a cache line on.
inline FloatArray make_floats(std::int64_t count) {
  constexpr std::size_t kCacheLine = 64;
  const std::size_t size = static_cast<std::size_t>(count) * sizeof(float);
  void* memory = std::aligned_alloc(kCacheLine, (size / kCacheLine + 1) * kCacheLine);
  if (memory == nullptr) throw std::bad_alloc();
  return FloatArray(static_cast<float*>(memory));
}

// Null stays null.
inline FloatArray copy_floats(const float* x, std::int64_t count) {
  if (x == nullptr) return nullptr;
  FloatArray copy = make_floats(count);
  std::copy_n(x, count, copy.get());
  return copy;
}

// Makes the weights of a model, all for the same kernels.
struct Packer {
  const Kernels& kernels;
  int num_threads;
};

// A matrix [columns, depth] as it is stored, in panels for Product. With `pairs` it is gate above
// up, for Sums::swiglu.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(const float* weight, std::int64_t columns, std::int64_t depth, const Packer& packer,
               bool pairs = false)
      : depth(depth), columns(pairs ? columns / 2 : columns) {
    const std::int64_t width = packer.kernels.block_columns;
    const std::int64_t count = (columns + width - 1) / width;
    panels = make_floats(count * width * depth);
    const Pack op{.columns = columns,
                  .depth = depth,
                  .pairs = pairs,
                  .weight = weight,
                  .packed = panels.get()};
    parallel_for(count, 1, packer.num_threads, [&](std::int64_t begin, std::int64_t end) {
      packer.kernels.pack(op, begin, end, nullptr);
    });
  }

  FloatArray panels;
  std::int64_t depth = 0;
  std::int64_t columns = 0;  // of the product
};

}  // namespace recap::cpu
