#include "cpu/tensor.hpp"

#include <pybind11/gil_safe_call_once.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace recap::cpu {
namespace {

// The structs of DLPack, https://dmlc.github.io/dlpack/latest/c_api.html.
struct DLTensor {
  void* data;
  std::int32_t device, device_id;
  std::int32_t num_dims;
  std::uint8_t type_code, type_bits;
  std::uint16_t type_lanes;
  std::int64_t *sizes, *strides;
  std::uint64_t byte_offset;
};
struct ManagedTensor {
  DLTensor tensor;
  void* context;
  void (*release)(ManagedTensor*);
};

constexpr std::int32_t kCpu = 1;
// Products of sizes stay far from the largest integer, also of tensors that have no element.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 46;

// What Python calls for every tensor, made once.
struct Names {
  py::object to_dlpack = py::module_::import("torch.utils.dlpack").attr("to_dlpack");
  py::str untyped_storage = "untyped_storage", data_ptr = "data_ptr", nbytes = "nbytes";
};

const Names& names() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Names> storage;
  return storage.call_once_and_store_result([] { return Names(); }).get_stored();
}

ManagedTensor* export_tensor(py::handle object) {
  const py::object capsule = names().to_dlpack(object);
  auto* managed = static_cast<ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (managed == nullptr) throw py::error_already_set();
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");  // it is ours to release now
  return managed;
}

// The tensor's type where it is one of those and the layout is as well, or null.
const DType* find_type(const DLTensor& tensor, Matcher::DTypes dtypes, Matcher::Dims dims) {
  if (tensor.device != kCpu || tensor.num_dims != std::ssize(dims)) return nullptr;
  std::int64_t count = 1;  // empty dimensions count as one
  bool is_contiguous = true;
  bool is_empty = false;
  for (std::int32_t i = tensor.num_dims - 1; i >= 0; --i) {
    const Dim& dim = dims.begin()[i];
    const std::int64_t size = tensor.sizes[i];
    if (dim.name == nullptr && dim.size != size) return nullptr;
    is_contiguous &= size == 1 || tensor.strides == nullptr || tensor.strides[i] == count;
    is_empty |= size == 0;
    if (size > kMaxElements / count) return nullptr;
    count *= std::max<std::int64_t>(size, 1);
  }
  const DType found{.code = tensor.type_code, .bits = tensor.type_bits, .name = nullptr};
  const auto* type = std::find(dtypes.begin(), dtypes.end(), found);
  const bool fits = type != dtypes.end() && tensor.type_lanes == 1 && (is_contiguous || is_empty);
  return fits ? type : nullptr;
}

// torch keeps a tensor's sizes when its storage is resized below it, and fakes have a storage at 0.
bool is_in_storage(py::handle object, std::uintptr_t begin, std::uintptr_t end) {
  const auto call = [](py::handle owner, const py::str& name) {
    return py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(owner.ptr(), name.ptr()));
  };
  const py::object storage = call(object, names().untyped_storage);
  if (!storage) throw py::error_already_set();
  const py::object address = call(storage, names().data_ptr);
  const py::object size = call(storage, names().nbytes);
  if (!address || !size) throw py::error_already_set();
  const auto first = address.cast<std::uintptr_t>();
  return first != 0 && first <= begin && end <= first + size.cast<std::uintptr_t>();
}

std::string describe(Matcher::DTypes dtypes, Matcher::Dims dims) {
  std::string text;
  for (const DType& dtype : dtypes) text += (text.empty() ? "" : " or ") + std::string(dtype.name);
  for (const Dim& dim : dims) {
    text += &dim == dims.begin() ? " [" : ", ";
    text += dim.name != nullptr ? dim.name : std::to_string(dim.size);
  }
  return text + "]";
}

std::string describe(py::handle tensor) {
  return py::str("{} {} with strides {} on {}")
      .format(tensor.attr("dtype"), py::list(tensor.attr("shape")), tensor.attr("stride")(), tensor.attr("device"));
}

}  // namespace

Tensor Matcher::tensor(const char* name, py::handle object, DTypes dtypes, Dims dims) const {
  const auto label = [=, this] { return std::string(operation_) + ": " + name; };
  Tensor result;
  try {
    result.owner = {export_tensor(object), [](void* owned) {
                      auto* managed = static_cast<ManagedTensor*>(owned);
                      managed->release(managed);
                    }};
  } catch (py::error_already_set& error) {
    PyObject* kind = error.matches(PyExc_TypeError) ? PyExc_TypeError : PyExc_ValueError;
    py::raise_from(error, kind, (label() + " is no tensor in the CPU's memory").c_str());
    throw py::error_already_set();
  }
  const DLTensor& tensor = static_cast<ManagedTensor*>(result.owner.get())->tensor;
  const DType* type = find_type(tensor, dtypes, dims);
  if (type == nullptr) {
    throw std::invalid_argument(label() + " is " + describe(object) + ", expected contiguous " +
                                describe(dtypes, dims) + " on cpu");
  }
  result.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  result.dtype = *type;
  result.count = std::accumulate(tensor.sizes, tensor.sizes + tensor.num_dims, std::int64_t{1}, std::multiplies<>());
  std::copy_n(tensor.sizes, tensor.num_dims, result.sizes.begin());
  const auto begin = reinterpret_cast<std::uintptr_t>(result.data);
  const std::uintptr_t item_bytes = type->bits / 8;
  const std::uintptr_t end = begin + static_cast<std::uintptr_t>(result.count) * item_bytes;
  if (end > begin && (begin % item_bytes != 0 || !is_in_storage(object, begin, end))) {
    throw std::invalid_argument(label() + " is not aligned, or larger than its storage: that was resized or freed");
  }
  return result;
}

std::int64_t Matcher::number(const char* name, std::int64_t value, std::int64_t largest) const {
  if (value < 1 || value > largest) {
    throw std::invalid_argument(std::string(operation_) + ": " + name + " is " + std::to_string(value) +
                                ", expected 1 to " + std::to_string(largest));
  }
  return value;
}

void Matcher::require(bool condition, const char* message) const {
  if (!condition) throw std::invalid_argument(std::string(operation_) + ": " + message);
}

}  // namespace recap::cpu
