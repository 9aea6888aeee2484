// The Python face of the library: conversions and the GIL, no logic.
#include <arrow/util/config.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <utility>

#include "core/jpeg_walk.hpp"
#include "core/pack.hpp"
#include "core/parquet_writer.hpp"
#include "core/python.hpp"
#include "core/tokenizer.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using recap::without_gil;

// What is not aligned is copied, as is what is not contiguous.
using Int32Array =
    py::array_t<std::int32_t, static_cast<int>(py::array::c_style) | py::detail::npy_api::NPY_ARRAY_ALIGNED_>;

// Valid as long as the string lives. Raises UnicodeEncodeError, a ValueError, for lone surrogates.
std::string_view utf8_view(py::handle text) {
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data == nullptr) throw py::error_already_set();
  return {data, static_cast<std::size_t>(size)};
}

template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(std::ssize(values), values.data());
}

std::vector<recap::TokenRow> views(const std::vector<Int32Array>& rows) {
  std::vector<recap::TokenRow> result;
  result.reserve(rows.size());
  for (const auto& row : rows) {
    if (row.ndim() != 1) throw std::invalid_argument("an array has not one dimension");
    result.emplace_back(row.data(), static_cast<std::size_t>(row.size()));
  }
  return result;
}

py::list detokenize(const recap::Tokenizer& tokenizer, const std::vector<Int32Array>& rows) {
  const auto row_views = views(rows);
  py::list texts;
  for (const std::string& bytes : without_gil([&] { return tokenizer.detokenize(row_views); })) {
    PyObject* text = PyUnicode_DecodeUTF8(bytes.data(), std::ssize(bytes), "replace");
    if (text == nullptr) throw py::error_already_set();
    texts.append(py::reinterpret_steal<py::str>(text));
  }
  return texts;
}

py::tuple pack_prompts(const std::vector<Int32Array>& texts, std::int64_t num_image_tokens, std::int64_t width,
                       std::optional<std::int64_t> rows) {
  const recap::PrefillShape shape{
      .rows = rows.value_or(std::ssize(texts)), .num_image_tokens = num_image_tokens, .width = width};
  const auto text_views = views(texts);
  const recap::PackedPrompts packed = without_gil([&] { return recap::pack_prompts(text_views, shape); });
  return py::make_tuple(to_array(packed.text_ids).reshape({shape.rows, shape.width}), to_array(packed.last_rows));
}

// The struct inside a capsule of the Arrow PyCapsule protocol.
template <typename T>
T* unwrap(const py::handle& capsule, const char* name) {
  void* pointer = PyCapsule_GetPointer(capsule.ptr(), name);
  if (pointer == nullptr) throw py::error_already_set();
  return static_cast<T*>(pointer);
}

std::unique_ptr<recap::ParquetWriter> open_writer(const std::filesystem::path& path, const py::object& schema,
                                                  std::int64_t max_row_group_rows, std::int64_t max_row_group_bytes,
                                                  const recap::ParquetMetadata& metadata) {
  const py::object capsule = schema.attr("__arrow_c_schema__")();
  auto* arrow_schema = unwrap<ArrowSchema>(capsule, "arrow_schema");
  const recap::RowGroupLimits limits{.rows = max_row_group_rows, .bytes = max_row_group_bytes};
  return without_gil([&] { return std::make_unique<recap::ParquetWriter>(path, arrow_schema, limits, metadata); });
}

void write_batch(recap::ParquetWriter& writer, const py::object& batch) {
  const py::tuple capsules = batch.attr("__arrow_c_array__")();
  auto* schema = unwrap<ArrowSchema>(capsules[0], "arrow_schema");
  auto* array = unwrap<ArrowArray>(capsules[1], "arrow_array");
  without_gil([&] { writer.write(array, schema); });
}

void exit_writer(recap::ParquetWriter& writer, const py::object& type, const py::object&, const py::object&) {
  const bool failed = !type.is_none();
  without_gil([&] { failed ? writer.abort() : writer.close(); });
}

py::tuple walk_jpeg(const py::bytes& data) {
  const std::string_view view = data;
  const auto* begin = reinterpret_cast<const std::uint8_t*>(view.data());
  const recap::JpegWalk walk = without_gil([&] { return recap::walk_jpeg({begin, view.size()}); });
  return py::make_tuple(py::bytes(walk.cleaned), walk.orientation, walk.num_scans, walk.well_formed);
}

void bind_tokenizer(py::module_& module) {
  using recap::Tokenizer;
  py::class_<Tokenizer>(module, "Tokenizer", py::is_final())
      .def(py::init<std::vector<std::string>, const std::optional<std::vector<Tokenizer::Merge>>&,
                    const std::map<std::string, std::int32_t>&, bool, const std::map<std::int32_t, std::string>&>(),
           "tokens"_a, "merges"_a, "special"_a, "ignore_merges"_a, "words"_a = std::map<std::int32_t, std::string>())
      .def(
          "encode",
          [](const Tokenizer& self, const py::str& text) {
            const std::string_view view = utf8_view(text);
            return to_array(without_gil([&] { return self.encode(view); }));
          },
          "text"_a)
      .def("detokenize", &detokenize, "rows"_a)
      .def_property_readonly("vocab_size", [](const Tokenizer& self) { return self.vocab_size(); });
  recap::require_init<Tokenizer>();
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
           "max_row_group_bytes"_a = 128 << 20, "key_value_metadata"_a = recap::ParquetMetadata())
      .def("write", &write_batch, "batch"_a)
      .def("close", [](ParquetWriter& self) { without_gil([&] { self.close(); }); })
      .def("abort", [](ParquetWriter& self) { without_gil([&] { self.abort(); }); })
      .def(
          "__enter__", [](ParquetWriter& self) { return &self; }, py::return_value_policy::reference)
      .def("__exit__", &exit_writer, "type"_a, "value"_a, "traceback"_a);
  recap::require_init<ParquetWriter>();
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.attr("ARROW_VERSION") = ARROW_VERSION_STRING;
  module.def("pack_prompts", &pack_prompts, "texts"_a, "num_image_tokens"_a, "width"_a, py::kw_only(),
             "rows"_a = py::none());
  module.def("walk_jpeg", &walk_jpeg, "data"_a);
  bind_tokenizer(module);
  bind_parquet_writer(module);
}
