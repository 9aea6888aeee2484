// Rows of unequal length in one buffer, as Arrow's lists have them.
#pragma once

#include <cstdint>
#include <vector>

namespace recap {

// Row i is values[offsets[i] .. offsets[i + 1]); there is one offset more than rows.
struct Ragged {
  std::vector<std::int32_t> values;
  std::vector<std::int64_t> offsets;
};

}  // namespace recap
