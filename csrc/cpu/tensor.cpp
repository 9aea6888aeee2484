#include "cpu/tensor.hpp"

#include <pybind11/gil_safe_call_once.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace recap::cpu {

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

namespace {

constexpr std::int32_t kCpu = 1;
// Products of sizes stay far from the largest integer, also of tensors that have no element.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 46;

struct TypeInfo {
  DType dtype;
  const char* name;
  std::uint8_t code, bits;  // DLPack's
};
constexpr TypeInfo kTypes[] = {
    {.dtype = DType::float32, .name = "float32", .code = 2, .bits = 32},
    {.dtype = DType::bfloat16, .name = "bfloat16", .code = 4, .bits = 16},
    {.dtype = DType::uint8, .name = "uint8", .code = 1, .bits = 8},
    {.dtype = DType::int8, .name = "int8", .code = 0, .bits = 8},
    {.dtype = DType::int32, .name = "int32", .code = 0, .bits = 32},
    {.dtype = DType::int64, .name = "int64", .code = 0, .bits = 64},
};

const TypeInfo* find_type(const DLTensor& tensor, Matcher::DTypes expected) {
  for (const TypeInfo& type : kTypes) {
    if (type.code == tensor.type_code && type.bits == tensor.type_bits && tensor.type_lanes == 1 &&
        std::find(expected.begin(), expected.end(), type.dtype) != expected.end()) {
      return &type;
    }
  }
  return nullptr;
}

bool has_shape(const DLTensor& tensor, Matcher::Dims dims) {
  return tensor.num_dims == static_cast<std::int32_t>(dims.size()) &&
         std::equal(dims.begin(), dims.end(), tensor.sizes, [](const Dim& dim, std::int64_t size) {
           return dim.name != nullptr || dim.size == size;
         });
}

// The number of elements where they lie one after another and are not too many.
std::optional<std::int64_t> count_contiguous(const DLTensor& tensor) {
  std::int64_t count = 1;
  std::int64_t padded = 1;  // each empty dimension counted as one
  bool is_contiguous = true;
  for (std::int32_t i = tensor.num_dims - 1; i >= 0; --i) {
    const std::int64_t size = tensor.sizes[i];
    if (size > 1 && tensor.strides != nullptr && tensor.strides[i] != count) is_contiguous = false;
    if (__builtin_mul_overflow(padded, std::max<std::int64_t>(size, 1), &padded)) return {};
    count *= size;
  }
  if (padded > kMaxElements || !(is_contiguous || count == 0)) return {};
  return count;
}

// Names of methods, made once: they are called for every tensor.
struct Names {
  PyObject* untyped_storage = PyUnicode_InternFromString("untyped_storage");
  PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
  PyObject* nbytes = PyUnicode_InternFromString("nbytes");
};

py::object call_method(py::handle object, PyObject* name) {
  PyObject* result = PyObject_CallMethodNoArgs(object.ptr(), name);
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

// torch keeps a tensor's sizes when its storage is resized below it.
bool is_in_storage(py::handle object, const char* data, std::int64_t size_bytes) {
  static const Names names;
  const py::object storage = call_method(object, names.untyped_storage);
  const auto begin = PyLong_AsUnsignedLongLong(call_method(storage, names.data_ptr).ptr());
  const auto size = PyLong_AsUnsignedLongLong(call_method(storage, names.nbytes).ptr());
  if (PyErr_Occurred()) throw py::error_already_set();
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  return begin <= address && address + static_cast<std::uintptr_t>(size_bytes) <= begin + size;
}

std::string describe(Matcher::DTypes dtypes, Matcher::Dims dims) {
  std::string text;
  for (const DType dtype : dtypes) {
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [dtype](const TypeInfo& t) { return t.dtype == dtype; });
    text += (text.empty() ? "" : " or ") + std::string(type->name);
  }
  text += " [";
  for (const Dim& dim : dims) {
    if (&dim != dims.begin()) text += ", ";
    text += dim.name != nullptr ? dim.name : std::to_string(dim.size);
  }
  return text + "]";
}

std::string describe(py::handle tensor) {
  const bool is_contiguous = tensor.attr("is_contiguous")().cast<bool>();
  const std::string dtype = py::str(tensor.attr("dtype"));
  return dtype.substr(dtype.find('.') + 1) + ' ' +
         std::string(py::str(py::list(tensor.attr("shape")))) +
         (is_contiguous ? "" : " with strides " + std::string(py::str(tensor.attr("stride")()))) +
         " on " + std::string(py::str(tensor.attr("device")));
}

py::object export_tensor(py::handle object) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> storage;
  const py::object& to_dlpack =
      storage
          .call_once_and_store_result([] {
            return py::object(py::module_::import("torch.utils.dlpack").attr("to_dlpack"));
          })
          .get_stored();
  return to_dlpack(object);
}

}  // namespace

void Tensor::Release::operator()(ManagedTensor* managed) const {
  if (managed->release != nullptr) managed->release(managed);
}

Tensor Matcher::tensor(const char* name, py::handle object, DTypes dtypes, Dims dims) const {
  const auto label = [=, this] { return std::string(operation_) + ": " + name; };
  Tensor result;
  try {
    const py::object capsule = export_tensor(object);
    void* managed = PyCapsule_GetPointer(capsule.ptr(), "dltensor");
    if (managed == nullptr) throw py::error_already_set();
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");  // it is ours to release now
    result.managed_.reset(static_cast<ManagedTensor*>(managed));
  } catch (py::error_already_set& error) {
    PyObject* kind = error.matches(PyExc_TypeError) ? PyExc_TypeError : PyExc_ValueError;
    py::raise_from(error, kind, (label() + " is no tensor in the CPU's memory").c_str());
    throw py::error_already_set();
  }
  const DLTensor& tensor = result.managed_->tensor;
  const TypeInfo* type = find_type(tensor, dtypes);
  const auto count = count_contiguous(tensor);
  if (type == nullptr || tensor.device != kCpu || !has_shape(tensor, dims) || !count) {
    throw std::invalid_argument(label() + " is " + describe(object) + ", expected contiguous " +
                                describe(dtypes, dims) + " on cpu");
  }
  char* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  const std::int64_t item_bytes = type->bits / 8;
  if (*count > 0 && reinterpret_cast<std::uintptr_t>(data) % static_cast<std::size_t>(item_bytes)) {
    throw std::invalid_argument(label() + " lies at an address that no " + type->name + " has");
  }
  if (*count > 0 && !is_in_storage(object, data, *count * item_bytes)) {
    throw std::invalid_argument(label() + " is larger than its storage: that was resized or freed");
  }
  result.data_ = data;
  result.dtype_ = type->dtype;
  std::copy_n(tensor.sizes, tensor.num_dims, result.sizes_.begin());
  return result;
}

Tensor Matcher::optional(const char* name, py::handle object, DTypes dtypes, Dims dims) const {
  return object.is_none() ? Tensor() : tensor(name, object, dtypes, dims);
}

void Matcher::require(bool condition, const char* message) const {
  if (!condition) throw std::invalid_argument(std::string(operation_) + ": " + message);
}

void check_threads(int num_threads) {
  constexpr int kMaxThreads = 1024;
  if (num_threads < 1 || num_threads > kMaxThreads) {
    throw std::invalid_argument("num_threads is " + std::to_string(num_threads) +
                                ", expected 1 to " + std::to_string(kMaxThreads));
  }
}

}  // namespace recap::cpu
