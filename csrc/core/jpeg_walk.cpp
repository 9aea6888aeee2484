#include "core/jpeg_walk.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>

namespace recap {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr std::uint8_t kRst0 = 0xD0, kRst7 = 0xD7, kSoi = 0xD8, kEoi = 0xD9, kSos = 0xDA, kDqt = 0xDB, kDri = 0xDD;
constexpr std::uint8_t kDht = 0xC4, kSof0 = 0xC0, kSof2 = 0xC2, kApp0 = 0xE0, kApp1 = 0xE1, kApp14 = 0xEE;
constexpr std::uint8_t kApp15 = 0xEF, kCom = 0xFE, kTem = 0x01;

bool starts_with(Bytes data, std::string_view prefix) {
  return data.size() >= prefix.size() && std::memcmp(data.data(), prefix.data(), prefix.size()) == 0;
}

std::size_t big_endian(Bytes data, std::size_t at) { return static_cast<std::size_t>(data[at]) << 8 | data[at + 1]; }

// Numbers of a TIFF in either byte order; whoever reads has made sure that they lie inside.
class Tiff {
 public:
  explicit Tiff(Bytes data) : data_(data), little_(starts_with(data, {"II*\0", 4})) {}

  bool is_valid() const { return data_.size() >= 8 && (little_ || starts_with(data_, {"MM\0*", 4})); }
  std::size_t size() const { return data_.size(); }
  std::size_t number(std::size_t at, std::size_t size) const {
    std::size_t value = 0;
    for (std::size_t i = 0; i < size; ++i) value = value << 8 | data_[at + (little_ ? size - 1 - i : i)];
    return value;
  }

 private:
  Bytes data_;
  bool little_;
};

constexpr std::size_t kEntrySize = 12;

// The value of a directory's entry, an orientation of type BYTE, SHORT or LONG; 1 for what is none.
int orientation_of(const Tiff& tiff, std::size_t entry) {
  const std::size_t type = tiff.number(entry + 2, 2);
  const std::size_t size = type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0;
  if (size == 0 || tiff.number(entry + 4, 4) != 1) return 1;
  const std::size_t value = tiff.number(entry + 8, size);
  return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
}

// The orientation in the first directory of EXIF data that begin with a TIFF header; 1 where there is none.
int read_orientation(Bytes exif) {
  const Tiff tiff(exif);
  if (!tiff.is_valid()) return 1;
  const std::size_t directory = tiff.number(4, 4);
  if (directory > tiff.size() || tiff.size() - directory < 2) return 1;
  constexpr std::size_t kOrientation = 0x0112;
  const std::size_t count = std::min(tiff.number(directory, 2), (tiff.size() - directory - 2) / kEntrySize);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t entry = directory + 2 + i * kEntrySize;
    if (tiff.number(entry, 2) == kOrientation) return orientation_of(tiff, entry);
  }
  return 1;
}

std::string orientation_segment(int orientation) {
  constexpr std::string_view kHead(
      "\xFF\xE1\0\x22"
      "Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0",
      29);
  std::string segment(kHead);
  segment += static_cast<char>(orientation);
  return segment.append(6, '\0');  // the value's padding and the offset of a next directory: there is none
}

class Walker {
 public:
  explicit Walker(Bytes data) : data_(data) {}

  JpegWalk walk() {
    if (data_.size() < 2 || data_[0] != 0xFF || data_[1] != kSoi) return {};
    walk_.cleaned.reserve(data_.size());
    keep(0, 2);
    at_ = 2;
    bool ended = false;
    while (!ended && next_marker()) ended = take_marker();
    walk_.well_formed = good_ && ended && frame_.components != 0 && walk_.num_scans != 0;
    return std::move(walk_);
  }

 private:
  struct Frame {
    std::size_t components = 0;
    bool progressive = false;
    std::array<std::uint8_t, 3> ids{}, tables{};
  };

  void keep(std::size_t begin, std::size_t end) {
    walk_.cleaned.append(reinterpret_cast<const char*>(data_.data()) + begin, end - begin);
  }

  // Goes to the next marker's code, past fill bytes; false at the end of the data.
  bool next_marker() {
    const std::size_t begin = at_;
    while (at_ < data_.size()) {
      const auto* found = static_cast<const std::uint8_t*>(std::memchr(&data_[at_], 0xFF, data_.size() - at_));
      if (found == nullptr) break;
      at_ = static_cast<std::size_t>(found - data_.data()) + 1;
      good_ = good_ && at_ == begin + 1;
      while (at_ < data_.size() && data_[at_] == 0xFF) ++at_;
      marker_ = at_ - 1;
      if (at_ < data_.size() && data_[at_] != 0) return true;
      good_ = false;
    }
    return false;
  }

  // Takes the marker whose code is at `at_`, with its segment; true where it ends the image.
  bool take_marker() {
    const std::uint8_t code = data_[at_++];
    if (code == kEoi && walk_.num_scans != 0) {
      walk_.cleaned += "\xFF\xD9";
      return true;
    }
    if (code == kTem || (code >= kRst0 && code <= kEoi)) {
      good_ = false;
      walk_.cleaned += '\xFF';
      walk_.cleaned += static_cast<char>(code);
      return false;
    }
    const std::size_t left = data_.size() - at_;
    const std::size_t length = left < 2 ? 0 : big_endian(data_, at_);
    if (length < 2 || length > left) {  // cut or damaged: what is left is for Pillow to judge
      good_ = false;
      keep(marker_, data_.size());
      at_ = data_.size();
      return false;
    }
    const Bytes content = data_.subspan(at_ + 2, length - 2);
    at_ += length;
    if ((code >= kApp0 && code <= kApp15) || code == kCom) {
      take_metadata(code, content);
      return false;
    }
    keep(marker_, at_);
    good_ = good_ && is_valid(code, content);
    if (code == kSos) skip_scan();
    return false;
  }

  void take_metadata(std::uint8_t code, Bytes content) {
    const bool jfif = code == kApp0 && content.size() >= 14 && starts_with(content, {"JFIF\0", 5});
    const bool adobe = code == kApp14 && content.size() >= 12 && starts_with(content, "Adobe");
    if (jfif || adobe) keep(marker_, at_);
    if (code == kApp1 && !has_exif_ && starts_with(content, {"Exif\0\0", 6})) {
      has_exif_ = true;
      walk_.orientation = read_orientation(content.subspan(6));
      if (walk_.orientation != 1) walk_.cleaned += orientation_segment(walk_.orientation);
    }
  }

  // Keeps the entropy-coded data behind a scan's header, up to the marker that ends them.
  void skip_scan() {
    ++walk_.num_scans;
    const std::size_t begin = at_;
    while (at_ < data_.size()) {
      const auto* found = static_cast<const std::uint8_t*>(std::memchr(&data_[at_], 0xFF, data_.size() - at_));
      if (found == nullptr) break;
      at_ = static_cast<std::size_t>(found - data_.data());
      if (at_ + 1 == data_.size()) break;
      const std::uint8_t next = data_[at_ + 1];
      if (next != 0 && next != 0xFF && (next < kRst0 || next > kRst7)) {
        keep(begin, at_);
        return;
      }
      at_ += next == 0xFF ? 1 : 2;
    }
    at_ = data_.size();
    keep(begin, at_);
  }

  bool is_valid(std::uint8_t code, Bytes content) {
    switch (code) {
      case kDqt:
        return is_valid_dqt(content);
      case kDht:
        return is_valid_dht(content);
      case kDri:
        return content.size() == 2;
      case kSos:
        return is_valid_scan(content);
      default:
        return code >= kSof0 && code <= kSof2 && take_frame(code, content);
    }
  }

  bool is_valid_dqt(Bytes content) {
    while (!content.empty()) {
      const std::size_t size = 1 + (content[0] >> 4 == 0 ? 64 : 128);
      const std::size_t id = content[0] & 15;
      if (content[0] >> 4 > 1 || id > 3 || content.size() < size) return false;
      quantization_[id] = true;
      content = content.subspan(size);
    }
    return true;
  }

  // The counts of codes by length must fit into a prefix code, and a DC difference has up to 15 bits.
  bool is_valid_dht(Bytes content) {
    while (!content.empty()) {
      if (content.size() < 17 || content[0] >> 4 > 1 || (content[0] & 15) > 3) return false;
      std::size_t symbols = 0, taken = 0;
      for (std::size_t length = 1; length <= 16; ++length) {
        symbols += content[length];
        taken += static_cast<std::size_t>(content[length]) << (16 - length);
      }
      if (symbols > 256 || taken > 1U << 16 || content.size() < 17 + symbols) return false;
      const bool dc = content[0] >> 4 == 0;
      const Bytes coded = content.subspan(17, symbols);
      if (dc && std::ranges::any_of(coded, [](std::uint8_t bits) { return bits > 15; })) return false;
      huffman_[content[0] >> 4][content[0] & 15] = true;
      content = content.subspan(17 + symbols);
    }
    return true;
  }

  bool take_frame(std::uint8_t code, Bytes content) {
    if (frame_.components != 0 || content.size() < 6 || content[0] != 8) return false;
    const std::size_t components = content[5];
    if ((components != 1 && components != 3) || content.size() != 6 + 3 * components) return false;
    if (big_endian(content, 1) == 0 || big_endian(content, 3) == 0) return false;
    for (std::size_t i = 0; i < components; ++i) {
      if (!take_component(i, content.subspan(6 + 3 * i, 3))) return false;
    }
    frame_.components = components;
    frame_.progressive = code == kSof2;
    return true;
  }

  bool take_component(std::size_t index, Bytes component) {
    const auto is_factor = [](int value) { return value >= 1 && value <= 4; };
    if (!is_factor(component[1] >> 4) || !is_factor(component[1] & 15) || component[2] > 3) return false;
    const auto end = frame_.ids.begin() + static_cast<std::ptrdiff_t>(index);
    if (std::find(frame_.ids.begin(), end, component[0]) != end) return false;
    frame_.ids[index] = component[0];
    frame_.tables[index] = component[2];
    return true;
  }

  bool is_valid_scan(Bytes content) const {
    if (content.empty() || frame_.components == 0) return false;
    const std::size_t components = content[0];
    if (components < 1 || components > frame_.components || content.size() != 4 + 2 * components) return false;
    const Bytes spectrum = content.last(3);
    if (!(frame_.progressive ? is_progressive(spectrum, components) : is_sequential(spectrum))) return false;
    const bool dc = spectrum[0] == 0 && spectrum[2] >> 4 == 0, ac = spectrum[1] != 0;
    for (std::size_t i = 0; i < components; ++i) {
      if (!is_valid_selector(content[1 + 2 * i], content[2 + 2 * i], dc, ac)) return false;
    }
    return true;
  }

  static bool is_sequential(Bytes spectrum) { return spectrum[0] == 0 && spectrum[1] == 63 && spectrum[2] == 0; }

  static bool is_progressive(Bytes spectrum, std::size_t components) {
    const int first = spectrum[0], last = spectrum[1], high = spectrum[2] >> 4, low = spectrum[2] & 15;
    const bool band = first == 0 ? last == 0 : first <= last && last <= 63 && components == 1;
    return band && low <= 13 && (high == 0 || high == low + 1);
  }

  // Whether a component of a scan is one of the frame, and its tables are there.
  bool is_valid_selector(std::uint8_t id, std::uint8_t tables, bool dc, bool ac) const {
    const auto end = frame_.ids.begin() + static_cast<std::ptrdiff_t>(frame_.components);
    const auto found = std::find(frame_.ids.begin(), end, id);
    if (found == end || tables >> 4 > 3 || (tables & 15) > 3) return false;
    const auto index = static_cast<std::size_t>(found - frame_.ids.begin());
    return quantization_[frame_.tables[index]] && (!dc || huffman_[0][tables >> 4]) &&
           (!ac || huffman_[1][tables & 15]);
  }

  Bytes data_;
  JpegWalk walk_;
  Frame frame_;
  std::array<bool, 4> quantization_{};
  std::array<std::array<bool, 4>, 2> huffman_{};
  std::size_t at_ = 0;      // where the walk is
  std::size_t marker_ = 0;  // where the marker begins that is being taken
  bool good_ = true;        // so far
  bool has_exif_ = false;
};

}  // namespace

JpegWalk walk_jpeg(std::span<const std::uint8_t> data) { return Walker(data).walk(); }

}  // namespace recap
