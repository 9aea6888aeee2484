// Tensors of torch at the border with Python: their memory by DLPack, checked before it is read.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>

namespace recap::cpu {

enum class DType { float32, bfloat16, uint8, int8, int32, int64 };

// What a dimension has to be: so many, or however many there are, for which messages have a name.
struct Dim {
  Dim(std::int64_t expected) : size(expected), name(nullptr) {}
  Dim(const char* any) : size(-1), name(any) {}

  std::int64_t size;
  const char* name;
};

struct ManagedTensor;  // DLPack's DLManagedTensor

// A tensor that is kept alive and lies where it lay, unless Python frees its storage meanwhile.
class Tensor {
 public:
  DType dtype() const { return dtype_; }
  std::int64_t size(int dimension) const { return sizes_[static_cast<std::size_t>(dimension)]; }
  // Null for an argument that was None.
  template <typename T>
  T* data() const {
    return static_cast<T*>(data_);
  }

 private:
  friend class Matcher;
  struct Release {
    void operator()(ManagedTensor* managed) const;
  };

  std::unique_ptr<ManagedTensor, Release> managed_;
  void* data_ = nullptr;
  DType dtype_ = DType::float32;
  std::array<std::int64_t, 6> sizes_{};
};

// Takes the arguments of an operation, whose name messages begin with. The GIL has to be held, also
// where tensors are dropped.
class Matcher {
 public:
  using DTypes = std::initializer_list<DType>;
  using Dims = std::initializer_list<Dim>;

  explicit Matcher(const char* operation) : operation_(operation) {}

  // Throws TypeError for what is no tensor, and ValueError unless it is a contiguous one on the
  // CPU, of one of these types, of this shape of up to 6 dimensions, with all of its memory there.
  Tensor tensor(const char* name, pybind11::handle object, DTypes dtypes, Dims dims) const;
  // As `tensor`; None is taken, too.
  Tensor optional(const char* name, pybind11::handle object, DTypes dtypes, Dims dims) const;
  // Throws std::invalid_argument with the message unless the condition holds.
  void require(bool condition, const char* message) const;

 private:
  const char* operation_;
};

// Throws std::invalid_argument for a number of threads that no team has.
void check_threads(int num_threads);

}  // namespace recap::cpu
