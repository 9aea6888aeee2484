// Numbers of both precisions, alone and as many as a register holds. For kernels.cpp alone: the unnamed namespace keeps
// what is compiled for one level of instructions from all others.
#pragma once

#include <cstdint>

namespace recap::cpu {
namespace {

struct BFloat16 {
  std::uint16_t bits;
};

// The number of floats in a register.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

template <typename T, int n = kLanes>
using Vector [[gnu::vector_size(n * sizeof(T))]] = T;

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16); }

// To the nearest, ties to even. What is not a number stays so: arithmetic makes no other than those whose upper half
// says it.
template <typename T>
inline T from_float(float x) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return x;
  } else {
    const auto bits = __builtin_bit_cast(std::uint32_t, x);
    return {static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
  }
}

// To the precision of T and back.
template <typename T>
float rounded(float x) {
  return to_float(from_float<T>(x));
}

// (first * x + second) * x + ... of coefficients.
template <typename... Coefficients>
inline float polynomial(float x, float sum, Coefficients... rest) {
  ((sum = sum * x + rest), ...);
  return sum;
}

// A number added to floats below 2^22, which leaves them rounded to integers, in the lower bits.
constexpr float kRounder = 12582912.0F;
constexpr std::int32_t kRounderBits = 0x4B400000;

// e^x within 2e-7 of it, relative, for x from -86 to 86, and that of the nearer bound beyond. The polynomial is that of
// expf in Cephes (S. Moshier, 1989). The bound is set on the bits, as loops with conditions on floats may be left
// scalar by a compiler.
inline float exp(float x) {
  constexpr auto kBound = __builtin_bit_cast(std::uint32_t, 86.0F);
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFF;
  x = __builtin_bit_cast(float, (magnitude < kBound ? magnitude : kBound) | (bits & 0x80000000));
  const float shifted = x * 1.44269504F + kRounder;
  const float n = shifted - kRounder;
  const float r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  const float p = polynomial(r, 1.9875691500e-4F, 1.3981999507e-3F, 8.3334519073e-3F, 4.1665795894e-2F,
                             1.6666665459e-1F, 5.0000001201e-1F);
  const float power = p * (r * r) + r + 1.0F;
  const auto exponent = __builtin_bit_cast(std::uint32_t, shifted) << 23;
  return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, power) + exponent);
}

using Floats = Vector<float>;

inline Floats load_vector(const float* x) {
  Floats y;
  __builtin_memcpy(&y, x, sizeof y);
  return y;
}
inline Floats load_vector(const BFloat16* x) {
  Vector<std::uint16_t> bits;
  __builtin_memcpy(&bits, x, sizeof bits);
  return __builtin_bit_cast(Floats, __builtin_convertvector(bits, Vector<std::uint32_t>) << 16);
}

inline void store_vector(Floats x, float* y) { __builtin_memcpy(y, &x, sizeof x); }

}  // namespace
}  // namespace recap::cpu
