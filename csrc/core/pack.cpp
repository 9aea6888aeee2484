#include "core/pack.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace recap {
namespace {

void check_shape(const PrefillShape& shape) {
  constexpr std::int64_t kMax = 1 << 24;
  constexpr std::int64_t kMaxIds = 1 << 28;
  const auto sizes = {shape.rows, shape.num_image_tokens, shape.width};
  if (shape.rows < 1 || std::ranges::min(sizes) < 0 || std::ranges::max(sizes) > kMax ||
      shape.rows * shape.width > kMaxIds) {
    throw std::invalid_argument("no prefill has " + std::to_string(shape.rows) + " rows of " +
                                std::to_string(shape.num_image_tokens) + " image tokens before " +
                                std::to_string(shape.width) + " text tokens");
  }
}

}  // namespace

PackedPrompts pack_prompts(std::span<const TokenRow> texts, const PrefillShape& shape) {
  check_shape(shape);
  if (std::ssize(texts) > shape.rows) {
    throw std::invalid_argument(std::to_string(texts.size()) + " texts for a prefill of " + std::to_string(shape.rows) +
                                " rows");
  }
  const auto num_rows = static_cast<std::size_t>(shape.rows);
  const auto width = static_cast<std::size_t>(shape.width);
  PackedPrompts packed{.text_ids = std::vector<std::int32_t>(num_rows * width),
                       .last_rows = std::vector<std::int64_t>(num_rows)};
  for (std::size_t i = 0; i < num_rows; ++i) {
    const TokenRow text = i < texts.size() ? texts[i] : TokenRow{};
    if (text.size() > width) {
      throw std::invalid_argument("text " + std::to_string(i) + " has " + std::to_string(text.size()) +
                                  " tokens, the prefill takes " + std::to_string(width));
    }
    if (text.empty() && shape.num_image_tokens == 0) {
      throw std::invalid_argument("prompt " + std::to_string(i) + " has neither image tokens nor text");
    }
    std::ranges::copy(text, packed.text_ids.data() + i * width);
    const std::int64_t first_row = static_cast<std::int64_t>(i) * (shape.num_image_tokens + shape.width);
    packed.last_rows[i] = first_row + shape.num_image_tokens + std::ssize(text) - 1;
  }
  return packed;
}

}  // namespace recap
