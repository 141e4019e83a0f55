// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string_view>

namespace shardexpr {

/// Whom the next operations on a stream serve, as reports and traces write it: "backward 3".
struct Label {
  static constexpr std::size_t no_unit = static_cast<std::size_t>(-1);

  std::string_view what = {};  ///< text that outlives the program's streams: a literal
  std::size_t unit = no_unit;  ///< or group; its place in forward order
};

}  // namespace shardexpr
