#include "cpu/model_bindings.hpp"

#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/python.hpp"
#include "cpu/llama.hpp"
#include "cpu/tensor.hpp"
#include "cpu/tower.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace recap::cpu {
namespace {

using Size = std::int64_t;
using py::handle;

constexpr auto kFloat32 = {DType::float32};
constexpr auto kInt64 = {DType::int64};

// Tensors of float32 that are held until a model has copied them.
class Weights {
 public:
  explicit Weights(const char* model) : match_(model) {}

  const float* take(const std::string& name, handle object, Matcher::Dims dims) {
    return held_.emplace_back(match_.tensor(name.c_str(), object, kFloat32, dims)).data<float>();
  }
  const float* take_optional(const std::string& name, handle object, Matcher::Dims dims) {
    return object.is_none() ? nullptr : take(name, object, dims);
  }
  // Of the tensor that was taken last.
  Size size(int dimension) const { return held_.back().size(dimension); }

 private:
  Matcher match_;
  std::vector<Tensor> held_;
};

// Sizes from Python: products of a few of them are far from the largest integer.
Size checked_size(const char* name, Size size) {
  constexpr Size kMaxSize = 1 << 15;
  if (size < 1 || size > kMaxSize) {
    throw std::invalid_argument(std::string(name) + " is " + std::to_string(size) +
                                ", expected 1 to " + std::to_string(kMaxSize));
  }
  return size;
}

using LlamaLayerTensors = std::array<py::object, 6>;

std::unique_ptr<Llama> make_llama(Size num_heads, Size num_kv_heads, float eps,
                                  const std::vector<LlamaLayerTensors>& layers, handle norm,
                                  handle head, handle cos, handle sin, int num_threads) {
  check_threads(num_threads);
  Weights from("Llama");
  LlamaWeights weights{};
  LlamaShape shape{};
  shape.num_heads = checked_size("num_heads", num_heads);
  shape.num_kv_heads = checked_size("num_kv_heads", num_kv_heads);
  shape.eps = eps;
  weights.cos = from.take("cos", cos, {"positions", "head width"});
  shape.num_positions = from.size(0);
  shape.head_width = checked_size("head_width", from.size(1));
  weights.sin = from.take("sin", sin, {shape.num_positions, shape.head_width});
  weights.norm = from.take("norm", norm, {"width"});
  shape.width = from.size(0);
  weights.head = from.take("head", head, {"vocabulary", shape.width});
  shape.vocabulary = from.size(0);
  Dim inner_width = "inner width";
  for (const auto& [norm1, qkv, out, norm2, gate_up, down] : layers) {
    const std::string name = "layers[" + std::to_string(weights.layers.size()) + "].";
    LlamaWeights::Layer layer{};
    layer.down = from.take(name + "down", down, {shape.width, inner_width});
    inner_width = shape.inner_width = from.size(1);
    const Size queries = shape.queries_width();
    layer.norm1 = from.take(name + "norm1", norm1, {shape.width});
    layer.qkv = from.take(name + "qkv", qkv, {queries + shape.kv_width(), shape.width});
    layer.out = from.take(name + "out", out, {shape.width, queries});
    layer.norm2 = from.take(name + "norm2", norm2, {shape.width});
    layer.gate_up = from.take(name + "gate_up", gate_up, {2 * shape.inner_width, shape.width});
    weights.layers.push_back(layer);
  }
  shape.num_layers = std::ssize(layers);
  return without_gil([&] { return std::make_unique<Llama>(shape, weights, num_threads); });
}

void forward(Llama& llama, handle x, handle slots, handle positions,
             const std::array<Size, 3>& prompts, handle read, handle cache, handle logits,
             int num_threads) {
  const Matcher match("Llama.forward");
  const LlamaShape& shape = llama.shape();
  const Tensor rows = match.tensor("x", x, kFloat32, {"rows", shape.width});
  const Tensor row_slots = match.tensor("slots", slots, kInt64, {rows.size(0)});
  const Tensor row_positions = match.tensor("positions", positions, kInt64, {rows.size(0)});
  const Tensor read_rows = match.tensor("read", read, kInt64, {"rows that are read"});
  const Tensor layers = match.tensor(
      "cache", cache, kFloat32,
      {shape.num_layers, 2, "slots", shape.num_kv_heads, shape.num_positions, shape.head_width});
  const Tensor to = match.tensor("logits", logits, kFloat32, {read_rows.size(0), shape.vocabulary});
  check_threads(num_threads);
  without_gil([&] {
    llama.forward({.x = rows.data<float>(),
                   .places = {.rows = rows.size(0),
                              .slots = row_slots.data<Size>(),
                              .positions = row_positions.data<Size>()},
                   .num_prompts = prompts[0],
                   .prompt_start = prompts[1],
                   .prompt_length = prompts[2],
                   .num_read = read_rows.size(0),
                   .read = read_rows.data<Size>()},
                  {.data = layers.data<void>(),
                   .num_slots = layers.size(2),
                   .num_kv_heads = shape.num_kv_heads,
                   .num_positions = shape.num_positions,
                   .head_width = shape.head_width},
                  to.data<float>(), num_threads);
  });
}

using Pair = std::pair<py::object, py::object>;  // weight and bias
using TowerLayerTensors = std::array<Pair, 6>;

WeightAndBias take_pair(Weights& from, const std::string& name, const Pair& pair,
                        Matcher::Dims dims) {
  const float* weight = from.take(name + ".weight", pair.first, dims);
  const Dim rows = from.size(0);
  const bool is_norm = dims.size() == 1;
  return {.weight = weight,
          .bias = is_norm ? from.take(name + ".bias", pair.second, {rows})
                          : from.take_optional(name + ".bias", pair.second, {rows})};
}

std::unique_ptr<Tower> make_tower(const std::array<Size, 3>& sizes, float eps, bool quick_gelu,
                                  handle levels, const Pair& embeddings, const Pair& patch,
                                  const Pair& pre_norm,
                                  const std::vector<TowerLayerTensors>& layers,
                                  const std::array<Pair, 2>& projector, int num_threads) {
  check_threads(num_threads);
  Weights from("Tower");
  TowerWeights weights{};
  TowerShape shape{};
  shape.image_size = checked_size("image_size", sizes[0]);
  shape.patch_size = checked_size("patch_size", sizes[1]);
  shape.num_heads = checked_size("num_heads", sizes[2]);
  shape.eps = eps;
  shape.activation = quick_gelu ? Sums::quick_gelu : Sums::gelu;
  weights.levels = from.take("levels", levels, {kColors, 256});
  weights.class_token = from.take("class token", embeddings.first, {"width"});
  const Size width = shape.width = from.size(0);
  weights.position = from.take("positions", embeddings.second, {shape.length(), width});
  weights.patch = take_pair(from, "patch", patch, {width, shape.patch_pixels()});
  weights.pre_norm = take_pair(from, "pre_norm", pre_norm, {width});
  Dim inner_width = "inner width";
  for (const auto& [norm1, qkv, out, norm2, fc1, fc2] : layers) {
    const std::string name = "layers[" + std::to_string(weights.layers.size()) + "].";
    TowerWeights::Layer layer{};
    layer.fc1 = take_pair(from, name + "fc1", fc1, {inner_width, width});
    inner_width = shape.inner_width = from.size(0);
    layer.fc2 = take_pair(from, name + "fc2", fc2, {width, inner_width});
    layer.norm1 = take_pair(from, name + "norm1", norm1, {width});
    layer.qkv = take_pair(from, name + "qkv", qkv, {3 * width, width});
    layer.out = take_pair(from, name + "out", out, {width, width});
    layer.norm2 = take_pair(from, name + "norm2", norm2, {width});
    weights.layers.push_back(layer);
  }
  weights.first = take_pair(from, "projector[0]", projector[0], {"projector width", width});
  const Size out_width = shape.projector_width = from.size(0);
  weights.second = take_pair(from, "projector[1]", projector[1], {out_width, out_width});
  return without_gil([&] { return std::make_unique<Tower>(shape, weights, num_threads); });
}

void encode(Tower& tower, handle pixels, handle tokens, int num_threads) {
  const Matcher match("Tower.encode");
  const TowerShape& shape = tower.shape();
  const Tensor images = match.tensor("pixels", pixels, {DType::uint8},
                                     {"images", kColors, shape.image_size, shape.image_size});
  const Size num_images = images.size(0);
  const Tensor to = match.tensor("tokens", tokens, kFloat32,
                                 {num_images, shape.num_patches(), shape.projector_width});
  check_threads(num_threads);
  without_gil([&] {
    tower.encode(images.data<std::uint8_t>(), num_images, to.data<float>(), num_threads);
  });
}

}  // namespace

void bind_models(py::module_& module) {
  py::class_<Llama>(module, "Llama", py::is_final())
      .def(py::init(&make_llama), "num_heads"_a, "num_kv_heads"_a, "eps"_a, "layers"_a, "norm"_a,
           "head"_a, "cos"_a, "sin"_a, "num_threads"_a)
      .def("forward", &forward, "x"_a, "slots"_a, "positions"_a, "prompts"_a, "read"_a, "cache"_a,
           "logits"_a, "num_threads"_a);
  require_init<Llama>();
  py::class_<Tower>(module, "Tower", py::is_final())
      .def(py::init(&make_tower), "sizes"_a, "eps"_a, "quick_gelu"_a, "levels"_a, "embeddings"_a,
           "patch"_a, "pre_norm"_a, "layers"_a, "projector"_a, "num_threads"_a)
      .def("encode", &encode, "pixels"_a, "tokens"_a, "num_threads"_a);
  require_init<Tower>();
}

}  // namespace recap::cpu
