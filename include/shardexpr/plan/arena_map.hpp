// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

namespace shardexpr {

/// Where blocks lie in an arena: first fit, so the same requests give the same offsets on every
/// rank, in the plan and in the run. Holds no memory itself.
/// Units:   whatever the caller counts in.
class ArenaMap {
 public:
  constexpr ArenaMap() = default;
  /// `live_limit`: the most blocks ever live at once; none is then allocated inside a step.
  constexpr explicit ArenaMap(std::size_t live_limit) { live_.reserve(live_limit + 1); }

  /// The lowest offset with `size` free.
  constexpr std::size_t allocate(std::size_t size) {
    const std::size_t at = place(size);
    live_.insert(std::find_if(live_.begin(), live_.end(),
                              [&](const Block& block) { return block.begin >= at + size; }),
                 {at, at + size});
    high_water_ = std::max(high_water_, at + size);
    return at;
  }
  /// The offset that `allocate` would give.
  constexpr std::size_t place(std::size_t size) const {
    std::size_t at = 0;
    for (const Block& block : live_) {
      if (block.begin >= at + size) break;
      at = block.end;
    }
    return at;
  }
  /// Gives back what `allocate` gave.
  constexpr void release(std::size_t offset, std::size_t size) {
    live_.erase(std::find_if(live_.begin(), live_.end(), [&](const Block& block) {
      return block.begin == offset && block.end == offset + size;
    }));
  }

  /// The end of the highest block there ever was: how large the arena must be.
  constexpr std::size_t high_water() const { return high_water_; }
  /// Whether nothing is allocated.
  constexpr bool empty() const { return live_.empty(); }

 private:
  struct Block {
    std::size_t begin, end;
  };
  std::vector<Block> live_;  // by offset
  std::size_t high_water_ = 0;
};

}  // namespace shardexpr
