// Compiled once for each LEVEL of instructions, with KERNELS the name of its table. What is not in the unnamed
// namespace might be taken from here for processors that have not these instructions: nothing of the standard library
// is used that has code.
#include "cpu/kernels/attention.hpp"
#include "cpu/kernels/blocks.hpp"
#include "cpu/kernels/numbers.hpp"
#include "cpu/kernels/product.hpp"
#include "cpu/ops.hpp"

namespace recap::cpu {
namespace {

// Rounds to 8 bits with the scale that the largest magnitude needs. Of magnitudes the bits are compared, so that a row
// with NaN gets the scale NaN.
void quantize(const float* x, Size width, std::int8_t* values, float* scale) {
  constexpr float kLargest = 127.0F;
  constexpr float kSmallestScale = 1e-12F;  // as in plain.py
  std::uint32_t bits = __builtin_bit_cast(std::uint32_t, kSmallestScale* kLargest);
#pragma omp simd reduction(max : bits)
  for (Size i = 0; i < width; ++i) {
    const std::uint32_t magnitude = __builtin_bit_cast(std::uint32_t, x[i]) & 0x7FFFFFFF;
    bits = magnitude > bits ? magnitude : bits;
  }
  const auto largest = __builtin_bit_cast(float, bits);
  *scale = largest / kLargest;
  const float factor = kLargest / largest;
#pragma omp simd
  for (Size i = 0; i < width; ++i) {
    const float shifted = x[i] * factor + kRounder;
    values[i] = static_cast<std::int8_t>(__builtin_bit_cast(std::int32_t, shifted) - kRounderBits);
  }
}

// Writes value(0), value(1)... as a row; `scratch` holds them where they are to be quantized.
template <typename T, typename Value>
inline void write_row(const Value& value, Size row, Size width, const RowsOut& out, float* scratch) {
  if (out.scale != nullptr) {
#pragma omp simd
    for (Size i = 0; i < width; ++i) scratch[i] = rounded<T>(value(i));
    quantize(scratch, width, static_cast<std::int8_t*>(out.values) + row * width, out.scale + row);
  } else {
    T* y = static_cast<T*>(out.values) + row * width;
#pragma omp simd
    for (Size i = 0; i < width; ++i) y[i] = from_float<T>(value(i));
  }
}

// The values of x, to which delta is added first where `adds`, and the sum of their squares.
template <bool adds, typename T>
float load(T* x, const T* delta, Size width, float* values) {
  float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
  for (Size i = 0; i < width; ++i) {
    if constexpr (adds) x[i] = from_float<T>(to_float(x[i]) + to_float(delta[i]));
    values[i] = to_float(x[i]);
    squares += values[i] * values[i];
  }
  return squares;
}

template <typename T>
void add_rms_norm(const AddRmsNorm& op, Size begin, Size end, float* y) {
  const Size width = op.width;
  const T* weight = static_cast<const T*>(op.weight);
  for (Size row = begin; row < end; ++row) {
    T* x = static_cast<T*>(op.x) + row * width;
    const T* delta = static_cast<const T*>(op.delta);
    const float squares =
        delta == nullptr ? load<false>(x, delta, width, y) : load<true>(x, delta + row * width, width, y);
    const float factor = 1.0F / __builtin_sqrtf(squares / static_cast<float>(width) + op.eps);
    const auto normed = [=](Size i) { return rounded<T>(y[i] * factor) * to_float(weight[i]); };
    write_row<T>(normed, row, width, op.out, y);
  }
}

void layer_norm(const LayerNorm& op, Size begin, Size end, float*) {
  for (Size row = begin; row < end; ++row) {
    const float* x = op.x + row * op.width;
    float* out = op.out + row * op.width;
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (Size i = 0; i < op.width; ++i) sum += x[i];
    const float mean = sum / static_cast<float>(op.width);
    float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
    for (Size i = 0; i < op.width; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0F / __builtin_sqrtf(squares / static_cast<float>(op.width) + op.eps);
#pragma omp simd
    for (Size i = 0; i < op.width; ++i) {
      out[i] = (x[i] - mean) * factor * op.weight[i] + op.bias[i];
    }
  }
}

// Writes value(x, i) for each row of x, whose rows have `columns`.
template <typename T, typename Value>
void map_rows(const MapRows& op, Size columns, Size begin, Size end, float* scratch, const Value& value) {
  for (Size row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(op.x) + row * columns;
    write_row<T>([=](Size i) { return value(x, i); }, row, op.width, op.out, scratch);
  }
}

template <typename T>
void swiglu(const MapRows& op, Size begin, Size end, float* scratch) {
  map_rows<T>(op, 2 * op.width, begin, end, scratch, [up = op.width](const T* x, Size i) {
    const float gate = to_float(x[i]);
    return rounded<T>(gate / (1.0F + exp(-gate))) * to_float(x[up + i]);
  });
}

template <typename T>
void quick_gelu(const MapRows& op, Size begin, Size end, float* scratch) {
  map_rows<T>(op, op.width, begin, end, scratch, [](const T* x, Size i) {
    const float y = to_float(x[i]);
    return y * rounded<T>(1.0F / (1.0F + exp(-rounded<T>(1.702F * y))));
  });
}

template <typename T>
void gelu_tanh(const MapRows& op, Size begin, Size end, float* scratch) {
  map_rows<T>(op, op.width, begin, end, scratch, [](const T* x, Size i) { return gelu_tanh(to_float(x[i])); });
}

template <typename T>
void quantize_rows(const MapRows& op, Size begin, Size end, float* scratch) {
  map_rows<T>(op, op.width, begin, end, scratch, [](const T* x, Size i) { return to_float(x[i]); });
}

template <typename T, bool has_bias>
void dequantize_row(const Dequantize& op, Size row) {
  const std::int32_t* sums = op.sums + row * op.width;
  T* out = static_cast<T*>(op.out) + row * op.width;
  const float scale = op.row_scale[row];
#pragma omp simd
  for (Size i = 0; i < op.width; ++i) {
    const float y = static_cast<float>(sums[i]) * scale * op.channel_scale[i];
    out[i] = from_float<T>(has_bias ? y + op.bias[i] : y);
  }
}

template <typename T>
void dequantize(const Dequantize& op, Size begin, Size end, float*) {
  for (Size row = begin; row < end; ++row) {
    op.bias == nullptr ? dequantize_row<T, false>(op, row) : dequantize_row<T, true>(op, row);
  }
}

template <typename T>
void rotate(const T* x, const T* cos, const T* sin, Size half, T* y) {
#pragma omp simd
  for (Size i = 0; i < half; ++i) {
    const Size j = i + half;
    const float low = to_float(x[i]);
    const float high = to_float(x[j]);
    y[i] = from_float<T>(rounded<T>(low * to_float(cos[i])) + rounded<T>(high * to_float(sin[i])));
    y[j] = from_float<T>(rounded<T>(high * to_float(cos[j])) + rounded<T>(low * to_float(sin[j])));
  }
}

// A head after its RMS norm, which rounds as add_rms_norm does; `y` is memory for it.
template <typename T>
const T* normalize(const T* x, const T* weight, float eps, Size width, T* y) {
  float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
  for (Size i = 0; i < width; ++i) squares += to_float(x[i]) * to_float(x[i]);
  const float factor = 1.0F / __builtin_sqrtf(squares / static_cast<float>(width) + eps);
#pragma omp simd
  for (Size i = 0; i < width; ++i) y[i] = from_float<T>(rounded<T>(to_float(x[i]) * factor) * to_float(weight[i]));
  return y;
}

template <typename T>
void rope_store(const RopeStore& op, Size begin, Size end, float* scratch) {
  const Cache& cache = op.cache;
  const Size width = cache.head_width;
  for (Size row = begin; row < end; ++row) {
    const Size position = op.places.positions[row];
    const T* cos = static_cast<const T*>(op.cos) + position * width;
    const T* sin = static_cast<const T*>(op.sin) + position * width;
    const T* x = static_cast<const T*>(op.qkv) + row * (op.num_heads + 2 * cache.num_kv_heads) * width;
    const auto turn = [&](const void* norm, T* y) {
      const T* head =
          norm == nullptr ? x : normalize(x, static_cast<const T*>(norm), op.eps, width, reinterpret_cast<T*>(scratch));
      rotate(head, cos, sin, width / 2, y);
    };
    T* queries = static_cast<T*>(op.queries) + row * op.num_heads * width;
    for (Size head = 0; head < op.num_heads; ++head, x += width) turn(op.query_norm, queries + head * width);
    T* keys = static_cast<T*>(cache.data) + position * width + op.places.slots[row] * cache.slot_stride();
    for (Size head = 0; head < cache.num_kv_heads; ++head, x += width) {
      turn(op.key_norm, keys + head * cache.head_stride());
    }
    T* values = keys + cache.values_offset();
    for (Size head = 0; head < cache.num_kv_heads; ++head, x += width) {
      __builtin_memcpy(values + head * cache.head_stride(), x, width * sizeof(T));
    }
  }
}

template <typename T>
void decode_attention(const DecodeAttention& op, Size begin, Size end, float* scratch) {
  const Cache& cache = op.cache;
  const Size width = cache.head_width;
  const Size group = op.num_heads / cache.num_kv_heads;
  for (Size item = begin; item < end; ++item) {
    const Size first = item / cache.num_kv_heads;
    const Size kv_head = item % cache.num_kv_heads;
    Size row = op.is_shared() ? op.sharing.firsts[first] : first;
    const Size last = op.is_shared() ? op.sharing.firsts[first + 1] : first + 1;
    Reader<T> readers[kMaxSharing];
    Size count = 0;
    for (; row < last; ++row) {
      const Size place = op.is_shared() ? op.sharing.order[row] : row;
      const Size offset = (place * op.num_heads + kv_head * group) * width;
      T* out = static_cast<T*>(op.out) + offset;
      const Size position = op.places.positions[place];
      if (position == cache.num_positions - 1) {  // idle
        __builtin_memset(out, 0, group * width * sizeof(T));
        continue;
      }
      const T* keys = static_cast<const T*>(cache.data) +
                      (op.places.slots[place] * cache.num_kv_heads + kv_head) * cache.head_stride();
      readers[count++] = {static_cast<const T*>(op.queries) + offset, keys, position + 1, out};
    }
    const Size shared = count > 1 ? op.sharing.length : 0;
    if (count > 0) attend(readers, count, shared, group, cache.values_offset(), width, scratch);
  }
}

// The kernel for an operation's precision.
template <typename Op, Kernel<Op> float32, Kernel<Op> bfloat16>
void by_precision(const Op& op, Size begin, Size end, float* scratch) {
  (op.precision == Precision::float32 ? float32 : bfloat16)(op, begin, end, scratch);
}

}  // namespace

extern const Kernels KERNELS;
const Kernels KERNELS = {
    .level = LEVEL,
    .add_rms_norm = by_precision<AddRmsNorm, add_rms_norm<float>, add_rms_norm<BFloat16>>,
    .swiglu = by_precision<MapRows, swiglu<float>, swiglu<BFloat16>>,
    .quick_gelu = by_precision<MapRows, quick_gelu<float>, quick_gelu<BFloat16>>,
    .gelu_tanh = by_precision<MapRows, gelu_tanh<float>, gelu_tanh<BFloat16>>,
    .quantize_rows = by_precision<MapRows, quantize_rows<float>, quantize_rows<BFloat16>>,
    .dequantize = by_precision<Dequantize, dequantize<float>, dequantize<BFloat16>>,
    .rope_store = by_precision<RopeStore, rope_store<float>, rope_store<BFloat16>>,
    .decode_attention = by_precision<DecodeAttention, decode_attention<float>, decode_attention<BFloat16>>,
    .pack = pack,
    .product = product,
    .layer_norm = layer_norm,
    .block_attention = block_attention,
    .block_columns = kBlockColumns,
};

}  // namespace recap::cpu
