// A JPEG's structure, walked before any decoder sees the bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace recap {

// What a walk over a JPEG's markers found (ITU-T T.81, annex B).
struct JpegWalk {
  // The same image without what is no picture: application segments and comments, what lies between segments and what
  // follows the end. JFIF and Adobe segments stay, which say what colors mean, and the EXIF orientation, as the only
  // tag of a segment of its own.
  std::string cleaned;
  int orientation = 1;  // of EXIF, 1 to 8
  std::int64_t num_scans = 0;
  // Whether every segment is what the standard says of 8-bit baseline and progressive Huffman JPEGs, to the end marker.
  // The entropy-coded data are not looked into.
  bool well_formed = false;
};

// Reads nothing outside of `data`, whatever is in it, and takes time linear in its size.
JpegWalk walk_jpeg(std::span<const std::uint8_t> data);

}  // namespace recap
