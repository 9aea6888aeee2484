// The kernel of decode attention, over primitives.cuh. Compiled for a CPU, whoever includes this defines the primitives
// first.
//
// A block computes one key/value head of a row, and writes nothing but the result to global memory. A warp takes every
// kWarps-th tile of 16 positions. For each head it keeps the largest score, the sum of the weights and the sum of the
// weighted values; at the end the block joins those of its warps. Softmax is online, in powers of two.
//
// Both products have the cache as their left matrix [16, 16] and the heads as the 8 columns of the right one:
//
//   scores [16 positions, 8 heads] = keys [16 positions, E] * queries^T [E, 8 heads]
//   out [E, 8 heads] += values^T [E, 16 positions] * weights [16 positions, 8 heads]
//
// Fragments of mma.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type"): with g = lane / 4
// and t = lane % 4, in pairs of neighbors in k or, in sums, in columns,
//
//   left    [row g, k 2t], [row g + 8, k 2t], [row g, k 2t + 8], [row g + 8, k 2t + 8]
//   right   [k 2t, column g], [k 2t + 8, column g]
//   sums    [row g, columns 2t and 2t + 1], [row g + 8, columns 2t and 2t + 1]
//
// The order of a head's E elements, as k of the first product and as rows of the second, is free. It is chosen so that
// a thread reads them 16 bytes at a time:
//
//   keys    positions g and g + 8, chunks t, t + 4, ...; of a chunk 4 elements are a thread's k of one product
//   values  positions 2t, 2t + 1, 2t + 8, 2t + 9, chunks g, g + 8, ...; of a chunk elements 2i and 2i + 1 are
//           rows g and g + 8 of one product
//
// 8-bit numbers are multiplied in float16, which has all of them.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/cache_formats.cuh"
#include "cuda/decode_attention.hpp"

namespace recap::cuda {

constexpr int kWarps = 4;
constexpr int kTile = 16;
constexpr int kThreads = 32 * kWarps;
constexpr float kLog2E = 1.44269504088896F;
constexpr float kLargestE4M3 = 448.0F;
// Weights are relative to a score seen before. Sums are rescaled only when a score is above that by more than this, in
// powers of two.
constexpr float kSlack = 8.0F;

// The results of a block's warps, in shared memory.
template <int width>
struct Joined {
  alignas(16) float out[kWarps][kMaxGroup][width];
  float largest[kWarps][kMaxGroup], total[kWarps][kMaxGroup];
};

// A key/value head of a row, and where its cache is.
template <typename Number, int width>
struct Head {
  static constexpr int kRow = width * Number::kBytes;  // bytes of a position

  RECAP_DEVICE Head(const DecodeAttention& op, int row, int kv_head)
      : group(op.num_heads / op.num_kv_heads),
        last(static_cast<int>(op.positions[row])),
        first_head(std::int64_t{row} * op.num_heads + kv_head * group) {
    const std::int64_t start = (op.slots[row] * op.num_kv_heads + kv_head) * op.num_positions * kRow;
    keys = static_cast<const char*>(op.keys) + start;
    values = static_cast<const char*>(op.values) + start;
  }

  int group, last;
  std::int64_t first_head;  // among the query heads of all rows
  const char *keys, *values;
};

// A warp's share of a head: the attention to its tiles of positions.
template <typename Number, int width>
class Warp {
 public:
  RECAP_DEVICE Warp(const DecodeAttention& op, const Head<Number, width>& head, int warp, int lane)
      : head_(head),
        g_(lane / 4),
        t_(lane % 4),
        keys_from_(head.keys + t_ * 16),
        values_from_(head.values + g_ * kValueBytes) {
    load_keys(kTile * warp);
    load_values(kTile * warp);
    load_queries(op);
    for (int first = kTile * warp; first <= head_.last; first += kTile * kWarps) {
      float scores[4];
      score(scores, first);
      load_keys(first + kTile * kWarps);
      weigh(scores);
      add_values(scores);
      load_values(first + kTile * kWarps);
    }
  }

  RECAP_DEVICE void store(Joined<width>& joined, int warp) {
    for (int j = 0; j < 2; ++j) {
      for (int mask = 4; mask < 32; mask *= 2) total_[j] += shuffle_xor(total_[j], mask);
      if (g_ == 0) {
        joined.largest[warp][2 * t_ + j] = largest_[j];
        joined.total[warp][2 * t_ + j] = total_[j];
      }
      for (int c = 0; c < kValueChunks; ++c) {
        for (int i = 0; i < kValueTiles; ++i) {
          float* out = &joined.out[warp][2 * t_ + j][2 * ((c * 8 + g_) * kValueTiles + i)];
          out[0] = out_[c][i][j];
          out[1] = out_[c][i][2 + j];
        }
      }
    }
  }

 private:
  static constexpr int kRow = Head<Number, width>::kRow;
  static constexpr int kKeyChunks = kRow / (4 * 16);              // of 16 bytes a thread and position
  static constexpr int kKeySteps = 4 / Number::kBytes;            // products of a chunk
  static constexpr int kValueBytes = kRow < 128 ? kRow / 8 : 16;  // of a chunk
  static constexpr int kValueChunks = kRow / (8 * kValueBytes);
  static constexpr int kValueTiles = kValueBytes / Number::kBytes / 2;

  // Columns of heads that are not there are zeros.
  RECAP_DEVICE void load_queries(const DecodeAttention& op) {
    const auto* from = static_cast<const std::uint16_t*>(op.queries) + (head_.first_head + g_) * width;
    for (int c = 0; c < kKeyChunks; ++c) {
      for (int i = 0; i < kKeySteps; ++i) {
        Words x{};
        if (g_ < head_.group) x = load<2>(from + 4 * ((c * 4 + t_) * kKeySteps + i));
        queries_[c][i][0] = Number::queries(x.word[0]);
        queries_[c][i][1] = Number::queries(x.word[1]);
      }
    }
  }

  // The offset of a position. Positions beyond the last one read the last one again: its numbers are finite, and the
  // weight is 0.
  RECAP_DEVICE std::int64_t readable(int position) const {
    return std::int64_t{position < head_.last ? position : head_.last} * kRow;
  }

  RECAP_DEVICE void load_keys(int first) {
    for (int r = 0; r < 2; ++r) {
      const char* from = keys_from_ + readable(first + g_ + 8 * r);
      for (int c = 0; c < kKeyChunks; ++c) keys_[c][r] = load<4>(from + c * 4 * 16);
    }
  }

  RECAP_DEVICE void load_values(int first) {
    for (int r = 0; r < 4; ++r) {
      const char* from = values_from_ + readable(first + 2 * t_ + r % 2 + r / 2 * 8);
      for (int c = 0; c < kValueChunks; ++c) values_[c][r] = load<kValueBytes / 4>(from + c * 8 * kValueBytes);
    }
  }

  // In powers of two: -inf beyond the row's position.
  RECAP_DEVICE void score(float (&scores)[4], int first) const {
    for (float& x : scores) x = 0.0F;
    for (int c = 0; c < kKeyChunks; ++c) {
      for (int i = 0; i < kKeySteps; ++i) {
        std::uint32_t left[4];
        Number::keys(left, keys_[c][0], keys_[c][1], i);
        Number::multiply(scores, left, queries_[c][i]);
      }
    }
    constexpr float kScale = kLog2E * (width == 64 ? 0.125F : 0.08838834764831845F);  // 1 / sqrt(width)
    for (int i = 0; i < 4; ++i) {
      scores[i] = first + g_ + i / 2 * 8 <= head_.last ? scores[i] * kScale : -INFINITY;
    }
  }

  // Turns scores into weights, relative to 2 ** largest, which all threads of a head share. It seldom grows.
  RECAP_DEVICE void weigh(float (&scores)[4]) {
    const float high[2] = {fmaxf(scores[0], scores[2]), fmaxf(scores[1], scores[3])};
    if (any(high[0] > largest_[0] + kSlack || high[1] > largest_[1] + kSlack)) {
      for (int j = 0; j < 2; ++j) grow(j, high[j]);
    }
    for (int i = 0; i < 4; ++i) {
      scores[i] = power_of_two(scores[i] - largest_[i % 2]);
      total_[i % 2] += scores[i];
    }
  }

  RECAP_DEVICE void grow(int j, float high) {
    for (int mask = 4; mask < 32; mask *= 2) high = fmaxf(high, shuffle_xor(high, mask));
    high = fmaxf(high, largest_[j]);
    const float shrink = power_of_two(largest_[j] - high);
    largest_[j] = high;
    total_[j] *= shrink;
    for (int c = 0; c < kValueChunks; ++c) {
      for (int i = 0; i < kValueTiles; ++i) {
        out_[c][i][j] *= shrink;
        out_[c][i][2 + j] *= shrink;
      }
    }
  }

  // The sums of one product, transposed, are the right matrix of the other.
  RECAP_DEVICE void add_values(const float (&weights)[4]) {
    const std::uint32_t right[2] = {transpose(Number::pack(weights[0], weights[1])),
                                    transpose(Number::pack(weights[2], weights[3]))};
    for (int c = 0; c < kValueChunks; ++c) {
      for (int i = 0; i < kValueTiles; ++i) {
        std::uint32_t left[4];
        Number::values(left, values_[c], i);
        Number::multiply(out_[c][i], left, right);
      }
    }
  }

  const Head<Number, width>& head_;
  const int g_, t_;
  const char *keys_from_, *values_from_;
  std::uint32_t queries_[kKeyChunks][kKeySteps][2];
  Words keys_[kKeyChunks][2], values_[kValueChunks][4];
  // Of heads 2t and 2t + 1. The total is of this thread's positions alone.
  float largest_[2] = {-INFINITY, -INFINITY}, total_[2] = {0.0F, 0.0F};
  float out_[kValueChunks][kValueTiles][4] = {};
};

// Joins the warps' results at four neighbors of a head. Each warp's are relative to its own largest score.
template <int width>
RECAP_DEVICE void join(float (&y)[4], const Joined<width>& joined, int head, int e) {
  float largest = -INFINITY, total = 0.0F;
  for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, joined.largest[w][head]);
  for (int w = 0; w < kWarps; ++w) {
    const float share = power_of_two(joined.largest[w][head] - largest);
    total += share * joined.total[w][head];
    for (int k = 0; k < 4; ++k) y[k] += share * joined.out[w][head][e + k];
  }
  const float whole = 1.0F / total;
  for (float& x : y) x *= whole;
}

// Stores four neighbors of a row of the result.
RECAP_DEVICE void store(const DecodeAttention& op, std::int64_t index, const float (&y)[4]) {
  if (op.scale == nullptr) {
    auto* out = reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(op.out) + index);
    out[0] = pack_bfloat16(y[0], y[1]);
    out[1] = pack_bfloat16(y[2], y[3]);
  } else {
    const float factor = kLargestE4M3 / op.bound;
    auto* out = reinterpret_cast<std::uint32_t*>(static_cast<std::uint8_t*>(op.out) + index);
    *out = pack_e4m3(y[0] * factor, y[1] * factor) | std::uint32_t{pack_e4m3(y[2] * factor, y[3] * factor)} << 16;
  }
}

// What a block computes.
template <typename Number, int width>
RECAP_DEVICE void decode_attention(const DecodeAttention& op, int row, int kv_head, int thread, Joined<width>& joined) {
  const Head<Number, width> head(op, row, kv_head);
  const bool idle = head.last == op.num_positions - 1;
  if (op.scale != nullptr && kv_head == 0 && thread == 0) op.scale[row] = op.bound / kLargestE4M3;
  if (!idle) Warp<Number, width>(op, head, thread / 32, thread % 32).store(joined, thread / 32);
  sync_block();
  for (int i = 4 * thread; i < head.group * width; i += 4 * kThreads) {
    float y[4] = {};
    if (!idle) join(y, joined, i / width, i % width);
    store(op, head.first_head * width + i, y);
  }
}

}  // namespace recap::cuda
