// The Python face of ops.hpp, and the module: arguments are checked, then the GIL is given up.
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/python.hpp"
#include "cpu/ops.hpp"
#include "cpu/parallel.hpp"
#include "cpu/tensor.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace recap::cpu {

void bind_models(py::module_& module);  // model_bindings.cpp

namespace {

using py::handle;

constexpr auto kFloats = {kFloat32, kBFloat16};

Precision precision_of(const Tensor& tensor) {
  return tensor.dtype == kFloat32 ? Precision::float32 : Precision::bfloat16;
}

// Runs a kernel over `count` items of about so many elements.
template <typename Op>
void run(const Matcher& match, const Op& op, Kernel<Op> Kernels::* kernel, Size count, Size elements, Size scratch,
         int num_threads) {
  // As many elements as take about the time that it takes to start a team of threads.
  constexpr Size kMinElements = 16384;
  match.number("num_threads", num_threads, kMaxThreads);
  check_scratch(scratch);
  without_gil([&] {
    const Size chunk = std::max<Size>(1, kMinElements / std::max<Size>(1, elements));
    parallel_for(count, chunk, num_threads,
                 [&](Size begin, Size end) { (kernels().*kernel)(op, begin, end, thread_scratch(scratch)); });
  });
}

// Where a kernel writes rows: in 8 bits with scales, or where `scale` is None in the precision of what it reads.
struct Output {
  Output(const Matcher& match, handle out, handle scale, DType precision, Size count, Size width)
      : scales(match.optional("scale", scale, {kFloat32}, {count, 1})),
        values(match.tensor("out", out, {scale.is_none() ? precision : kInt8}, {count, width})) {}

  RowsOut rows() const { return {.values = values.data, .scale = scales.as<float>()}; }

  Tensor scales, values;
};

void add_rms_norm(handle x, handle delta, handle weight, float eps, handle out, handle scale, int num_threads) {
  const Matcher match("add_rms_norm");
  const Tensor sums = match.tensor("x", x, kFloats, {"rows", "width"});
  const auto [rows, width] = std::pair(sums.sizes[0], sums.sizes[1]);
  const Tensor added = match.optional("delta", delta, {sums.dtype}, {rows, width});
  const Tensor weights = match.tensor("weight", weight, {sums.dtype}, {width});
  const Output to(match, out, scale, sums.dtype, rows, width);
  const AddRmsNorm op{.precision = precision_of(sums),
                      .rows = rows,
                      .width = width,
                      .x = sums.data,
                      .delta = added.data,
                      .weight = weights.data,
                      .eps = eps,
                      .out = to.rows()};
  run(match, op, &Kernels::add_rms_norm, rows, width, width, num_threads);
}

void map_rows(const Matcher& match, const Tensor& x, Kernel<MapRows> Kernels::* kernel, Size width, handle out,
              handle scale, int num_threads) {
  const Size rows = x.sizes[0];
  const Output to(match, out, scale, x.dtype, rows, width);
  const MapRows op{.precision = precision_of(x), .rows = rows, .width = width, .x = x.data, .out = to.rows()};
  run(match, op, kernel, rows, x.sizes[1], width, num_threads);
}

void swiglu(handle gate_up, handle out, handle scale, int num_threads) {
  const Matcher match("swiglu");
  const Tensor from = match.tensor("gate_up", gate_up, kFloats, {"rows", "2 * width"});
  match.require(from.sizes[1] % 2 == 0, "an odd number of columns has no halves for gate and up");
  map_rows(match, from, &Kernels::swiglu, from.sizes[1] / 2, out, scale, num_threads);
}

void quick_gelu(handle x, handle out, handle scale, int num_threads) {
  const Matcher match("quick_gelu");
  const Tensor from = match.tensor("x", x, kFloats, {"rows", "width"});
  map_rows(match, from, &Kernels::quick_gelu, from.sizes[1], out, scale, num_threads);
}

void gelu_tanh(handle x, handle out, handle scale, int num_threads) {
  const Matcher match("gelu_tanh");
  const Tensor from = match.tensor("x", x, kFloats, {"rows", "width"});
  map_rows(match, from, &Kernels::gelu_tanh, from.sizes[1], out, scale, num_threads);
}

void quantize_rows(handle x, handle out, handle scale, int num_threads) {
  const Matcher match("quantize_rows");
  match.require(!scale.is_none(), "scale is None");
  const Tensor from = match.tensor("x", x, kFloats, {"rows", "width"});
  map_rows(match, from, &Kernels::quantize_rows, from.sizes[1], out, scale, num_threads);
}

void dequantize(handle sums, handle row_scale, handle channel_scale, handle bias, handle out, int num_threads) {
  const Matcher match("dequantize");
  const Tensor from = match.tensor("sums", sums, {kInt32}, {"rows", "width"});
  const auto [rows, width] = std::pair(from.sizes[0], from.sizes[1]);
  const Tensor row_scales = match.tensor("row_scale", row_scale, {kFloat32}, {rows, 1});
  const Tensor channel_scales = match.tensor("channel_scale", channel_scale, {kFloat32}, {width});
  const Tensor added = match.optional("bias", bias, {kFloat32}, {width});
  const Tensor to = match.tensor("out", out, kFloats, {rows, width});
  const Dequantize op{.precision = precision_of(to),
                      .rows = rows,
                      .width = width,
                      .sums = from.as<std::int32_t>(),
                      .row_scale = row_scales.as<float>(),
                      .channel_scale = channel_scales.as<float>(),
                      .bias = added.as<float>(),
                      .out = to.data};
  run(match, op, &Kernels::dequantize, rows, width, 0, num_threads);
}

// A layer's cache is [2, slots, K, T, E].
Cache cache_of(const Tensor& layer) {
  return {.data = layer.data,
          .num_slots = layer.sizes[1],
          .num_kv_heads = layer.sizes[2],
          .num_positions = layer.sizes[3],
          .head_width = layer.sizes[4]};
}

PlaceList take_places(const Matcher& match, handle slots, handle positions, Size rows, const Cache& cache) {
  const Tensor row_slots = match.tensor("slots", slots, {kInt64}, {rows});
  const Tensor row_positions = match.tensor("positions", positions, {kInt64}, {rows});
  return {{.rows = rows, .slots = row_slots.as<Size>(), .positions = row_positions.as<Size>()}, cache};
}

void rope_store(handle qkv, handle cos, handle sin, handle slots, handle positions, handle query_norm, handle key_norm,
                float eps, handle cache, handle out, int num_threads) {  // #lizard forgives(parameter_count)
  const Matcher match("rope_store");
  const Tensor to = match.tensor("cache", cache, kFloats, {2, "slots", "kv heads", "positions", "head width"});
  const Cache layer = cache_of(to);
  const Size width = layer.head_width;
  match.require(width % 2 == 0, "heads of an odd width have no halves to rotate");
  const Tensor queries = match.tensor("out", out, {to.dtype}, {"rows", "heads", width});
  const auto [rows, num_heads] = std::pair(queries.sizes[0], queries.sizes[1]);
  const Size columns = (num_heads + 2 * layer.num_kv_heads) * width;
  const Tensor from = match.tensor("qkv", qkv, {to.dtype}, {rows, columns});
  const Tensor cosines = match.tensor("cos", cos, {to.dtype}, {layer.num_positions, width});
  const Tensor sines = match.tensor("sin", sin, {to.dtype}, {layer.num_positions, width});
  const Tensor query_weights = match.optional("query_norm", query_norm, {to.dtype}, {width});
  const Tensor key_weights = match.optional("key_norm", key_norm, {to.dtype}, {width});
  const PlaceList places = take_places(match, slots, positions, rows, layer);
  const RopeStore op{.precision = precision_of(to),
                     .num_heads = num_heads,
                     .qkv = from.data,
                     .query_norm = query_weights.data,
                     .key_norm = key_weights.data,
                     .eps = eps,
                     .cos = cosines.data,
                     .sin = sines.data,
                     .places = places.view(),
                     .cache = layer,
                     .queries = queries.data};
  run(match, op, &Kernels::rope_store, rows, columns, width, num_threads);
}

void decode_attention(handle queries, handle cache, handle slots, handle positions, handle out, int num_threads) {
  const Matcher match("decode_attention");
  const Tensor from = match.tensor("queries", queries, kFloats, {"rows", "heads", "head width"});
  const Size rows = from.sizes[0];
  const Size num_heads = from.sizes[1];
  const Size width = from.sizes[2];
  const Tensor kept = match.tensor("cache", cache, {from.dtype}, {2, "slots", "kv heads", "positions", width});
  const Cache layer = cache_of(kept);
  match.require(layer.num_kv_heads > 0 && num_heads % layer.num_kv_heads == 0,
                "query heads cannot share the key/value heads evenly");
  const PlaceList places = take_places(match, slots, positions, rows, layer);
  const Tensor to = match.tensor("out", out, {from.dtype}, {rows, num_heads * width});
  const DecodeAttention op{.precision = precision_of(from),
                           .num_heads = num_heads,
                           .queries = from.data,
                           .places = places.view(),
                           .cache = layer,
                           .out = to.data};
  const Size length = rows == 0 ? 0 : 1 + std::ranges::max(places.positions);
  const Size scratch = attention_scratch(num_heads / layer.num_kv_heads, layer.num_positions, width);
  run(match, op, &Kernels::decode_attention, rows * layer.num_kv_heads, 2 * length * width, scratch, num_threads);
}

// The OpenMP runtime that a library is linked to, whose threads are to be used. libgomp has both of these entries, and
// for compatibility LLVM's and Intel's runtime. It stays open: its threads run.
void use_threads_of(const std::string& library) {
  void* opened = dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (opened == nullptr) throw std::invalid_argument(library + " is not loaded");
  void* entry = dlsym(opened, "GOMP_parallel");
  void* team_size = dlsym(opened, "omp_get_num_threads");
  if (entry == nullptr || team_size == nullptr) {
    dlclose(opened);
    throw std::invalid_argument(library + " is linked to no OpenMP runtime");
  }
  parallel_entry = reinterpret_cast<ParallelEntry>(entry);
  parallel_team_size = reinterpret_cast<int (*)()>(team_size);
}

}  // namespace
}  // namespace recap::cpu

PYBIND11_MODULE(_cpu_ops, module) {
  using namespace recap::cpu;
  module.def("use_threads_of", &use_threads_of, "library"_a);
  module.def("kernel_levels", &kernel_levels);
  module.def("use_kernels", &use_kernels, "level"_a);
  module.def("add_rms_norm", &add_rms_norm, "x"_a, "delta"_a, "weight"_a, "eps"_a, "out"_a, "scale"_a, "num_threads"_a);
  module.def("swiglu", &swiglu, "gate_up"_a, "out"_a, "scale"_a, "num_threads"_a);
  module.def("quick_gelu", &quick_gelu, "x"_a, "out"_a, "scale"_a, "num_threads"_a);
  module.def("gelu_tanh", &gelu_tanh, "x"_a, "out"_a, "scale"_a, "num_threads"_a);
  module.def("quantize_rows", &quantize_rows, "x"_a, "out"_a, "scale"_a, "num_threads"_a);
  module.def("dequantize", &dequantize, "sums"_a, "row_scale"_a, "channel_scale"_a, "bias"_a, "out"_a, "num_threads"_a);
  module.def("rope_store", &rope_store, "qkv"_a, "cos"_a, "sin"_a, "slots"_a, "positions"_a, "query_norm"_a,
             "key_norm"_a, "eps"_a, "cache"_a, "out"_a, "num_threads"_a);
  module.def("decode_attention", &decode_attention, "queries"_a, "cache"_a, "slots"_a, "positions"_a, "out"_a,
             "num_threads"_a);
  bind_models(module);
}
