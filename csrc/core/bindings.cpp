// The Python face of the library: conversions and the GIL, no logic.
#include <arrow/util/config.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <utility>

#include "core/pack.hpp"
#include "core/parquet_writer.hpp"
#include "core/python.hpp"
#include "core/tokenizer.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using recap::without_gil;

// What is not aligned is copied, as is what is not contiguous.
constexpr int kLayout =
    static_cast<int>(py::array::c_style) | static_cast<int>(py::detail::npy_api::NPY_ARRAY_ALIGNED_);
using Int32Array = py::array_t<std::int32_t, kLayout>;
using Int64Array = py::array_t<std::int64_t, kLayout>;

// Valid as long as the string lives. Raises UnicodeEncodeError, a ValueError, for lone surrogates.
std::string_view utf8_view(py::handle text) {
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data == nullptr) throw py::error_already_set();
  return {data, static_cast<std::size_t>(size)};
}

template <typename T>
py::array_t<T> to_array(std::vector<T> values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  const py::capsule owner(owned.get(), [](void* v) { delete static_cast<std::vector<T>*>(v); });
  const auto* vector = owned.release();
  return py::array_t<T>(static_cast<py::ssize_t>(vector->size()), vector->data(), owner);
}

template <typename T>
std::span<const T> view(const py::array_t<T, kLayout>& array) {
  if (array.ndim() != 1) throw std::invalid_argument("an array has not one dimension");
  return {array.data(), static_cast<std::size_t>(array.size())};
}

std::vector<recap::TokenRow> views(const std::vector<Int32Array>& rows) {
  std::vector<recap::TokenRow> result;
  result.reserve(rows.size());
  for (const auto& row : rows) result.push_back(view(row));
  return result;
}

py::tuple pack_rows(const std::vector<Int32Array>& rows) {
  const auto row_views = views(rows);
  recap::Ragged packed = without_gil([&] { return recap::pack_rows(row_views); });
  return py::make_tuple(to_array(std::move(packed.values)), to_array(std::move(packed.offsets)));
}

py::tuple pack_prompts(const std::vector<Int32Array>& texts, std::int64_t num_image_tokens, std::int64_t width,
                       std::int64_t prefix_length, std::optional<std::int64_t> rows) {
  const recap::PrefillShape shape{.rows = rows.value_or(std::ssize(texts)),
                                  .num_image_tokens = num_image_tokens,
                                  .prefix_length = prefix_length,
                                  .width = width};
  const auto text_views = views(texts);
  recap::PackedPrompts packed = without_gil([&] { return recap::pack_prompts(text_views, shape); });
  return py::make_tuple(to_array(std::move(packed.text_ids)).reshape({shape.rows, shape.width}),
                        to_array(std::move(packed.last_rows)), to_array(std::move(packed.positions)));
}

// The struct inside a capsule of the Arrow PyCapsule protocol.
template <typename T>
T* unwrap(const py::handle& capsule, const char* name) {
  void* pointer = PyCapsule_GetPointer(capsule.ptr(), name);
  if (pointer == nullptr) throw py::error_already_set();
  return static_cast<T*>(pointer);
}

std::unique_ptr<recap::ParquetWriter> open_writer(const std::filesystem::path& path, const py::object& schema,
                                                  std::int64_t max_row_group_rows,
                                                  std::map<std::string, std::string> metadata) {
  const py::object capsule = schema.attr("__arrow_c_schema__")();
  auto* arrow_schema = unwrap<ArrowSchema>(capsule, "arrow_schema");
  const recap::ParquetOptions options{.max_row_group_rows = max_row_group_rows, .metadata = std::move(metadata)};
  return without_gil([&] { return std::make_unique<recap::ParquetWriter>(path, arrow_schema, options); });
}

void write_batch(recap::ParquetWriter& writer, const py::object& batch) {
  const py::tuple capsules = batch.attr("__arrow_c_array__")();
  auto* schema = unwrap<ArrowSchema>(capsules[0], "arrow_schema");
  auto* array = unwrap<ArrowArray>(capsules[1], "arrow_array");
  without_gil([&] { writer.write(array, schema); });
}

py::dict close_writer(recap::ParquetWriter& writer) {
  const recap::ParquetSummary summary = without_gil([&] { return writer.close(); });
  return py::dict("rows"_a = summary.rows, "bytes"_a = summary.bytes, "row_groups"_a = summary.row_groups);
}

void exit_writer(recap::ParquetWriter& writer, const py::object& type, const py::object&, const py::object&) {
  const bool failed = !type.is_none();
  without_gil([&] { failed ? writer.abort() : static_cast<void>(writer.close()); });
}

void bind_tokenizer(py::module_& module) {
  using recap::Tokenizer;
  py::class_<Tokenizer>(module, "Tokenizer", py::is_final())
      .def(py::init<std::vector<std::string>, const std::optional<std::vector<Tokenizer::Merge>>&,
                    const std::map<std::string, std::int32_t>&, bool>(),
           "tokens"_a, "merges"_a, "special"_a, "ignore_merges"_a)
      .def(
          "encode",
          [](const Tokenizer& self, const py::str& text) {
            const std::string_view view = utf8_view(text);
            return to_array(without_gil([&] { return self.encode(view); }));
          },
          "text"_a)
      .def(
          "detokenize",
          [](const Tokenizer& self, const Int32Array& ids, const Int64Array& offsets) {
            const auto id_view = view(ids);
            const auto offset_view = view(offsets);
            return without_gil([&] { return self.detokenize(id_view, offset_view); });
          },
          "ids"_a, "offsets"_a)
      .def_property_readonly("vocab_size", [](const Tokenizer& self) { return self.vocab_size(); });
  recap::require_init<Tokenizer>();
}

void bind_pack(py::module_& module) {
  module.def("pack_rows", &pack_rows, "rows"_a);
  module.def("pack_prompts", &pack_prompts, "texts"_a, "num_image_tokens"_a, "width"_a, py::kw_only(),
             "prefix_length"_a = 0, "rows"_a = py::none());
}

void bind_parquet_writer(py::module_& module) {
  using recap::ParquetWriter;
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const recap::WriteError& write_error) {
      py::set_error(PyExc_OSError, write_error.what());
    }
  });
  // Before the interpreter goes: its end kills threads that ask for the GIL, and the process with it.
  py::module_::import("atexit").attr("register")(
      py::cpp_function(&ParquetWriter::abort_all, py::call_guard<py::gil_scoped_release>()));
  // The thread may need the GIL to free a batch, so nobody may wait for it with the GIL held.
  py::class_<ParquetWriter>(module, "ParquetWriter", py::is_final(), py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&open_writer), "path"_a, "schema"_a, py::kw_only(), "max_row_group_rows"_a = 10'000,
           "key_value_metadata"_a = std::map<std::string, std::string>())
      .def("write", &write_batch, "batch"_a)
      .def("close", &close_writer)
      .def("abort", [](ParquetWriter& self) { without_gil([&] { self.abort(); }); })
      .def(
          "__enter__", [](ParquetWriter& self) { return &self; }, py::return_value_policy::reference)
      .def("__exit__", &exit_writer, "type"_a, "value"_a, "traceback"_a);
  recap::require_init<ParquetWriter>();
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.attr("ARROW_VERSION") = ARROW_VERSION_STRING;
  bind_tokenizer(module);
  bind_pack(module);
  bind_parquet_writer(module);
}
