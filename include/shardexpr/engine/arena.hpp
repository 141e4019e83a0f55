// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/plan/arena_map.hpp>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace shardexpr::detail {

/// Where blocks lie in an arena whose blocks are used on streams: a block that was given back may
/// be taken again at once, and whoever takes it learns what must have happened before.
///
/// Units:   elements.
/// Cost:    allocates nothing after construction.
template <class Timeline>
class Arena {
  using Mark = typename Timeline::Mark;
  using Needs = typename Timeline::Needs;

 public:
  Arena(std::size_t size, std::size_t live_limit) : map_{live_limit}, size_{size} {
    retired_.reserve(4 * live_limit + 16);
    remaining_.reserve(4 * live_limit + 16);
  }

  /// The lowest offset with `count` free; adds to `needs` what last used any of it.
  std::size_t allocate(std::size_t count, Needs& needs) {
    const std::size_t at = map_.allocate(count);
    remaining_.clear();
    for (const Retired& block : retired_) {
      if (block.end <= at || at + count <= block.begin) {
        remaining_.push_back(block);
        continue;
      }
      needs.add(block.mark);
      if (block.begin < at) remaining_.push_back({block.begin, at, block.mark});
      if (at + count < block.end) remaining_.push_back({at + count, block.end, block.mark});
    }
    std::swap(retired_, remaining_);
    live_ += count;
    return at;
  }
  /// `last_use`: the point after which nothing touches the block.
  void release(std::size_t at, std::size_t count, const Mark& last_use) {
    map_.release(at, count);
    retired_.push_back({at, at + count, last_use});
    live_ -= count;
  }
  /// Whether `count` fit now.
  bool fits(std::size_t count) const { return map_.place(count) + count <= size_; }

  std::size_t live() const { return live_; }
  std::size_t size() const { return size_; }

 private:
  struct Retired {
    std::size_t begin, end;
    Mark mark;
  };
  ArenaMap map_;
  std::size_t size_, live_ = 0;
  std::vector<Retired> retired_, remaining_;
};

}  // namespace shardexpr::detail
