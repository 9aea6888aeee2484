// UTF-8 without surprises: reading one code point, and replacing what is not UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace recap {

inline constexpr char32_t kReplacement = 0xFFFD;

struct CodePoint {
  char32_t value;
  std::size_t size;  // bytes
  bool valid;
};

// The code point at `position` (which must be inside the text). Bytes that are no UTF-8 give kReplacement and the size
// of their maximal subpart (Unicode 16, section 3.9, table 3-8), which is how Python, Rust and the WHATWG encoding
// standard replace them.
CodePoint read_code_point(std::string_view text, std::size_t position);

// The text with one U+FFFD for each maximal subpart that is not UTF-8.
std::string replace_invalid_utf8(std::string_view text);

}  // namespace recap
