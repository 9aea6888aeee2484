#include "core/utf8.hpp"

namespace recap {
namespace {

std::size_t sequence_size(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

// The second byte is bounded more tightly where overlong forms, surrogates and > U+10FFFF begin.
bool may_follow(unsigned char lead, std::size_t index, unsigned char byte) {
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (index == 1) {
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  }
  return byte >= low && byte <= high;
}

}  // namespace

CodePoint read_code_point(std::string_view text, std::size_t position) {
  const auto byte_at = [&](std::size_t i) { return static_cast<unsigned char>(text[position + i]); };
  const unsigned char lead = byte_at(0);
  const std::size_t size = sequence_size(lead);
  if (size == 0) return {kReplacement, 1, false};
  if (size == 1) return {lead, 1, true};
  char32_t value = lead & (0x7Fu >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if (position + i == text.size() || !may_follow(lead, i, byte_at(i))) {
      return {kReplacement, i, false};
    }
    value = (value << 6) | (byte_at(i) & 0x3Fu);
  }
  return {value, size, true};
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t position = 0; position < text.size();) {
    const CodePoint point = read_code_point(text, position);
    result += point.valid ? text.substr(position, point.size) : "\xEF\xBF\xBD";
    position += point.size;
  }
  return result;
}

}  // namespace recap
