// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace shardexpr::detail {

/// What a stream, an event or the host knows to be done: of each stream, its operations up to a
/// time. An operation is ordered behind another if its stream's clock has reached the other's time.
///
/// Source:  Fidge, Mattern, 1988; epochs as in Flanagan & Freund, FastTrack, PLDI 2009.
class VectorClock {
 public:
  std::uint64_t operator[](std::size_t component) const {
    return component < times_.size() ? times_[component] : 0;
  }
  void raise(std::size_t component, std::uint64_t time) {
    if (component >= times_.size()) times_.resize(component + 1);
    times_[component] = std::max(times_[component], time);
  }
  void join(const VectorClock& other) {
    for (std::size_t i = 0; i < other.times_.size(); ++i) raise(i, other.times_[i]);
  }

 private:
  std::vector<std::uint64_t> times_;
};

}  // namespace shardexpr::detail
