#include "cpu/ops.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels/kernels.hpp"
#include "cpu/parallel.hpp"

namespace recap::cpu {
namespace {

struct Level {
  const char* name;
  const Kernels* kernels;
};

// Those that this processor has, the best one first.
std::vector<Level> find_levels() {
  std::vector<Level> levels;
#if defined(__x86_64__)
  const auto supports = [](auto... features) { return (features && ...); };
  if (supports(__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"),
               __builtin_cpu_supports("avx512cd"), __builtin_cpu_supports("avx512dq"),
               __builtin_cpu_supports("avx512vl"))) {
    levels.push_back({.name = "v4", .kernels = &kernels_v4});
  }
  if (supports(__builtin_cpu_supports("avx2"), __builtin_cpu_supports("fma"),
               __builtin_cpu_supports("bmi2"))) {
    levels.push_back({.name = "v3", .kernels = &kernels_v3});
  }
#endif
  levels.push_back({.name = "baseline", .kernels = &kernels_baseline});
  return levels;
}

std::atomic<const Kernels*> used_kernels = find_levels().front().kernels;

// The elements that are worth a thread: about as much time as it takes to start a team of them.
constexpr std::int64_t kMinElements = 16384;

template <typename Op>
void run_rows(const Op& op, Kernel<Op> kernel, std::int64_t rows, std::int64_t row_elements,
              std::int64_t scratch, int num_threads) {
  check_scratch(scratch);
  const std::int64_t chunk =
      std::max<std::int64_t>(1, kMinElements / std::max<std::int64_t>(1, row_elements));
  parallel_for(rows, chunk, num_threads, [&](std::int64_t begin, std::int64_t end) {
    kernel(op, begin, end, thread_scratch(scratch));
  });
}

}  // namespace

const Kernels& kernels() {
  return *used_kernels;
}

std::vector<std::string> kernel_levels() {
  std::vector<std::string> names;
  for (const Level& level : find_levels()) names.emplace_back(level.name);
  return names;
}

void use_kernels(const std::string& name) {
  for (const Level& level : find_levels()) {
    if (level.name == name) {
      used_kernels = level.kernels;
      return;
    }
  }
  throw std::invalid_argument("this processor has no kernels of level " + name);
}

float* thread_scratch(std::int64_t size) {
  thread_local std::vector<float> scratch;
  if (scratch.size() < static_cast<std::size_t>(size))
    scratch.resize(static_cast<std::size_t>(size));
  return scratch.data();
}

void check_scratch(std::int64_t size) {
  constexpr std::int64_t kMax = std::int64_t{1} << 28;
  if (size > kMax) {
    throw std::length_error("each thread would work in " + std::to_string(size) +
                            " floats, which is beyond " + std::to_string(kMax));
  }
}

PlaceList::PlaceList(const Places& places, const Cache& cache)
    : slots_(places.slots, places.slots + places.rows),
      positions_(places.positions, places.positions + places.rows) {
  for (std::size_t row = 0; row < slots_.size(); ++row) {
    const std::int64_t slot = slots_[row];
    const std::int64_t position = positions_[row];
    if (slot < 0 || slot >= cache.num_slots || position < 0 || position >= cache.num_positions) {
      throw std::out_of_range("row " + std::to_string(row) + " is at slot " + std::to_string(slot) +
                              ", position " + std::to_string(position) + " of a cache of " +
                              std::to_string(cache.num_slots) + " slots of " +
                              std::to_string(cache.num_positions) + " positions");
    }
  }
}

Places PlaceList::view() const {
  return {.rows = std::ssize(slots_), .slots = slots_.data(), .positions = positions_.data()};
}

void run(const AddRmsNorm& op, int num_threads) {
  run_rows(op, kernels().add_rms_norm, op.rows, op.width, op.width, num_threads);
}

void run(const Swiglu& op, int num_threads) {
  run_rows(op, kernels().swiglu, op.rows, 2 * op.width, op.width, num_threads);
}

void run(const QuickGelu& op, int num_threads) {
  run_rows(op, kernels().quick_gelu, op.rows, op.width, op.width, num_threads);
}

void run(const QuantizeRows& op, int num_threads) {
  run_rows(op, kernels().quantize_rows, op.rows, op.width, op.width, num_threads);
}

void run(const Dequantize& op, int num_threads) {
  run_rows(op, kernels().dequantize, op.rows, op.width, 0, num_threads);
}

void run(RopeStore op, int num_threads) {
  const PlaceList places(op.places, op.cache);
  op.places = places.view();
  const std::int64_t heads = op.num_heads + 2 * op.cache.num_kv_heads;
  run_rows(op, kernels().rope_store, op.places.rows, heads * op.cache.head_width, 0, num_threads);
}

void run(DecodeAttention op, int num_threads) {
  const Cache& cache = op.cache;
  const PlaceList places(op.places, cache);
  op.places = places.view();
  std::int64_t length = 1;
  for (std::int64_t row = 0; row < op.places.rows; ++row) {
    length = std::max(length, op.places.positions[row] + 1);
  }
  run_rows(
      op, kernels().decode_attention, op.places.rows * cache.num_kv_heads,
      2 * length * cache.head_width,
      attention_scratch(op.num_heads / cache.num_kv_heads, cache.num_positions, cache.head_width),
      num_threads);
}

}  // namespace recap::cpu
