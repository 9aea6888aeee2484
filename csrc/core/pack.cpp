#include "core/pack.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace recap {
namespace {

void check_size(const char* name, std::size_t size, std::int64_t expected) {
  if (size != static_cast<std::size_t>(expected)) {
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(size) +
                                " elements, expected " + std::to_string(expected));
  }
}

void check_inputs(const PrefillShape& shape, const PrefillInputs& inputs) {
  check_size("text_ids", inputs.text_ids.size(), shape.rows * shape.width);
  check_size("lengths", inputs.lengths.size(), shape.rows);
  check_size("last_rows", inputs.last_rows.size(), shape.rows);
  check_size("positions", inputs.positions.size(), shape.rows);
  check_size("image_rows", inputs.image_rows.size(), shape.rows * shape.num_image_tokens);
  check_size("text_rows", inputs.text_rows.size(), shape.rows * shape.width);
}

void check_texts(std::span<const TokenRow> texts, const PrefillShape& shape) {
  if (texts.size() > static_cast<std::size_t>(shape.rows)) {
    throw std::invalid_argument(std::to_string(texts.size()) + " texts for a prefill of " +
                                std::to_string(shape.rows) + " rows");
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].size() > static_cast<std::size_t>(shape.width)) {
      throw std::invalid_argument("text " + std::to_string(i) + " has " +
                                  std::to_string(texts[i].size()) + " tokens, the prefill takes " +
                                  std::to_string(shape.width));
    }
  }
}

}  // namespace

void check_shape(const PrefillShape& shape) {
  if (shape.rows < 1 || shape.num_image_tokens < 1 || shape.prefix_length < 0 || shape.width < 0) {
    throw std::invalid_argument("no prefill has " + std::to_string(shape.rows) + " rows of " +
                                std::to_string(shape.num_image_tokens) + " image tokens after " +
                                std::to_string(shape.prefix_length) + " and before " +
                                std::to_string(shape.width) + " text tokens");
  }
}

Ragged pack_rows(std::span<const TokenRow> rows) {
  Ragged result{.values = {}, .offsets = {0}};
  std::size_t size = 0;
  for (const TokenRow row : rows) size += row.size();
  result.values.reserve(size);
  result.offsets.reserve(rows.size() + 1);
  for (const TokenRow row : rows) {
    result.values.insert(result.values.end(), row.begin(), row.end());
    result.offsets.push_back(static_cast<std::int64_t>(result.values.size()));
  }
  return result;
}

void pack_prompts(std::span<const TokenRow> texts, const PrefillShape& shape,
                  const PrefillInputs& inputs) {
  check_shape(shape);
  check_inputs(shape, inputs);
  check_texts(texts, shape);
  auto image_row = inputs.image_rows.begin();
  auto text_row = inputs.text_rows.begin();
  for (std::int64_t i = 0; i < shape.rows; ++i) {
    const TokenRow text = i < std::ssize(texts) ? texts[i] : TokenRow{};
    const auto row_ids = inputs.text_ids.subspan(i * shape.width, shape.width);
    std::fill(std::copy(text.begin(), text.end(), row_ids.begin()), row_ids.end(), 0);

    const std::int64_t first_row = i * (shape.num_image_tokens + shape.width);
    const std::int64_t prompt_size = shape.num_image_tokens + std::ssize(text);
    inputs.lengths[i] = static_cast<std::int32_t>(text.size());
    inputs.last_rows[i] = first_row + prompt_size - 1;
    inputs.positions[i] = shape.prefix_length + prompt_size;
    for (std::int64_t j = 0; j < shape.num_image_tokens; ++j) *image_row++ = first_row + j;
    for (std::int64_t j = 0; j < shape.width; ++j) {
      *text_row++ = first_row + shape.num_image_tokens + j;
    }
  }
}

}  // namespace recap
