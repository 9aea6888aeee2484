// The two formats of keys and values: how what a thread has read becomes fragments of decode_attention.cuh's products.
//
// On a CPU, what primitives.cuh has comes before this file.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include "cuda/primitives.cuh"
#endif

namespace recap::cuda {

struct E4M3 {
  static constexpr int kBytes = 1;

  // The k of product i of a chunk of keys at two positions.
  static RECAP_DEVICE void keys(std::uint32_t (&left)[4], const Words& x, const Words& y, int i) {
    left[0] = e4m3_to_float16(static_cast<std::uint16_t>(x.word[i]));
    left[1] = e4m3_to_float16(static_cast<std::uint16_t>(y.word[i]));
    left[2] = e4m3_to_float16(static_cast<std::uint16_t>(x.word[i] >> 16));
    left[3] = e4m3_to_float16(static_cast<std::uint16_t>(y.word[i] >> 16));
  }

  // The rows of product i of a chunk of values at four positions.
  static RECAP_DEVICE void values(std::uint32_t (&left)[4], const Words (&v)[4], int i) {
    const std::uint32_t neighbors = i % 2 == 0 ? 0x5140 : 0x7362;
    const std::uint32_t first = select_bytes(v[0].word[i / 2], v[1].word[i / 2], neighbors);
    const std::uint32_t second = select_bytes(v[2].word[i / 2], v[3].word[i / 2], neighbors);
    left[0] = e4m3_to_float16(static_cast<std::uint16_t>(first));
    left[1] = e4m3_to_float16(static_cast<std::uint16_t>(first >> 16));
    left[2] = e4m3_to_float16(static_cast<std::uint16_t>(second));
    left[3] = e4m3_to_float16(static_cast<std::uint16_t>(second >> 16));
  }

  // bfloat16 as its bits.
  static RECAP_DEVICE std::uint32_t queries(std::uint32_t pair) {
    return pack_float16(bits_to_float(pair << 16), bits_to_float(pair & 0xFFFF0000));
  }
  static RECAP_DEVICE std::uint32_t pack(float low, float high) { return pack_float16(low, high); }
  static RECAP_DEVICE void multiply(float (&sums)[4], const std::uint32_t (&left)[4], const std::uint32_t (&right)[2]) {
    multiply_float16(sums, left, right);
  }
};

struct BFloat16 {
  static constexpr int kBytes = 2;

  static RECAP_DEVICE void keys(std::uint32_t (&left)[4], const Words& x, const Words& y, int i) {
    left[0] = x.word[2 * i];
    left[1] = y.word[2 * i];
    left[2] = x.word[2 * i + 1];
    left[3] = y.word[2 * i + 1];
  }

  static RECAP_DEVICE void values(std::uint32_t (&left)[4], const Words (&v)[4], int i) {
    left[0] = select_bytes(v[0].word[i], v[1].word[i], 0x5410);
    left[1] = select_bytes(v[0].word[i], v[1].word[i], 0x7632);
    left[2] = select_bytes(v[2].word[i], v[3].word[i], 0x5410);
    left[3] = select_bytes(v[2].word[i], v[3].word[i], 0x7632);
  }

  static RECAP_DEVICE std::uint32_t queries(std::uint32_t pair) { return pair; }
  static RECAP_DEVICE std::uint32_t pack(float low, float high) { return pack_bfloat16(low, high); }
  static RECAP_DEVICE void multiply(float (&sums)[4], const std::uint32_t (&left)[4], const std::uint32_t (&right)[2]) {
    multiply_bfloat16(sums, left, right);
  }
};

}  // namespace recap::cuda
