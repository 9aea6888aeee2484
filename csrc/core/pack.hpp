// Rows of token ids to the flat inputs of the engine.
#pragma once

#include <cstdint>
#include <span>

#include "core/ragged.hpp"

namespace recap {

using TokenRow = std::span<const std::int32_t>;

// All rows in one buffer.
Ragged pack_rows(std::span<const TokenRow> rows);

// The shape of one prefill: `rows` prompts, each `num_image_tokens` image rows and then `width`
// rows for its text. Flattened, that is the matrix [rows * (num_image_tokens + width)] of new
// positions.
struct PrefillShape {
  std::int64_t rows;
  std::int64_t num_image_tokens;
  std::int64_t prefix_length;  // positions before the image, filled once for all prompts
  std::int64_t width;
};

// Throws std::invalid_argument for numbers that are no shape.
void check_shape(const PrefillShape& shape);

// Where a prefill's inputs are written. Rows beyond the given texts are prompts without text.
struct PrefillInputs {
  std::span<std::int32_t> text_ids;    // [rows, width], 0 after each text's end
  std::span<std::int32_t> lengths;     // [rows], tokens of each text
  std::span<std::int64_t> last_rows;   // [rows], the flat row of each prompt's last token
  std::span<std::int64_t> positions;   // [rows], the position that follows each prompt
  std::span<std::int64_t> image_rows;  // [rows * num_image_tokens], the flat rows of image tokens
  std::span<std::int64_t> text_rows;   // [rows * width], the flat rows of text, padding included
};

// Throws std::invalid_argument for a text longer than the width, for more texts than rows and for
// buffers of another size.
void pack_prompts(std::span<const TokenRow> texts, const PrefillShape& shape,
                  const PrefillInputs& inputs);

}  // namespace recap
