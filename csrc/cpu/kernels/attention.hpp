// Attention of the queries that share a key/value head, or an image. For kernels.cpp alone, as numbers.hpp says.
#pragma once

#include <utility>

#include "cpu/kernels/numbers.hpp"
#include "cpu/ops.hpp"

namespace recap::cpu {
namespace {

// The sums of neighboring lanes: those of a, then those of b.
template <int... lane>
inline Floats add_neighbors(Floats a, Floats b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, 2 * lane...) + __builtin_shufflevector(a, b, 2 * lane + 1 ...);
}

// Lane i is the sum of the lanes of x[i].
template <int n = kLanes>
inline Floats sum_each(const Floats* x) {
  if constexpr (n == 1) {
    return *x;
  } else {
    return add_neighbors(sum_each<n / 2>(x), sum_each<n / 2>(x + n / 2), std::make_integer_sequence<int, kLanes>());
  }
}

// Keys and values are asked for so far ahead of their use. A core of a Xeon reads 11 to 14 GB/s so, and 8 to 12 by what
// it fetches of its own accord. What lies behind the cache is a hint like any other: it never faults.
template <typename T>
constexpr Size kAhead = 4096 / sizeof(T);
template <typename T>
constexpr Size kCacheLine = 64 / sizeof(T);

template <typename T>
inline void fetch(const T* x, Size count) {
  for (Size i = 0; i < count; i += kCacheLine<T>) __builtin_prefetch(x + i);
}

// scores[h * pitch + t] = queries[h] . keys[t], for `heads` queries and the keys of `count` positions. As many products
// at once as there are lanes; the last key stands in for those after it.
template <int heads, typename T>
void dot(const float* queries, const T* keys, Size count, Size width, float* scores, Size pitch) {
  constexpr int kKeys = kLanes / heads;
  const Size whole = width - width % kLanes;
  for (Size t = 0; t < count; t += kKeys) {
    const Size present = count - t < kKeys ? count - t : kKeys;
    const T* key[kKeys];
    for (int k = 0; k < kKeys; ++k) key[k] = keys + (t + (k < present ? k : present - 1)) * width;
    fetch(key[0] + kAhead<T>, kKeys * width);
    Floats products[kLanes];
    for (Floats& product : products) product = Floats{};
    for (Size e = 0; e < whole; e += kLanes) {
      Floats query[heads];
      for (int h = 0; h < heads; ++h) query[h] = load_vector(queries + h * width + e);
      for (int k = 0; k < kKeys; ++k) {
        const Floats values = load_vector(key[k] + e);
        for (int h = 0; h < heads; ++h) products[h * kKeys + k] += query[h] * values;
      }
    }
    float sums[kLanes];
    store_vector(sum_each(products), sums);
    for (Size e = whole; e < width; ++e) {
      for (int i = 0; i < kLanes; ++i) {
        sums[i] += queries[i / kKeys * width + e] * to_float(key[i % kKeys][e]);
      }
    }
    for (int h = 0; h < heads; ++h) {
      if (present == kKeys) {
        __builtin_memcpy(scores + h * pitch + t, sums + h * kKeys, sizeof(float) * kKeys);
      } else {
        for (int k = 0; k < present; ++k) scores[h * pitch + t + k] = sums[h * kKeys + k];
      }
    }
  }
}

// sums[h] += weights[h * pitch + t] * values[t] over the values of `count` positions, for `vectors` registers of
// columns; `width` is a head's.
template <int heads, int vectors, typename T>
void accumulate(const float* weights, Size pitch, const T* values, Size count, Size width, float* sums) {
  Floats total[heads][vectors];
  for (int h = 0; h < heads; ++h) {
    for (int v = 0; v < vectors; ++v) total[h][v] = load_vector(sums + h * width + v * kLanes);
  }
  for (Size t = 0; t < count; ++t, values += width) {
    fetch(values + kAhead<T>, vectors * kLanes);
    Floats value[vectors];
    for (int v = 0; v < vectors; ++v) value[v] = load_vector(values + v * kLanes);
    for (int h = 0; h < heads; ++h) {
      for (int v = 0; v < vectors; ++v) total[h][v] += weights[h * pitch + t] * value[v];
    }
  }
  for (int h = 0; h < heads; ++h) {
    __builtin_memcpy(sums + h * width, total[h], sizeof total[h]);
  }
}

// Calls action<n>(first) for n = 4, 2 and 1 units, all that are whole in `size`; returns where these end.
template <typename Action>
Size for_units(Size size, Size unit, const Action& action) {
  Size first = 0;
  for (; first + 4 * unit <= size; first += 4 * unit) action.template operator()<4>(first);
  for (; first + 2 * unit <= size; first += 2 * unit) action.template operator()<2>(first);
  for (; first + unit <= size; first += unit) action.template operator()<1>(first);
  return first;
}

// `accumulate` for all columns of a head.
template <int heads, typename T>
void accumulate_columns(const float* weights, Size pitch, const T* values, Size count, Size width, float* sums) {
  Size e = for_units(width, kLanes, [&]<int vectors>(Size first) {
    accumulate<heads, vectors>(weights, pitch, values + first, count, width, sums + first);
  });
  for (; e < width; ++e) {
    for (int h = 0; h < heads; ++h) {
      for (Size t = 0; t < count; ++t) {
        sums[h * width + e] += weights[h * pitch + t] * to_float(values[t * width + e]);
      }
    }
  }
}

float largest_of(const float* x, Size count) {
  const Size whole = count - count % kLanes;
  float largest = x[0];
  if (whole > 0) {
    Floats lanes = load_vector(x);
    for (Size i = kLanes; i < whole; i += kLanes) {
      const Floats next = load_vector(x + i);
      lanes = next > lanes ? next : lanes;
    }
    for (int i = 0; i < kLanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  }
  for (Size i = whole; i < count; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

// Takes the exponentials in place, of scores less their largest, and returns their sum: NaN where a score is not
// finite, which `exp` would hide.
float exponentiate(float* scores, Size count) {
  const float largest = largest_of(scores, count);
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (Size t = 0; t < count; ++t) {
    const float below = scores[t] - largest;
    scores[t] = exp(below);
    sum += scores[t] + below * 0.0F;
  }
  return sum;
}

// Keys, and then values, are read in tiles that stay in the nearest cache while all heads read them.
constexpr Size kTile = 64;

// A row's queries [group, width] of one key/value head, the keys [length, width] that they see, and where the result
// goes.
template <typename T>
struct Reader {
  const T* queries;
  const T* keys;
  Size length;
  T* out;
};

// softmax(queries . keys / sqrt(width)) . values of each reader; values lie `to_values` behind the keys. The first
// `shared` keys and values of all readers are the same: those of the first are read for all. `scratch` has room for
// count * group * (longest length + 2 * width + 1).
template <typename T>
void attend(const Reader<T>* readers, Size count, Size shared, Size group, Size to_values, Size width, float* scratch) {
  Size longest = 0;
  for (Size r = 0; r < count; ++r) longest = readers[r].length > longest ? readers[r].length : longest;
  float* const scaled = scratch;
  float* const sums = scaled + count * group * width;
  float* const scores = sums + count * group * width;
  float* const totals = scores + count * group * longest;
  const float scale = 1.0F / __builtin_sqrtf(static_cast<float>(width));
  for (Size r = 0; r < count; ++r) {
    float* const to = scaled + r * group * width;
#pragma omp simd
    for (Size i = 0; i < group * width; ++i) to[i] = to_float(readers[r].queries[i]) * scale;
  }
  for (Size i = 0; i < count * group * width; ++i) sums[i] = 0.0F;
  // Calls action<n>(query, position, positions of the tile) for all of `queries` and positions from `t` on.
  const auto by_tile = [](Size first, Size queries, Size t, Size end, const auto& action) {
    for (; t < end; t += kTile) {
      const Size tile = end - t < kTile ? end - t : kTile;
      for_units(queries, 1, [&]<int heads>(Size h) { action.template operator()<heads>(first + h, t, tile); });
    }
  };
  // First what all have in common, then each reader for itself.
  const auto by_slot = [&](const auto& action) {
    if (shared > 0) by_tile(0, count * group, 0, shared, action(readers[0].keys));
    for (Size r = 0; r < count; ++r) {
      by_tile(r * group, group, shared, readers[r].length, action(readers[r].keys));
    }
  };
  by_slot([&](const T* keys) {
    return [=]<int heads>(Size h, Size t, Size tile) {
      dot<heads>(scaled + h * width, keys + t * width, tile, width, scores + h * longest + t, longest);
    };
  });
  fetch(readers[0].keys + to_values, kAhead<T>);
  for (Size h = 0; h < count * group; ++h) {
    totals[h] = exponentiate(scores + h * longest, readers[h / group].length);
  }
  by_slot([&](const T* keys) {
    return [=]<int heads>(Size h, Size t, Size tile) {
      const T* values = keys + to_values + t * width;
      accumulate_columns<heads>(scores + h * longest + t, longest, values, tile, width, sums + h * width);
    };
  });
  for (Size h = 0; h < count * group; ++h) {
    const float factor = 1.0F / totals[h];
    T* const out = readers[h / group].out + h % group * width;
#pragma omp simd
    for (Size e = 0; e < width; ++e) out[e] = from_float<T>(sums[h * width + e] * factor);
  }
}

}  // namespace
}  // namespace recap::cpu
