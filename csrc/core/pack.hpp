// Rows of token ids to the inputs of the engine.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace recap {

using TokenRow = std::span<const std::int32_t>;

// The shape of one prefill: `rows` prompts, each `num_image_tokens` image rows and then `width` rows for its text.
// Flattened, that is the matrix [rows * (num_image_tokens + width)] of new positions.
struct PrefillShape {
  std::int64_t rows;
  std::int64_t num_image_tokens;
  std::int64_t width;
};

// The inputs of one prefill. Rows beyond the given texts are prompts without text.
struct PackedPrompts {
  std::vector<std::int32_t> text_ids;   // [rows, width], 0 after each text's end
  std::vector<std::int64_t> last_rows;  // [rows], the flat row of each prompt's last token
};

// Throws std::invalid_argument for numbers that are no shape, a text longer than the width, a prompt without any token
// and more texts than rows.
PackedPrompts pack_prompts(std::span<const TokenRow> texts, const PrefillShape& shape);

}  // namespace recap
