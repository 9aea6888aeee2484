// The kernel of decode attention on a CPU: csrc/cuda/primitives.cuh anew, after the PTX ISA, and what runs a block.
//
// The threads of a block are fibers that take turns. One runs until it calls a primitive of its warp or its block, then
// the next one does, so that when its turn comes again all others have made the same call.
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define RECAP_DEVICE inline

namespace recap::cuda {

constexpr int kLanes = 32;

// What the lanes of a warp bring to a call, and what all of them take from it.
struct Call {
  int kind = 0;
  bool done = false;
  std::array<std::array<std::uint32_t, 10>, kLanes> given{};
  std::array<std::array<std::uint32_t, 4>, kLanes> result{};
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 17);
  int thread = 0;
  std::size_t calls = 0;
  bool running = false;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<std::array<Call, 2>> warps;
  ucontext_t scheduler;
  Fiber* current = nullptr;
  int waiting = 0;
  std::array<std::pair<const char*, const char*>, 3> readable;  // from the first byte to the one after the last
  bool wrong = false;  // lanes of a warp have parted, or an address must not be read
  std::function<void(int)> kernel;
};
inline Block* block = nullptr;

inline void take_turns() { swapcontext(&block->current->context, &block->scheduler); }

// A call of all lanes of a warp, of a kind, that `compute` answers for all of them at once.
template <typename Compute>
std::array<std::uint32_t, 4> together(int kind, const std::array<std::uint32_t, 10>& mine, const Compute& compute) {
  const Fiber& fiber = *block->current;
  const int lane = fiber.thread % kLanes;
  Call& call = block->warps[fiber.thread / kLanes][block->current->calls++ % 2];
  if (lane == 0) call.kind = kind;
  block->wrong |= call.kind != kind;
  call.done = false;
  call.given[lane] = mine;
  take_turns();
  if (!call.done) compute(call);
  call.done = true;
  return call.result[lane];
}

struct Words {
  std::uint32_t word[4];
};

template <int count>
Words load(const void* from) {
  constexpr int kBytes = 4 * count;
  const auto* bytes = static_cast<const char*>(from);
  const auto holds = [&](const auto& range) { return range.first <= bytes && bytes + kBytes <= range.second; };
  Words x{};
  if (reinterpret_cast<std::uintptr_t>(from) % kBytes == 0 && std::ranges::any_of(block->readable, holds)) {
    std::memcpy(x.word, from, kBytes);
  } else {
    block->wrong = true;
  }
  return x;
}

inline float power_of_two(float x) { return std::exp2(x); }
inline float bits_to_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline std::uint32_t float_to_bits(float x) { return std::bit_cast<std::uint32_t>(x); }

// "prmt", its default mode.
inline std::uint32_t select_bytes(std::uint32_t low, std::uint32_t high, std::uint32_t selector) {
  const std::uint64_t bytes = low | std::uint64_t{high} << 32;
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t from = selector >> (4 * i) & 7;
    result |= static_cast<std::uint32_t>(bytes >> (8 * from) & 0xFF) << (8 * i);
  }
  return result;
}

inline std::uint32_t float16_bits(float x) { return std::bit_cast<std::uint16_t>(static_cast<_Float16>(x)); }
inline float float16_value(std::uint32_t bits) {
  return static_cast<float>(std::bit_cast<_Float16>(static_cast<std::uint16_t>(bits)));
}
inline std::uint32_t bfloat16_bits(float x) {
  const std::uint32_t bits = float_to_bits(x);
  return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline float bfloat16_value(std::uint32_t bits) { return bits_to_float(bits << 16); }

// OCP 8-bit floating point, E4M3: 4 bits of exponent with bias 7, no infinities.
inline float e4m3_value(std::uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 3 & 15), fraction = static_cast<int>(bits & 7);
  float x = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                          : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  if ((bits & 0x7F) == 0x7F) x = NAN;
  return bits & 0x80 ? -x : x;
}
inline std::uint32_t e4m3_bits(float x) {
  const float size = std::fabs(x);
  std::uint32_t best = 0;
  for (std::uint32_t bits = 1; bits < 0x7F; ++bits) {
    const float gain = std::fabs(e4m3_value(best) - size) - std::fabs(e4m3_value(bits) - size);
    if (gain > 0 || (gain == 0 && bits % 2 == 0)) best = bits;
  }
  return std::isnan(x) ? 0x7F : best | (std::signbit(x) ? 0x80 : 0);
}

inline std::uint32_t pack_float16(float low, float high) { return float16_bits(low) | float16_bits(high) << 16; }
inline std::uint32_t pack_bfloat16(float low, float high) { return bfloat16_bits(low) | bfloat16_bits(high) << 16; }
inline std::uint16_t pack_e4m3(float low, float high) {
  return static_cast<std::uint16_t>(e4m3_bits(low) | e4m3_bits(high) << 8);
}
inline std::uint32_t e4m3_to_float16(std::uint16_t pair) {
  return pack_float16(e4m3_value(pair & 0xFF), e4m3_value(pair >> 8));
}

inline bool any(bool predicate) {
  const auto compute = [](Call& call) {
    std::uint32_t found = 0;
    for (const auto& given : call.given) found |= given[0];
    for (auto& result : call.result) result[0] = found;
  };
  return together(1, {predicate}, compute)[0] != 0;
}

inline float shuffle_xor(float x, int mask) {
  const auto compute = [](Call& call) {
    for (std::uint32_t i = 0; i < kLanes; ++i) call.result[i][0] = call.given[i ^ call.given[i][1]][0];
  };
  return bits_to_float(together(2, {float_to_bits(x), static_cast<std::uint32_t>(mask)}, compute)[0]);
}

// "movmatrix": lane i has elements 2 * (i % 4) and the next of row i / 4, of the matrix and of the transposed one.
inline std::uint32_t transpose(std::uint32_t row) {
  const auto compute = [](Call& call) {
    std::uint32_t matrix[8][8];
    for (int i = 0; i < kLanes; ++i) {
      matrix[i / 4][2 * (i % 4)] = call.given[i][0] & 0xFFFF;
      matrix[i / 4][2 * (i % 4) + 1] = call.given[i][0] >> 16;
    }
    for (int i = 0; i < kLanes; ++i) {
      call.result[i][0] = matrix[2 * (i % 4)][i / 4] | matrix[2 * (i % 4) + 1][i / 4] << 16;
    }
  };
  return together(3, {row}, compute)[0];
}

// "Matrix fragments for mma.m16n8k16 with floating point type": element i of a lane's fragment, by its formulas.
template <float (*value)(std::uint32_t)>
void multiply_fragments(Call& call) {
  float a[16][16], b[16][8];
  const auto half = [](std::uint32_t pair, int i) { return value(i % 2 == 0 ? pair & 0xFFFF : pair >> 16); };
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane >> 2, thread = lane % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8;
      const int column = thread * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      a[row][column] = half(call.given[lane][i / 2], i);
    }
    for (int i = 0; i < 4; ++i)
      b[thread * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = half(call.given[lane][4 + i / 2], i);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane >> 2 : (lane >> 2) + 8, column = lane % 4 * 2 + (i & 1);
      float sum = bits_to_float(call.given[lane][6 + i]);
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      call.result[lane][i] = float_to_bits(sum);
    }
  }
}

template <float (*value)(std::uint32_t)>
void multiply(int kind, float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  std::array<std::uint32_t, 10> given{a[0], a[1], a[2], a[3], b[0], b[1]};
  for (int i = 0; i < 4; ++i) given[6 + i] = float_to_bits(sums[i]);
  const auto result = together(kind, given, multiply_fragments<value>);
  for (int i = 0; i < 4; ++i) sums[i] = bits_to_float(result[i]);
}
inline void multiply_float16(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  multiply<float16_value>(4, sums, a, b);
}
inline void multiply_bfloat16(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  multiply<bfloat16_value>(5, sums, a, b);
}

inline void sync_block() {
  ++block->waiting;
  while (block->waiting < static_cast<int>(block->fibers.size())) take_turns();
}

}  // namespace recap::cuda

#include "cuda/decode_attention.cuh"

namespace recap::cuda {
namespace {

void run_fiber() {
  Fiber& fiber = *block->current;
  block->kernel(fiber.thread);
  fiber.running = false;
}

void run_block(Block& it, const std::function<void(int)>& kernel) {
  block = &it;
  it.kernel = kernel;
  it.waiting = 0;
  for (Fiber& fiber : it.fibers) {
    fiber.calls = 0;
    fiber.running = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &it.scheduler;
    makecontext(&fiber.context, run_fiber, 0);
  }
  for (bool running = true; running;) {
    running = false;
    for (Fiber& fiber : it.fibers) {
      if (!fiber.running) continue;
      it.current = &fiber;
      swapcontext(&it.scheduler, &fiber.context);
      running = true;
    }
  }
}

template <typename Number, int width>
void run_all(Block& it, const DecodeAttention& op) {
  for (int row = 0; row < op.rows; ++row) {
    for (int head = 0; head < op.num_kv_heads; ++head) {
      const auto* q = static_cast<const char*>(op.queries);
      const Head<Number, width> read(op, row, head);
      const int size = (read.last + 1) * width * Number::kBytes;
      it.readable = {{{q, q + std::int64_t{op.rows} * op.num_heads * width * 2},
                      {read.keys, read.keys + size},
                      {read.values, read.values + size}}};
      Joined<width> joined;
      std::memset(&joined, 0xFF, sizeof joined);  // not a number
      run_block(it, [&](int thread) { decode_attention<Number, width>(op, row, head, thread, joined); });
    }
  }
}

}  // namespace

// Whether the lanes of each warp kept together, and read aligned addresses of what their row may read.
extern "C" bool run(const DecodeAttention* op) {
  Block it;
  it.fibers.resize(kThreads);
  it.warps.resize(kWarps);
  for (int i = 0; i < kThreads; ++i) it.fibers[i].thread = i;
  if (op->in_8_bits) {
    op->head_width == 64 ? run_all<E4M3, 64>(it, *op) : run_all<E4M3, 128>(it, *op);
  } else {
    op->head_width == 64 ? run_all<BFloat16, 64>(it, *op) : run_all<BFloat16, 128>(it, *op);
  }
  return !it.wrong;
}

}  // namespace recap::cuda
