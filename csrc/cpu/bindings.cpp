// The Python face of ops.hpp, and of the module: arguments are checked, the GIL is given up.
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "core/python.hpp"
#include "cpu/model_bindings.hpp"
#include "cpu/ops.hpp"
#include "cpu/parallel.hpp"
#include "cpu/tensor.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace recap::cpu {
namespace {

using Size = std::int64_t;
using py::handle;

constexpr auto kFloats = {DType::float32, DType::bfloat16};
constexpr auto kFloat32 = {DType::float32};
constexpr auto kInt64 = {DType::int64};

Precision precision_of(const Tensor& tensor) {
  return tensor.dtype() == DType::float32 ? Precision::float32 : Precision::bfloat16;
}

template <typename Op>
void run_op(const Op& op, int num_threads) {
  check_threads(num_threads);
  without_gil([&] { run(op, num_threads); });
}

// Where a kernel writes rows: in 8 bits with scales, or where `scale` is None in the precision of
// what it reads.
class Output {
 public:
  Output(const Matcher& match, handle out, handle scale, DType precision, Size rows, Size width)
      : scale_(match.optional("scale", scale, kFloat32, {rows, 1})),
        rows_(
            match.tensor("out", out, {scale.is_none() ? precision : DType::int8}, {rows, width})) {}

  RowsOut rows() const {
    if (rows_.dtype() != DType::int8) {
      return {.rows = rows_.data<void>(), .values = nullptr, .scale = nullptr};
    }
    return {.rows = nullptr, .values = rows_.data<std::int8_t>(), .scale = scale_.data<float>()};
  }

 private:
  Tensor scale_, rows_;
};

void add_rms_norm(handle x, handle delta, handle weight, float eps, handle out, handle scale,
                  int num_threads) {
  const Matcher match("add_rms_norm");
  const Tensor sums = match.tensor("x", x, kFloats, {"rows", "width"});
  const Size rows = sums.size(0);
  const Size width = sums.size(1);
  const Tensor added = match.optional("delta", delta, {sums.dtype()}, {rows, width});
  const Tensor weights = match.tensor("weight", weight, {sums.dtype()}, {width});
  const Output to(match, out, scale, sums.dtype(), rows, width);
  run_op(AddRmsNorm{.precision = precision_of(sums),
                    .rows = rows,
                    .width = width,
                    .x = sums.data<void>(),
                    .delta = added.data<void>(),
                    .weight = weights.data<void>(),
                    .eps = eps,
                    .out = to.rows()},
         num_threads);
}

void swiglu(handle gate_up, handle out, handle scale, int num_threads) {
  const Matcher match("swiglu");
  const Tensor from = match.tensor("gate_up", gate_up, kFloats, {"rows", "2 * width"});
  match.require(from.size(1) % 2 == 0, "an odd number of columns has no halves for gate and up");
  const Size width = from.size(1) / 2;
  const Output to(match, out, scale, from.dtype(), from.size(0), width);
  run_op(Swiglu{.precision = precision_of(from),
                .rows = from.size(0),
                .width = width,
                .gate_up = from.data<void>(),
                .out = to.rows()},
         num_threads);
}

// For QuickGelu and QuantizeRows, which have the same fields.
template <typename Op>
void map_rows(const Matcher& match, handle x, handle out, handle scale, int num_threads) {
  const Tensor from = match.tensor("x", x, kFloats, {"rows", "width"});
  const Output to(match, out, scale, from.dtype(), from.size(0), from.size(1));
  run_op(Op{.precision = precision_of(from),
            .rows = from.size(0),
            .width = from.size(1),
            .x = from.data<void>(),
            .out = to.rows()},
         num_threads);
}

void quick_gelu(handle x, handle out, handle scale, int num_threads) {
  map_rows<QuickGelu>(Matcher("quick_gelu"), x, out, scale, num_threads);
}

void quantize_rows(handle x, handle out, handle scale, int num_threads) {
  const Matcher match("quantize_rows");
  match.require(!scale.is_none(), "scale is None");
  map_rows<QuantizeRows>(match, x, out, scale, num_threads);
}

void dequantize(handle sums, handle row_scale, handle channel_scale, handle bias, handle out,
                int num_threads) {
  const Matcher match("dequantize");
  const Tensor from = match.tensor("sums", sums, {DType::int32, DType::float32}, {"rows", "width"});
  const Size rows = from.size(0);
  const Size width = from.size(1);
  const Tensor row_scales = match.tensor("row_scale", row_scale, kFloat32, {rows, 1});
  const Tensor channel_scales = match.tensor("channel_scale", channel_scale, kFloat32, {width});
  const Tensor added = match.optional("bias", bias, kFloat32, {width});
  const Tensor to = match.tensor("out", out, kFloats, {rows, width});
  run_op(Dequantize{.precision = precision_of(to),
                    .rows = rows,
                    .width = width,
                    .float_sums = from.dtype() == DType::float32,
                    .sums = from.data<void>(),
                    .row_scale = row_scales.data<float>(),
                    .channel_scale = channel_scales.data<float>(),
                    .bias = added.data<float>(),
                    .out = to.data<void>()},
         num_threads);
}

Cache cache_of(const Tensor& layer) {
  return {.data = layer.data<void>(),
          .num_slots = layer.size(1),
          .num_kv_heads = layer.size(2),
          .num_positions = layer.size(3),
          .head_width = layer.size(4)};
}

Places places_of(const Tensor& slots, const Tensor& positions) {
  return {.rows = slots.size(0), .slots = slots.data<Size>(), .positions = positions.data<Size>()};
}

void rope_store(handle qkv, handle cos, handle sin, handle slots, handle positions, handle cache,
                handle out, int num_threads) {
  const Matcher match("rope_store");
  const Tensor to =
      match.tensor("cache", cache, kFloats, {2, "slots", "kv heads", "positions", "head width"});
  const Cache layer = cache_of(to);
  const Size width = layer.head_width;
  match.require(width % 2 == 0, "heads of an odd width have no halves to rotate");
  const Tensor queries = match.tensor("out", out, {to.dtype()}, {"rows", "heads", width});
  const Size rows = queries.size(0);
  const Size num_heads = queries.size(1);
  const Size columns = (num_heads + 2 * layer.num_kv_heads) * width;
  const Tensor from = match.tensor("qkv", qkv, {to.dtype()}, {rows, columns});
  const Tensor cosines = match.tensor("cos", cos, {to.dtype()}, {layer.num_positions, width});
  const Tensor sines = match.tensor("sin", sin, {to.dtype()}, {layer.num_positions, width});
  const Tensor row_slots = match.tensor("slots", slots, kInt64, {rows});
  const Tensor row_positions = match.tensor("positions", positions, kInt64, {rows});
  run_op(RopeStore{.precision = precision_of(to),
                   .num_heads = num_heads,
                   .qkv = from.data<void>(),
                   .cos = cosines.data<void>(),
                   .sin = sines.data<void>(),
                   .places = places_of(row_slots, row_positions),
                   .cache = layer,
                   .queries = queries.data<void>()},
         num_threads);
}

void decode_attention(handle queries, handle cache, handle slots, handle positions, handle out,
                      int num_threads) {
  const Matcher match("decode_attention");
  const Tensor from = match.tensor("queries", queries, kFloats, {"rows", "heads", "head width"});
  const Size rows = from.size(0);
  const Size num_heads = from.size(1);
  const Size width = from.size(2);
  const Tensor kept =
      match.tensor("cache", cache, {from.dtype()}, {2, "slots", "kv heads", "positions", width});
  const Cache layer = cache_of(kept);
  match.require(layer.num_kv_heads > 0 && num_heads % layer.num_kv_heads == 0,
                "query heads cannot share the key/value heads evenly");
  const Tensor row_slots = match.tensor("slots", slots, kInt64, {rows});
  const Tensor row_positions = match.tensor("positions", positions, kInt64, {rows});
  const Tensor to = match.tensor("out", out, {from.dtype()}, {rows, num_heads * width});
  run_op(DecodeAttention{.precision = precision_of(from),
                         .num_heads = num_heads,
                         .queries = from.data<void>(),
                         .places = places_of(row_slots, row_positions),
                         .cache = layer,
                         .out = to.data<void>()},
         num_threads);
}

// The OpenMP runtime that a library is linked to, whose threads are to be used. libgomp has both of
// these entries, and for compatibility LLVM's and Intel's runtime. It stays open: its threads run.
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
  module.def("add_rms_norm", &add_rms_norm, "x"_a, "delta"_a, "weight"_a, "eps"_a, "out"_a,
             "scale"_a, "num_threads"_a);
  module.def("swiglu", &swiglu, "gate_up"_a, "out"_a, "scale"_a, "num_threads"_a);
  module.def("quick_gelu", &quick_gelu, "x"_a, "out"_a, "scale"_a, "num_threads"_a);
  module.def("quantize_rows", &quantize_rows, "x"_a, "out"_a, "scale"_a, "num_threads"_a);
  module.def("dequantize", &dequantize, "sums"_a, "row_scale"_a, "channel_scale"_a, "bias"_a,
             "out"_a, "num_threads"_a);
  module.def("rope_store", &rope_store, "qkv"_a, "cos"_a, "sin"_a, "slots"_a, "positions"_a,
             "cache"_a, "out"_a, "num_threads"_a);
  module.def("decode_attention", &decode_attention, "queries"_a, "cache"_a, "slots"_a,
             "positions"_a, "out"_a, "num_threads"_a);
  bind_models(module);
}
