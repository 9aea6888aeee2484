#include "core/pretokenizer.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "core/unicode_tables.hpp"

namespace recap {
namespace {

enum class Class { kLetter, kNumber, kSpace, kOther };

// Where a class of unicode_tables.hpp begins and ends, in turn.
template <std::size_t size>
constexpr std::array<char32_t, size> bounds(const std::uint16_t (&runs)[size]) {
  std::array<char32_t, size> sums{};
  for (std::size_t i = 0; i < size; ++i) sums[i] = runs[i] + (i > 0 ? sums[i - 1] : 0);
  return sums;
}

template <std::size_t size>
bool contains(const std::array<char32_t, size>& bounds, char32_t point) {
  return (std::ranges::upper_bound(bounds, point) - bounds.begin()) % 2 == 1;
}

Class class_of(char32_t point) {
  static constexpr auto letters = bounds(kLetters);
  static constexpr auto numbers = bounds(kNumbers);
  static constexpr auto spaces = bounds(kSpaces);
  if (contains(letters, point)) return Class::kLetter;
  if (contains(numbers, point)) return Class::kNumber;
  return contains(spaces, point) ? Class::kSpace : Class::kOther;
}

// One character of the text; at the text's end its size is 0 and it is of no class.
struct Character {
  char32_t value = 0;
  std::size_t begin = 0;
  std::size_t end = 0;
  Class kind = Class::kOther;

  bool is(Class wanted) const { return end > begin && kind == wanted; }
  bool is_newline() const { return is(Class::kSpace) && (value == '\r' || value == '\n'); }
};

Character read(std::string_view text, std::size_t begin) {
  if (begin == text.size()) return {.begin = begin, .end = begin};
  const auto lead = static_cast<unsigned char>(text[begin]);
  const std::size_t size = std::max(1, std::countl_one(lead));
  char32_t value = size == 1 ? lead : lead & (0x7Fu >> size);
  for (const char byte : text.substr(begin + 1, size - 1)) value = (value << 6) | (byte & 0x3Fu);
  return {.value = value, .begin = begin, .end = begin + size, .kind = class_of(value)};
}

template <typename Condition>
std::size_t skip_while(std::string_view text, std::size_t begin, Condition condition) {
  for (Character c = read(text, begin); condition(c); c = read(text, begin)) begin = c.end;
  return begin;
}

std::size_t skip(std::string_view text, std::size_t begin, Class kind) {
  return skip_while(text, begin, [kind](const Character& c) { return c.is(kind); });
}

// What may follow the apostrophe of a contraction, in lower case. U+017F, the long s, folds to s.
constexpr std::array<std::string_view, 8> kContractions = {"s", "t", "re", "ve", "m", "ll", "d", "\xC5\xBF"};

char to_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// (?i:'s|'t|'re|'ve|'m|'ll|'d), where `begin` is at the apostrophe; `begin` where there is none.
std::size_t skip_contraction(std::string_view text, std::size_t begin) {
  for (const std::string_view wanted : kContractions) {
    const std::string_view found = text.substr(begin + 1, wanted.size());
    if (std::equal(found.begin(), found.end(), wanted.begin(), wanted.end(),
                   [](char c, char lower) { return to_lower(c) == lower; })) {
      return begin + 1 + wanted.size();
    }
  }
  return begin;
}

// \p{N}{1,3}, where `first` is the first of them.
std::size_t skip_number(std::string_view text, const Character& first) {
  std::size_t end = first.end;
  for (int count = 1; count < 3; ++count) {
    const Character next = read(text, end);
    if (!next.is(Class::kNumber)) break;
    end = next.end;
  }
  return end;
}

// \s*[\r\n]+|\s+(?!\S)|\s+, where `begin` is at white space: up to the last line break; else all of it, but for the
// last character where a word follows, which may begin with it.
std::size_t skip_spaces(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  std::size_t last_begin = begin;
  std::size_t newlines_end = begin;
  for (Character c = read(text, begin); c.is(Class::kSpace); c = read(text, end)) {
    last_begin = c.begin;
    end = c.end;
    if (c.is_newline()) newlines_end = end;
  }
  if (newlines_end > begin) return newlines_end;
  return end == text.size() || last_begin == begin ? end : last_begin;
}

}  // namespace

std::size_t find_word_end(std::string_view text, std::size_t begin) {
  const Character first = read(text, begin);
  if (first.value == '\'') {
    if (const std::size_t end = skip_contraction(text, begin); end > begin) return end;
  }
  if (first.is(Class::kLetter)) return skip(text, first.end, Class::kLetter);
  if (first.is(Class::kNumber)) return skip_number(text, first);

  const Character second = read(text, first.end);
  if (second.is(Class::kLetter) && !first.is_newline()) {
    return skip(text, second.end, Class::kLetter);
  }
  if (first.is(Class::kOther) || (first.value == ' ' && second.is(Class::kOther))) {
    const std::size_t end = skip(text, first.end, Class::kOther);
    return skip_while(text, end, [](const Character& c) { return c.is_newline(); });
  }
  return skip_spaces(text, begin);
}

}  // namespace recap
