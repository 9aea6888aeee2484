#include "cpu/ops.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

namespace recap::cpu {
namespace {

// Those that this processor has, the best one first.
std::vector<const Kernels*> find_levels() {
  std::vector<const Kernels*> levels;
#if defined(__x86_64__)
  const auto supports = [](auto... features) { return (features && ...); };
  if (supports(__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"),
               __builtin_cpu_supports("avx512cd"), __builtin_cpu_supports("avx512dq"),
               __builtin_cpu_supports("avx512vl"))) {
    levels.push_back(&kernels_v4);
  }
  if (supports(__builtin_cpu_supports("avx2"), __builtin_cpu_supports("fma"), __builtin_cpu_supports("bmi2"))) {
    levels.push_back(&kernels_v3);
  }
#endif
  levels.push_back(&kernels_baseline);
  return levels;
}

std::atomic<const Kernels*> used_kernels = find_levels().front();

}  // namespace

const Kernels& kernels() { return *used_kernels; }

std::vector<std::string> kernel_levels() {
  std::vector<std::string> names;
  for (const Kernels* kernels : find_levels()) names.emplace_back(kernels->level);
  return names;
}

void use_kernels(const std::string& level) {
  for (const Kernels* kernels : find_levels()) {
    if (kernels->level == level) {
      used_kernels = kernels;
      return;
    }
  }
  throw std::invalid_argument("this processor has no kernels of level " + level);
}

float* thread_scratch(Size size) {
  thread_local std::vector<float> scratch;
  if (scratch.size() < static_cast<std::size_t>(size)) scratch.resize(static_cast<std::size_t>(size));
  return scratch.data();
}

void check_scratch(Size size) {
  constexpr Size kMax = Size{1} << 28;
  if (size > kMax) {
    throw std::length_error("each thread would work in " + std::to_string(size) + " floats, which are too many");
  }
}

PlaceList::PlaceList(const Places& places, const Cache& cache)
    : slots(places.slots, places.slots + places.rows), positions(places.positions, places.positions + places.rows) {
  for (std::size_t row = 0; row < slots.size(); ++row) {
    const Size slot = slots[row];
    const Size position = positions[row];
    if (slot < 0 || slot >= cache.num_slots || position < 0 || position >= cache.num_positions) {
      throw std::out_of_range("row " + std::to_string(row) + " is at slot " + std::to_string(slot) + ", position " +
                              std::to_string(position) + " of a cache of " + std::to_string(cache.num_slots) +
                              " slots of " + std::to_string(cache.num_positions) + " positions");
    }
  }
}

}  // namespace recap::cpu
