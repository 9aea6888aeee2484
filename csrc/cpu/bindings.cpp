// The Python face of cpu_ops.hpp: tensors come as addresses and sizes, checked by
// recap_fast/generate/ops/cpp.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <utility>
#include <vector>

#include "cpu/llama.hpp"
#include "cpu/ops.hpp"
#include "cpu/parallel.hpp"
#include "cpu/tower.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using recap::cpu::Cache;
using recap::cpu::Decoder;
using recap::cpu::Places;
using recap::cpu::Precision;
using recap::cpu::RowsOut;
using recap::cpu::Tower;

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

void quantize_rows(bool bfloat16, Size rows, Size width, Address x, Address out, Address scale,
                   int num_threads) {
  run(recap::cpu::QuantizeRows{precision_of(bfloat16), rows, width, at<void>(x),
                               rows_out(out, scale)},
      num_threads);
}

void dequantize(bool bfloat16, Size rows, Size width, bool float_sums, Address sums,
                Address row_scale, Address channel_scale, Address bias, Address out,
                int num_threads) {
  run(recap::cpu::Dequantize{precision_of(bfloat16), rows, width, float_sums, at<void>(sums),
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

void pack(Size columns, Size depth, bool pairs, Address weight, Address packed, int num_threads) {
  run(recap::cpu::Pack{columns, depth, pairs, at<float>(weight), at<float>(packed)}, num_threads);
}

// Of a layer: norm1, qkv, kv, out, norm2, gate_up, down, as in DecoderLayer.
using LayerAddresses = std::array<Address, 7>;
// Of the decoder: norm, head, cos, sin.
using DecoderAddresses = std::array<Address, 4>;

Decoder make_decoder(const std::array<Size, 6>& shape, float eps,
                     const std::vector<LayerAddresses>& layers, const DecoderAddresses& weights) {
  recap::cpu::DecoderWeights found{{},
                                   at<float>(weights[0]),
                                   at<float>(weights[1]),
                                   at<float>(weights[2]),
                                   at<float>(weights[3])};
  for (const LayerAddresses& layer : layers) {
    found.layers.push_back({at<float>(layer[0]), at<float>(layer[1]), at<float>(layer[2]),
                            at<float>(layer[3]), at<float>(layer[4]), at<float>(layer[5]),
                            at<float>(layer[6])});
  }
  return {{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], eps}, std::move(found)};
}

void forward(Decoder& decoder, Size rows, Address x, const SlotsAndPositions& places,
             const std::array<Size, 3>& prompts, Size num_read, Address read,
             const CacheAndShape& cache, Address logits, int num_threads) {
  const py::gil_scoped_release release;
  decoder.forward({at<float>(x), places_of(rows, places), prompts[0], prompts[1], prompts[2],
                   num_read, at<std::int64_t>(read)},
                  cache_of(cache), at<float>(logits), num_threads);
}

using Matrix = std::pair<Address, Address>;  // packed, bias

recap::cpu::Affine affine(const Matrix& matrix) {
  return {at<float>(matrix.first), at<float>(matrix.second)};
}

// Of a layer, weight and bias of each: norm1, qkv, out, norm2, fc1, fc2.
using TowerLayerAddresses = std::array<Matrix, 6>;

Tower make_tower(const std::array<Size, 6>& shape, float eps, bool quick_gelu,
                 const std::array<Address, 3>& levels_class_position, const Matrix& patch,
                 const Matrix& pre_norm, const std::vector<TowerLayerAddresses>& layers,
                 const std::array<Matrix, 2>& projector) {
  const auto& [levels, class_token, position] = levels_class_position;
  recap::cpu::TowerWeights weights{at<float>(levels),
                                   affine(patch),
                                   at<float>(class_token),
                                   at<float>(position),
                                   at<float>(pre_norm.first),
                                   at<float>(pre_norm.second),
                                   {},
                                   affine(projector[0]),
                                   affine(projector[1])};
  for (const auto& [norm1, qkv, out, norm2, fc1, fc2] : layers) {
    weights.layers.push_back({at<float>(norm1.first), at<float>(norm1.second), affine(qkv),
                              affine(out), at<float>(norm2.first), at<float>(norm2.second),
                              affine(fc1), affine(fc2)});
  }
  const auto activation = quick_gelu ? recap::cpu::Sums::quick_gelu : recap::cpu::Sums::gelu;
  return {{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], eps, activation},
          std::move(weights)};
}

void encode(Tower& tower, Address pixels, Size num_images, Address tokens, int num_threads) {
  const py::gil_scoped_release release;
  tower.encode(at<std::uint8_t>(pixels), num_images, at<float>(tokens), num_threads);
}

}  // namespace

PYBIND11_MODULE(_cpu_ops, module) {
  module.def("set_parallel", [](Address entry, Address team_size) {
    recap::parallel_entry = reinterpret_cast<recap::ParallelEntry>(entry);
    recap::parallel_team_size = reinterpret_cast<int (*)()>(team_size);
  });
  module.def("kernel_levels", &recap::cpu::kernel_levels);
  module.def("use_kernels", &recap::cpu::use_kernels);
  module.def("packed_size", &recap::cpu::packed_size);
  module.def("pack", &pack);
  py::class_<Decoder>(module, "Decoder")
      .def(py::init(&make_decoder), "shape"_a, "eps"_a, "layers"_a, "weights"_a)
      .def("forward", &forward);
  py::class_<Tower>(module, "Tower")
      .def(py::init(&make_tower), "shape"_a, "eps"_a, "quick_gelu"_a, "levels_class_position"_a,
           "patch"_a, "pre_norm"_a, "layers"_a, "projector"_a)
      .def("encode", &encode);
  module.def("add_rms_norm", &add_rms_norm);
  module.def("swiglu", &swiglu);
  module.def("quick_gelu", &quick_gelu);
  module.def("quantize_rows", &quantize_rows);
  module.def("dequantize", &dequantize);
  module.def("rope_store", &rope_store);
  module.def("decode_attention", &decode_attention);
}
