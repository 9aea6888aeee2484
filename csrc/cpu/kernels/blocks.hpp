// Attention of whole prompts and images in float32, which is two products for each head. For kernels.cpp alone, as
// numbers.hpp says.
#pragma once

#include "cpu/kernels/attention.hpp"
#include "cpu/kernels/product.hpp"

namespace recap::cpu {
namespace {

// The keys of a head, rows of `width` that are `pitch` apart, as a matrix with a column for each.
void transpose(const float* keys, Size pitch, Size length, Size width, Size out_pitch, float* out) {
  for (Size e = 0; e < width; ++e, out += out_pitch) {
    for (Size t = 0; t < length; ++t) out[t] = keys[t * pitch + e];
    for (Size t = length; t < out_pitch; ++t) out[t] = 0.0F;
  }
}

// Rows of `width` that are `pitch` apart, with zeros behind each.
void pad(const float* x, Size pitch, Size rows, Size width, Size out_pitch, float* out) {
  for (Size r = 0; r < rows; ++r, x += pitch, out += out_pitch) {
    for (Size i = 0; i < width; ++i) out[i] = x[i];
    for (Size i = width; i < out_pitch; ++i) out[i] = 0.0F;
  }
}

Size whole_panels(Size width) { return (width + kBlockColumns - 1) / kBlockColumns * kBlockColumns; }

// Keys and values of one head, as `attend_block` takes them.
struct HeadMatrices {
  const float *keys, *values;  // [E, key_pitch], a column for each; [.., value_pitch]
  Size key_pitch, value_pitch;
};

// Attention of `rows` neighboring queries of one head. The first one sees `seen` keys, and where it is causal each one
// after it one more.
void attend_block(const BlockAttention& op, const HeadMatrices& head, const float* queries, Size rows, Size seen,
                  float* scratch, float* out) {
  const Size width = op.head_width;
  const Size columns = whole_panels(width);
  float* const scaled = scratch;
  float* const sums = scaled + rows * width;
  float* const scores = sums + rows * columns;
  const float scale = 1.0F / __builtin_sqrtf(static_cast<float>(width));
  for (Size r = 0; r < rows; ++r) {
    for (Size e = 0; e < width; ++e) {
      scaled[r * width + e] = queries[r * op.query_pitch + e] * scale;
    }
  }
  const Size length = op.causal ? seen + rows - 1 : seen;
  for (Size t = 0; t < length; t += kBlockColumns) {
    kMultiply[rows](scaled, width, head.keys + t, head.key_pitch, width, nullptr, Sums::store, scores + t,
                    head.key_pitch);
  }
  float totals[kBlockRows];
  for (Size r = 0; r < rows; ++r) {
    float* row = scores + r * head.key_pitch;
    const Size count = op.causal ? seen + r : seen;
    totals[r] = exponentiate(row, count);
    for (Size t = count; t < length; ++t) row[t] = 0.0F;
  }
  for (Size e = 0; e < width; e += kBlockColumns) {
    kMultiply[rows](scores, head.key_pitch, head.values + e, head.value_pitch, length, nullptr, Sums::store, sums + e,
                    columns);
  }
  const Size out_pitch = op.num_heads * width;
  for (Size r = 0; r < rows; ++r) {
    const float factor = 1.0F / totals[r];
    for (Size e = 0; e < width; ++e) out[r * out_pitch + e] = sums[r * columns + e] * factor;
  }
}

void block_attention(const BlockAttention& op, Size begin, Size end, float* scratch) {
  const Size width = op.head_width;
  const Size group = op.num_heads / op.num_kv_heads;
  const Size length = op.start + op.length;
  const Size key_pitch = whole_panels(length);
  const Size columns = whole_panels(width);
  float* const keys = scratch;
  float* const values = keys + width * key_pitch;
  float* const rest = values + length * columns;
  for (Size item = begin; item < end; ++item) {
    const Size row = item / op.num_kv_heads * op.length;
    const Size kv_head = item % op.num_kv_heads;
    const Size block = op.slots == nullptr ? item / op.num_kv_heads : op.slots[row];
    const Size offset = block * op.block_pitch + kv_head * op.head_pitch;
    transpose(op.keys + offset, op.key_pitch, length, width, key_pitch, keys);
    HeadMatrices head{keys, op.values + offset, key_pitch, op.key_pitch};
    if (columns != width) {
      pad(op.values + offset, op.key_pitch, length, width, columns, values);
      head.values = values;
      head.value_pitch = columns;
    }
    for (Size h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      for_blocks(0, op.length, [&](Size first, Size rows) {
        const Size seen = op.causal ? op.start + first + 1 : length;
        attend_block(op, head, op.queries + (row + first) * op.query_pitch + h * width, rows, seen, rest,
                     op.out + ((row + first) * op.num_heads + h) * width);
      });
    }
  }
}

}  // namespace
}  // namespace recap::cpu
