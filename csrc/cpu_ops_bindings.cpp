// The Python face of cpu_ops.hpp: tensors come as addresses and sizes, checked by
// recap_fast/generate/torch_backend/ops/native.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <utility>

#include "cpu_ops.hpp"
#include "parallel.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using recap::cpu::Cache;
using recap::cpu::Places;
using recap::cpu::Precision;
using recap::cpu::RowsOut;

using Address = std::uintptr_t;
using Size = std::int64_t;
using SlotsAndPositions = std::pair<Address, Address>;
using CacheAndShape = std::pair<Address, std::array<Size, 5>>;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Precision precision_of(bool bfloat16) {
  return bfloat16 ? Precision::bfloat16 : Precision::float32;
}

// 8 bits where there is memory for scales.
RowsOut rows_out(Address out, Address scale) {
  if (scale == 0) return {at<void>(out), nullptr, nullptr};
  return {nullptr, at<std::int8_t>(out), at<float>(scale)};
}

Places places_of(Size rows, const SlotsAndPositions& places) {
  return {rows, at<std::int64_t>(places.first), at<std::int64_t>(places.second)};
}

Cache cache_of(const CacheAndShape& cache) {
  const auto& [address, shape] = cache;
  return {at<void>(address), shape[1], shape[2], shape[3], shape[4]};
}

template <typename Op>
void run(const Op& op, int num_threads) {
  const py::gil_scoped_release release;
  recap::cpu::run(op, num_threads);
}

void add_rms_norm(bool bfloat16, Size rows, Size width, Address x, Address delta, Address weight,
                  float eps, Address out, Address scale, int num_threads) {
  run(recap::cpu::AddRmsNorm{precision_of(bfloat16), rows, width, at<void>(x), at<void>(delta),
                             at<void>(weight), eps, rows_out(out, scale)},
      num_threads);
}

void swiglu(bool bfloat16, Size rows, Size width, Address gate_up, Address out, Address scale,
            int num_threads) {
  run(recap::cpu::Swiglu{precision_of(bfloat16), rows, width, at<void>(gate_up),
                         rows_out(out, scale)},
      num_threads);
}

void quick_gelu(bool bfloat16, Size rows, Size width, Address x, Address out, Address scale,
                int num_threads) {
  run(recap::cpu::QuickGelu{precision_of(bfloat16), rows, width, at<void>(x), rows_out(out, scale)},
      num_threads);
}

void quantise_rows(bool bfloat16, Size rows, Size width, Address x, Address out, Address scale,
                   int num_threads) {
  run(recap::cpu::QuantiseRows{precision_of(bfloat16), rows, width, at<void>(x),
                               rows_out(out, scale)},
      num_threads);
}

void dequantise(bool bfloat16, Size rows, Size width, bool float_sums, Address sums,
                Address row_scale, Address channel_scale, Address bias, Address out,
                int num_threads) {
  run(recap::cpu::Dequantise{precision_of(bfloat16), rows, width, float_sums, at<void>(sums),
                             at<float>(row_scale), at<float>(channel_scale), at<float>(bias),
                             at<void>(out)},
      num_threads);
}

void rope_store(bool bfloat16, Size num_heads, Size rows, Address qkv, Address cos, Address sin,
                const SlotsAndPositions& places, const CacheAndShape& cache, Address out,
                int num_threads) {
  run(recap::cpu::RopeStore{precision_of(bfloat16), num_heads, at<void>(qkv), at<void>(cos),
                            at<void>(sin), places_of(rows, places), cache_of(cache), at<void>(out)},
      num_threads);
}

void decode_attention(bool bfloat16, Size num_heads, Size rows, Address queries,
                      const SlotsAndPositions& places, const CacheAndShape& cache, Address out,
                      int num_threads) {
  run(recap::cpu::DecodeAttention{precision_of(bfloat16), num_heads, at<void>(queries),
                                  places_of(rows, places), cache_of(cache), at<void>(out)},
      num_threads);
}

}  // namespace

PYBIND11_MODULE(_cpu_ops, module) {
  module.def("set_parallel", [](Address entry) {
    recap::parallel_entry = reinterpret_cast<recap::ParallelEntry>(entry);
  });
  module.def("add_rms_norm", &add_rms_norm);
  module.def("swiglu", &swiglu);
  module.def("quick_gelu", &quick_gelu);
  module.def("quantise_rows", &quantise_rows);
  module.def("dequantise", &dequantise);
  module.def("rope_store", &rope_store);
  module.def("decode_attention", &decode_attention);
}
