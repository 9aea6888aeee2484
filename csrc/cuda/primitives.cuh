// The GPU instructions that decode_attention.cuh uses. Sections are those of the PTX ISA,
// https://docs.nvidia.com/cuda/parallel-thread-execution/. tests/support/cuda_on_cpu.cpp has the same for a CPU.
#pragma once

#include <cstdint>

#define RECAP_DEVICE __device__ __forceinline__

namespace recap::cuda {

struct Words {
  std::uint32_t word[4];
};

// Reads 4 * count bytes, aligned to as many, that nobody writes meanwhile. They are read once and not kept in L1. It is
// volatile so that the compiler leaves it where it is, long before the bytes are used.
template <int count>
RECAP_DEVICE Words load(const void* from) {
  static_assert(count == 2 || count == 4);
  Words x;
  if constexpr (count == 4) {
    asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.word[0]), "=r"(x.word[1]), "=r"(x.word[2]), "=r"(x.word[3])
                 : "l"(from));
  } else {
    asm volatile("ld.global.nc.L1::no_allocate.v2.b32 {%0, %1}, [%2];" : "=r"(x.word[0]), "=r"(x.word[1]) : "l"(from));
  }
  return x;
}

RECAP_DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

RECAP_DEVICE float bits_to_float(std::uint32_t bits) { return __uint_as_float(bits); }

// Four of the bytes of `low` (numbered 0 to 3) and `high` (4 to 7): each hexadecimal digit of the selector is a
// byte's number, the lowest first.
RECAP_DEVICE std::uint32_t select_bytes(std::uint32_t low, std::uint32_t high, std::uint32_t selector) {
  return __byte_perm(low, high, selector);
}

// Two numbers in a register, `low` in its lower half.
RECAP_DEVICE std::uint32_t pack_float16(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

RECAP_DEVICE std::uint32_t pack_bfloat16(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Cards below compute capability 8.9 have no e4m3: this traps there.
RECAP_DEVICE std::uint16_t pack_e4m3([[maybe_unused]] float low, [[maybe_unused]] float high) {
  std::uint16_t pair = 0;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
#else
  __trap();
#endif
  return pair;
}

// Two numbers of e4m3 as float16, which has all of them.
RECAP_DEVICE std::uint32_t e4m3_to_float16([[maybe_unused]] std::uint16_t pair) {
  std::uint32_t halves = 0;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
#else
  __trap();
#endif
  return halves;
}

// All threads of a warp have to call this and the four functions below.
RECAP_DEVICE bool any(bool predicate) { return __any_sync(0xFFFFFFFF, predicate); }

RECAP_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xFFFFFFFF, x, mask); }

// A transposed matrix [8, 8] of 16-bit numbers: "movmatrix".
RECAP_DEVICE std::uint32_t transpose(std::uint32_t row) {
  std::uint32_t column;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(column) : "r"(row));
  return column;
}

// sums [16, 8] += a [16, 16] * b [16, 8]: "Matrix fragments for mma.m16n8k16 with floating point type".
RECAP_DEVICE void multiply_float16(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

RECAP_DEVICE void multiply_bfloat16(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Waits for all threads of the block.
RECAP_DEVICE void sync_block() { __syncthreads(); }

}  // namespace recap::cuda
