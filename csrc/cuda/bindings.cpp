// The Python module over decode_attention.hpp. Sizes are checked, and of addresses what a host can check.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/python.hpp"
#include "cuda/decode_attention.hpp"

namespace recap::cuda {
namespace {

using namespace pybind11::literals;
using Address = std::uintptr_t;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(std::string("decode_attention: ") + message);
}

void require_address(const char* name, Address address, Address alignment) {
  if (address == 0 || address % alignment != 0) {
    throw std::invalid_argument(std::string("decode_attention: ") + name + " is at no multiple of " +
                                std::to_string(alignment) + " bytes");
  }
}

void require_sizes(const DecodeAttention& op) {
  constexpr int kMaxKvHeads = 65535;  // blocks in the second dimension of a grid
  require(op.rows >= 0, "rows < 0");
  require(0 < op.num_kv_heads && op.num_kv_heads <= kMaxKvHeads, "num_kv_heads is not 1 to 65535");
  require(op.num_heads > 0 && op.num_heads % op.num_kv_heads == 0,
          "query heads cannot share the key/value heads evenly");
  require(op.num_heads / op.num_kv_heads <= kMaxGroup, "more than 8 query heads share a key/value head");
  require(op.num_positions > 0, "num_positions < 1");
  require(op.head_width == 64 || op.head_width == 128, "head_width is neither 64 nor 128");
}

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);  // NOLINT: Python hands addresses over as integers
}

// Sizes are rows, query heads, key/value heads, positions of a slot and the heads' width.
void decode_attention(Address queries, Address keys, Address values, Address slots, Address positions, Address out,
                      std::optional<std::pair<Address, float>> quantized, bool in_8_bits,
                      const std::array<int, 5>& sizes, Address stream) {
  const auto [scale, bound] = quantized.value_or(std::pair(Address{0}, 0.0F));
  const DecodeAttention op{.in_8_bits = in_8_bits,
                           .rows = sizes[0],
                           .num_heads = sizes[1],
                           .num_kv_heads = sizes[2],
                           .num_positions = sizes[3],
                           .head_width = sizes[4],
                           .queries = pointer<void>(queries),
                           .keys = pointer<void>(keys),
                           .values = pointer<void>(values),
                           .slots = pointer<std::int64_t>(slots),
                           .positions = pointer<std::int64_t>(positions),
                           .out = pointer<void>(out),
                           .scale = pointer<float>(scale),
                           .bound = bound};
  require_sizes(op);
  if (op.rows == 0) return;  // tensors without elements have no address
  for (const auto& [name, address] :
       {std::pair("queries", queries), {"keys", keys}, {"values", values}, {"out", out}}) {
    require_address(name, address, 16);
  }
  require_address("slots", slots, sizeof(std::int64_t));
  require_address("positions", positions, sizeof(std::int64_t));
  if (quantized) {
    require_address("scale", scale, sizeof(float));
    require(std::isnormal(bound) && bound > 0, "bound is no positive number");
  }
  without_gil([&] { launch(op, pointer<void>(stream)); });
}

}  // namespace
}  // namespace recap::cuda

PYBIND11_MODULE(_cuda_ops, module) {
  using namespace recap::cuda;
  module.def("decode_attention", &decode_attention, pybind11::kw_only(), "queries"_a, "keys"_a, "values"_a, "slots"_a,
             "positions"_a, "out"_a, "quantized"_a, "in_8_bits"_a, "sizes"_a, "stream"_a);
}
