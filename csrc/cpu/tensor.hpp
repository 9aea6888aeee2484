// Tensors of torch at the border with Python: their memory by DLPack, checked before it is read.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>

namespace recap::cpu {

// By DLPack's numbers.
struct DType {
  std::uint8_t code, bits;
  const char* name;

  bool operator==(const DType& other) const { return code == other.code && bits == other.bits; }
};
constexpr DType kFloat32{.code = 2, .bits = 32, .name = "float32"};
constexpr DType kBFloat16{.code = 4, .bits = 16, .name = "bfloat16"};
constexpr DType kUint8{.code = 1, .bits = 8, .name = "uint8"};
constexpr DType kInt8{.code = 0, .bits = 8, .name = "int8"};
constexpr DType kInt32{.code = 0, .bits = 32, .name = "int32"};
constexpr DType kInt64{.code = 0, .bits = 64, .name = "int64"};

// What a dimension has to be: so many, or however many there are, for which messages have a name.
struct Dim {
  Dim(std::int64_t expected) : size(expected), name(nullptr) {}
  Dim(const char* any) : size(-1), name(any) {}

  std::int64_t size;
  const char* name;
};

// A tensor that is kept alive; nobody keeps Python from freeing its storage meanwhile.
struct Tensor {
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }

  std::unique_ptr<void, void (*)(void*)> owner{nullptr, nullptr};
  void* data = nullptr;  // null for None
  DType dtype = kFloat32;
  std::int64_t count = 0;  // of elements
  std::array<std::int64_t, 6> sizes{};
};

// Takes the arguments of an operation, whose name messages begin with. The GIL has to be held, also where tensors are
// dropped.
class Matcher {
 public:
  using DTypes = std::initializer_list<DType>;
  using Dims = std::initializer_list<Dim>;

  explicit Matcher(const char* operation) : operation_(operation) {}

  // Throws TypeError for what is no tensor, and ValueError unless it is a contiguous one on the CPU, of one of these
  // types, of this shape of up to 6 dimensions, with all of its memory there.
  Tensor tensor(const char* name, pybind11::handle object, DTypes dtypes, Dims dims) const;
  // None is taken, too.
  Tensor optional(const char* name, pybind11::handle object, DTypes dtypes, Dims dims) const {
    return object.is_none() ? Tensor() : tensor(name, object, dtypes, dims);
  }
  // Throws std::invalid_argument unless the number is 1 to `largest`.
  std::int64_t number(const char* name, std::int64_t value, std::int64_t largest) const;
  // Throws std::invalid_argument with the message unless the condition holds.
  void require(bool condition, const char* message) const;

 private:
  const char* operation_;
};

constexpr int kMaxThreads = 1024;

}  // namespace recap::cpu
