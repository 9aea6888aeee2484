// Llama-3's pre-tokenizer: where the words of a text end.
#pragma once

#include <cstddef>
#include <string_view>

namespace recap {

// The end of the word of a text in UTF-8 that begins at `begin` (inside the text, on the border of a code point), as
// this regex (openai/tiktoken's cl100k_base, as Llama-3 uses it) matches it:
// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
// |\s*[\r\n]+|\s+(?!\S)|\s+ It always matches, and the words follow one another without gaps. Time linear in the word,
// white space after it included.
std::size_t find_word_end(std::string_view text, std::size_t begin);

}  // namespace recap
