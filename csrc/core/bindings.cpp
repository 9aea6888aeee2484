// The Python face of the library: conversions and the GIL, no logic.
#include <arrow/util/config.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <utility>

#include "core/pack.hpp"
#include "core/parquet_writer.hpp"
#include "core/tokenizer.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using Int32Array = py::array_t<std::int32_t, py::array::c_style>;
using Int64Array = py::array_t<std::int64_t, py::array::c_style>;

// Runs it without the GIL.
template <typename Action>
auto without_gil(Action action) {
  const py::gil_scoped_release release;
  return action();
}

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

py::tuple to_arrays(recap::Ragged ragged) {
  return py::make_tuple(to_array(std::move(ragged.values)), to_array(std::move(ragged.offsets)));
}

template <typename T>
std::span<const T> view(const py::array_t<T, py::array::c_style>& array) {
  if (array.ndim() != 1) throw std::invalid_argument("an array has not one dimension");
  return {array.data(), static_cast<std::size_t>(array.size())};
}

template <typename T>
std::span<T> mutable_view(py::array_t<T, py::array::c_style>& array) {
  return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

std::vector<recap::TokenRow> views(const std::vector<Int32Array>& rows) {
  std::vector<recap::TokenRow> result;
  result.reserve(rows.size());
  for (const auto& row : rows) result.push_back(view(row));
  return result;
}

py::tuple encode_batch(const recap::Tokenizer& tokenizer, const py::sequence& texts) {
  const py::tuple held(texts);  // keeps the strings alive while the GIL is released
  std::vector<std::string_view> views;
  views.reserve(held.size());
  for (const py::handle text : held) views.push_back(utf8_view(text));
  return to_arrays(without_gil([&] { return tokenizer.encode_batch(views); }));
}

// The arrays behind recap::PrefillInputs.
struct PackedPrompts {
  Int32Array text_ids;
  Int32Array lengths;
  Int64Array last_rows;
  Int64Array positions;
  Int64Array image_rows;
  Int64Array text_rows;

  explicit PackedPrompts(const recap::PrefillShape& shape)
      : text_ids({shape.rows, shape.width}),
        lengths(shape.rows),
        last_rows(shape.rows),
        positions(shape.rows),
        image_rows(shape.rows * shape.num_image_tokens),
        text_rows(shape.rows * shape.width) {}
  PackedPrompts(Int32Array text_ids, Int32Array lengths, Int64Array last_rows, Int64Array positions,
                Int64Array image_rows, Int64Array text_rows)
      : text_ids(std::move(text_ids)),
        lengths(std::move(lengths)),
        last_rows(std::move(last_rows)),
        positions(std::move(positions)),
        image_rows(std::move(image_rows)),
        text_rows(std::move(text_rows)) {}

  recap::PrefillInputs inputs() {
    return {mutable_view(text_ids),  mutable_view(lengths),    mutable_view(last_rows),
            mutable_view(positions), mutable_view(image_rows), mutable_view(text_rows)};
  }
};

std::shared_ptr<PackedPrompts> pack_prompts(const std::vector<Int32Array>& texts,
                                            std::int64_t num_image_tokens, std::int64_t width,
                                            std::int64_t prefix_length,
                                            std::optional<std::int64_t> rows,
                                            std::shared_ptr<PackedPrompts> out) {
  const recap::PrefillShape shape{rows.value_or(std::ssize(texts)), num_image_tokens, prefix_length,
                                  width};
  recap::check_shape(shape);
  if (!out) out = std::make_shared<PackedPrompts>(shape);
  const recap::PrefillInputs inputs = out->inputs();
  const auto text_views = views(texts);
  without_gil([&] { recap::pack_prompts(text_views, shape, inputs); });
  return out;
}

// The struct inside a capsule of the Arrow PyCapsule protocol.
template <typename T>
T* unwrap(const py::handle& capsule, const char* name) {
  void* pointer = PyCapsule_GetPointer(capsule.ptr(), name);
  if (pointer == nullptr) throw py::error_already_set();
  return static_cast<T*>(pointer);
}

std::unique_ptr<recap::ParquetWriter> open_writer(const std::filesystem::path& path,
                                                  const py::object& schema, int compression_level,
                                                  std::int64_t max_row_group_rows,
                                                  std::map<std::string, std::string> metadata,
                                                  std::size_t queue_size) {
  const py::object capsule = schema.attr("__arrow_c_schema__")();
  auto* arrow_schema = unwrap<ArrowSchema>(capsule, "arrow_schema");
  recap::ParquetOptions options{compression_level, max_row_group_rows, queue_size,
                                std::move(metadata)};
  return without_gil([&] {
    return std::make_unique<recap::ParquetWriter>(path, arrow_schema, std::move(options));
  });
}

void write_batch(recap::ParquetWriter& writer, const py::object& batch) {
  const py::tuple capsules = batch.attr("__arrow_c_array__")();
  auto* schema = unwrap<ArrowSchema>(capsules[0], "arrow_schema");
  auto* array = unwrap<ArrowArray>(capsules[1], "arrow_array");
  without_gil([&] { writer.write(array, schema); });
}

py::dict close_writer(recap::ParquetWriter& writer) {
  const recap::ParquetSummary summary = without_gil([&] { return writer.close(); });
  return py::dict("rows"_a = summary.rows, "bytes"_a = summary.bytes,
                  "row_groups"_a = summary.row_groups);
}

void exit_writer(recap::ParquetWriter& writer, const py::object& type, const py::object&,
                 const py::object&) {
  without_gil([&, failed = !type.is_none()] {
    if (failed) {
      writer.abort();
    } else {
      writer.close();
    }
  });
}

void bind_tokenizer(py::module_& module) {
  using recap::Tokenizer;
  py::class_<Tokenizer>(module, "Tokenizer", py::is_final())
      .def(py::init<std::vector<std::string>, const std::optional<std::vector<Tokenizer::Merge>>&,
                    std::map<std::string, std::int32_t>, bool>(),
           "tokens"_a, "merges"_a, "special"_a, "ignore_merges"_a)
      .def(
          "encode",
          [](const Tokenizer& self, const py::str& text, bool allow_special) {
            const std::string_view view = utf8_view(text);
            return to_array(without_gil([&] { return self.encode(view, allow_special); }));
          },
          "text"_a, "allow_special"_a = false)
      .def("encode_batch", &encode_batch, "texts"_a)
      .def(
          "detokenize",
          [](const Tokenizer& self, const Int32Array& ids, const Int64Array& offsets) {
            const auto id_view = view(ids);
            const auto offset_view = view(offsets);
            return without_gil([&] { return self.detokenize(id_view, offset_view); });
          },
          "ids"_a, "offsets"_a)
      .def_property_readonly("vocab_size", &Tokenizer::vocab_size)
      .def(
          "token_to_id",
          [](const Tokenizer& self, const py::str& text) {
            return self.token_to_id(utf8_view(text));
          },
          "text"_a);
}

void bind_pack(py::module_& module) {
  py::class_<PackedPrompts, std::shared_ptr<PackedPrompts>>(module, "PackedPrompts", py::is_final())
      .def(py::init<Int32Array, Int32Array, Int64Array, Int64Array, Int64Array, Int64Array>(),
           py::kw_only(), "text_ids"_a.noconvert(), "lengths"_a.noconvert(),
           "last_rows"_a.noconvert(), "positions"_a.noconvert(), "image_rows"_a.noconvert(),
           "text_rows"_a.noconvert())
      .def_readonly("text_ids", &PackedPrompts::text_ids)
      .def_readonly("lengths", &PackedPrompts::lengths)
      .def_readonly("last_rows", &PackedPrompts::last_rows)
      .def_readonly("positions", &PackedPrompts::positions)
      .def_readonly("image_rows", &PackedPrompts::image_rows)
      .def_readonly("text_rows", &PackedPrompts::text_rows);
  module.def(
      "pack_rows",
      [](const std::vector<Int32Array>& rows) {
        const auto row_views = views(rows);
        return to_arrays(without_gil([&] { return recap::pack_rows(row_views); }));
      },
      "rows"_a);
  module.def("pack_prompts", &pack_prompts, "texts"_a, "num_image_tokens"_a, "width"_a,
             py::kw_only(), "prefix_length"_a = 0, "rows"_a = py::none(), "out"_a = py::none());
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
  // Before the interpreter goes: its end kills threads that ask for the GIL, and the process with
  // it.
  py::module_::import("atexit").attr("register")(
      py::cpp_function(&ParquetWriter::abort_all, py::call_guard<py::gil_scoped_release>()));
  // The thread may need the GIL to free a batch, so nobody may wait for it with the GIL held.
  py::class_<ParquetWriter>(module, "ParquetWriter", py::is_final(),
                            py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&open_writer), "path"_a, "schema"_a, py::kw_only(), "compression_level"_a = 3,
           "max_row_group_rows"_a = 10'000,
           "key_value_metadata"_a = std::map<std::string, std::string>(), "queue_size"_a = 4)
      .def("write", &write_batch, "batch"_a)
      .def("close", &close_writer)
      .def("abort", &ParquetWriter::abort, py::call_guard<py::gil_scoped_release>())
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", &exit_writer, "type"_a, "value"_a, "traceback"_a);
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.attr("ARROW_VERSION") = ARROW_VERSION_STRING;
  bind_tokenizer(module);
  bind_pack(module);
  bind_parquet_writer(module);
}
