// The Python face of llama.hpp and tower.hpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core/python.hpp"
#include "cpu/llama.hpp"
#include "cpu/tensor.hpp"
#include "cpu/tower.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace recap::cpu {
namespace {

using py::handle;

// Sizes from Python: products of a few of them are far from the largest integer.
constexpr Size kMaxSize = 1 << 20;

// Takes the weights of a model by the names that they have in an engine's file, all in float32 and packed for the same
// kernels.
class Taker {
 public:
  Taker(const char* model, py::dict weights, int num_threads)
      : match(model), weights_(std::move(weights)), num_threads_(num_threads) {
    match.number("num_threads", num_threads, kMaxThreads);
  }

  Size number(const char* name, Size value) const { return match.number(name, value, kMaxSize); }
  Tensor tensor(const std::string& name, Matcher::Dims dims) const {
    return match.tensor(name.c_str(), weights_[name.c_str()], {kFloat32}, dims);
  }
  Floats floats(const std::string& name, Matcher::Dims dims) const {
    const Tensor from = tensor(name, dims);
    return {from.as<float>(), from.as<float>() + from.count};
  }
  // Empty where there are none.
  Floats optional(const std::string& name, Matcher::Dims dims) const {
    return weights_.contains(name) ? floats(name, dims) : Floats{};
  }
  Norm norm(const std::string& name, Size width) const {
    return {.weight = floats(name + ".weight", {width}), .bias = floats(name + ".bias", {width})};
  }
  Linear rows(const Tensor& matrix, Size first, Size count, bool pairs = false) const {
    const Size depth = matrix.sizes[1];
    const float* weight = matrix.as<float>() + first * depth;
    return without_gil([&] { return pack(weight, count, depth, pairs, kernels, num_threads_); });
  }
  Linear matrix(const std::string& name, Size columns, Size depth, bool pairs = false) const {
    return rows(tensor(name + ".weight", {columns, depth}), 0, columns, pairs);
  }
  bool has(const std::string& name) const { return weights_.contains(name); }
  // With its bias where there is one.
  Linear linear(const std::string& name, Size columns, Size depth) const {
    Linear packed = matrix(name, columns, depth);
    packed.bias = optional(name + ".bias", {columns});
    return packed;
  }

  const Matcher match;
  const Kernels& kernels = cpu::kernels();

 private:
  py::dict weights_;
  int num_threads_;
};

LlamaLayer take_layer(const Taker& take, const std::string& name, const LlamaModel& model, Size inner_width,
                      bool is_last) {
  const Size width = model.width();
  const Size queries = model.queries_width();
  const Size kv = model.kv_width();
  const Tensor qkv = take.tensor(name + "qkv.weight", {queries + kv, width});
  const Floats bias = take.optional(name + "qkv.bias", {queries + kv});
  const auto some = [&](Size first, Size count) {
    Linear packed = take.rows(qkv, first, count);
    if (!bias.empty()) packed.bias = {bias.begin() + first, bias.begin() + first + count};
    return packed;
  };
  return {
      .norm1 = take.floats(name + "norm1.weight", {width}),
      .qkv = some(0, is_last ? queries : queries + kv),
      .kv = is_last ? some(queries, kv) : Linear{},
      .out = take.matrix(name + "out", width, queries),
      .query_norm = take.optional(name + "q_norm.weight", {model.head_width}),
      .key_norm = take.optional(name + "k_norm.weight", {model.head_width}),
      .norm2 = take.floats(name + "norm2.weight", {width}),
      .gate_up = take.matrix(name + "gate_up", 2 * inner_width, width, true),
      .down = take.matrix(name + "down", width, inner_width),
  };
}

std::unique_ptr<Llama> make_llama(Size num_layers, Size num_heads, Size num_kv_heads, float eps, py::dict weights,
                                  int num_threads) {
  const Taker take("Llama", std::move(weights), num_threads);
  const Tensor head = take.tensor("text.head.weight", {"vocabulary", "width"});
  const Tensor down = take.tensor("text.layers.0.down.weight", {"width", "inner width"});
  const Tensor cos = take.tensor("text.cos", {"positions", "head width"});
  const Size width = take.number("width", head.sizes[1]);
  const Size head_width = take.number("head width", cos.sizes[1]);
  const Size num_positions = take.number("positions", cos.sizes[0]);
  const Size inner_width = take.number("inner width", down.sizes[1]);
  LlamaModel model{
      .num_heads = take.number("num_heads", num_heads),
      .num_kv_heads = take.number("num_kv_heads", num_kv_heads),
      .head_width = head_width,
      .eps = eps,
      .layers = {},
      .norm = take.floats("text.norm.weight", {width}),
      .head = take.rows(head, 0, take.number("vocabulary", head.sizes[0])),
      .cos = take.floats("text.cos", {num_positions, head_width}),
      .sin = take.floats("text.sin", {num_positions, head_width}),
  };
  take.match.require(num_heads % num_kv_heads == 0 && head_width % 2 == 0,
                     "query heads cannot share the key/value heads evenly, or a head has no halves to rotate");
  for (Size i = 0; i < take.number("num_layers", num_layers); ++i) {
    const std::string name = "text.layers." + std::to_string(i) + ".";
    model.layers.push_back(take_layer(take, name, model, inner_width, i == num_layers - 1));
  }
  return std::make_unique<Llama>(std::move(model), take.kernels);
}

void forward(Llama& llama, handle x, handle slots, handle positions, const std::array<Size, 3>& prompts, handle read,
             handle cache, handle logits, int num_threads, const std::optional<std::pair<py::object, Size>>& images) {
  const Matcher match("Llama.forward");
  const LlamaModel& model = llama.model();
  const Tensor rows = match.tensor("x", x, {kFloat32}, {"rows", model.width()});
  const Size num_rows = rows.sizes[0];
  const Tensor row_slots = match.tensor("slots", slots, {kInt64}, {num_rows});
  const Tensor row_positions = match.tensor("positions", positions, {kInt64}, {num_rows});
  const Tensor read_rows = match.tensor("read", read, {kInt64}, {"rows that are read"});
  const Tensor layers =
      match.tensor("cache", cache, {kFloat32},
                   {std::ssize(model.layers), 2, "slots", model.num_kv_heads, model.num_positions(), model.head_width});
  const Tensor to = match.tensor("logits", logits, {kFloat32}, {read_rows.sizes[0], model.head.columns});
  const Tensor numbers = images ? match.tensor("images", images->first, {kInt64}, {layers.sizes[2]}) : Tensor();
  const Size num_shared = images ? images->second : 0;
  match.require(num_shared >= 0 && num_shared <= model.num_positions(), "images end at no position");
  match.number("num_threads", num_threads, kMaxThreads);
  without_gil([&] {
    llama.forward({.x = rows.as<float>(),
                   .places = {.rows = num_rows, .slots = row_slots.as<Size>(), .positions = row_positions.as<Size>()},
                   .num_prompts = prompts[0],
                   .prompt_start = prompts[1],
                   .prompt_length = prompts[2],
                   .num_read = read_rows.sizes[0],
                   .read = read_rows.as<Size>(),
                   .images = numbers.as<Size>(),
                   .num_shared = num_shared},
                  {.data = layers.data,
                   .num_slots = layers.sizes[2],
                   .num_kv_heads = model.num_kv_heads,
                   .num_positions = model.num_positions(),
                   .head_width = model.head_width},
                  to.as<float>(), num_threads);
  });
}

Sums activation_of(const Matcher& match, const std::string& name) {
  match.require(name == "quick_gelu" || name == "gelu" || name == "gelu_tanh", "no such activation");
  return name == "quick_gelu" ? Sums::quick_gelu : name == "gelu" ? Sums::gelu : Sums::gelu_tanh;
}

std::unique_ptr<Tower> make_tower(Size image_size, Size patch_size, Size num_heads, Size num_layers, float eps,
                                  const std::string& activation, Size num_dropped, py::dict weights, int num_threads) {
  const Taker take("Tower", std::move(weights), num_threads);
  const Size width = take.number("width", take.tensor("vision.position", {"positions", "width"}).sizes[1]);
  const Tensor projector = take.tensor("projector.0.weight", {"projector width", width});
  const Size out_width = take.number("projector width", projector.sizes[0]);
  const Size grid = take.number("image_size", image_size) / take.number("patch_size", patch_size);
  take.match.require(grid > 0 && num_layers >= 0, "an image is smaller than a patch, or num_layers is negative");
  take.match.require(width % take.number("num_heads", num_heads) == 0,
                     "the channels cannot be divided among the heads");
  const bool has_class = take.has("vision.class");
  const bool has_pre_norm = take.has("vision.pre_norm.weight") || take.has("vision.pre_norm.bias");
  const Size length = grid * grid + (has_class ? 1 : 0);
  take.match.require(num_dropped >= 0 && num_dropped < length, "num_dropped leaves no positions, or is negative");
  TowerModel model{
      .image_size = image_size,
      .patch_size = patch_size,
      .num_heads = num_heads,
      .num_dropped = num_dropped,
      .eps = eps,
      .activation = activation_of(take.match, activation),
      .levels = take.floats("vision.levels", {kColors, 256}),
      .class_token = has_class ? take.floats("vision.class", {width}) : Floats{},
      .position = take.floats("vision.position", {length, width}),
      .patch = take.linear("vision.patch", width, kColors * patch_size * patch_size),
      .pre_norm = has_pre_norm ? take.norm("vision.pre_norm", width) : Norm{},
      .layers = {},
      .first = take.linear("projector.0", out_width, width),
      .second = take.linear("projector.1", out_width, out_width),
  };
  Dim inner = "inner width";
  for (Size i = 0; i < num_layers; ++i) {
    const std::string name = "vision.layers." + std::to_string(i) + ".";
    inner = take.number("inner width", take.tensor(name + "fc1.weight", {inner, width}).sizes[0]);
    model.layers.push_back({
        .norm1 = take.norm(name + "norm1", width),
        .qkv = take.linear(name + "qkv", 3 * width, width),
        .out = take.linear(name + "out", width, width),
        .norm2 = take.norm(name + "norm2", width),
        .fc1 = take.linear(name + "fc1", inner.size, width),
        .fc2 = take.linear(name + "fc2", width, inner.size),
    });
  }
  return std::make_unique<Tower>(std::move(model), take.kernels);
}

void encode(Tower& tower, handle pixels, handle tokens, int num_threads) {
  const Matcher match("Tower.encode");
  const TowerModel& model = tower.model();
  const Tensor images =
      match.tensor("pixels", pixels, {kUint8}, {"images", kColors, model.image_size, model.image_size});
  const Size num_images = images.sizes[0];
  const Tensor to = match.tensor("tokens", tokens, {kFloat32}, {num_images, model.num_tokens(), model.second.columns});
  match.number("num_threads", num_threads, kMaxThreads);
  without_gil([&] { tower.encode(images.as<std::uint8_t>(), num_images, to.as<float>(), num_threads); });
}

}  // namespace

void bind_models(py::module_& module) {
  py::class_<Llama>(module, "Llama", py::is_final())
      .def(py::init(&make_llama), "num_layers"_a, "num_heads"_a, "num_kv_heads"_a, "eps"_a, "weights"_a,
           "num_threads"_a)
      .def("forward", &forward, "x"_a, "slots"_a, "positions"_a, "prompts"_a, "read"_a, "cache"_a, "logits"_a,
           "num_threads"_a, "images"_a = py::none());
  require_init<Llama>();
  py::class_<Tower>(module, "Tower", py::is_final())
      .def(py::init(&make_tower), "image_size"_a, "patch_size"_a, "num_heads"_a, "num_layers"_a, "eps"_a,
           "activation"_a, "num_dropped"_a, "weights"_a, "num_threads"_a)
      .def("encode", &encode, "pixels"_a, "tokens"_a, "num_threads"_a);
  require_init<Tower>();
}

}  // namespace recap::cpu
