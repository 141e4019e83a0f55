// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/label.hpp>
#include <shardexpr/device/vector_clock.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr::detail {

enum class Touching { read, write, retire, free };

/// One operation's access, as the log keeps it and reports name it.
struct Touch {
  std::size_t stream = 0;  // its component of the clocks; 0 is the host
  std::uint64_t time = 0;  // on that stream, from 1
  Touching how = Touching::read;
  Label label{};
  SourceLocation where{};
  std::string_view stream_name{};

  friend bool operator==(const Touch& a, const Touch& b) {
    return a.stream == b.stream && a.time == b.time && a.how == b.how;
  }
};

/// Two accesses that no event orders, or one of bytes that are dead.
struct Conflict {
  Touch earlier, now;
  std::uintptr_t begin = 0, end = 0;  // of the bytes that both touch
  bool is_ordered = false;            // then `earlier` released the bytes
};

/// Who touched which bytes last: of each byte the last write and the reads since.
///
/// Cost:    one node a stretch of bytes with one history. A write makes one of all that it covers,
///          and a read takes the place of those that it is ordered behind, so that a program that
///          repeats itself does not grow it.
class AccessLog {
 public:
  /// An allocation that somebody made for `purpose`; its bytes have no history.
  struct Block {
    std::uintptr_t begin = 0;
    std::size_t size_bytes = 0;
    Purpose purpose = Purpose::other;
    bool on_host = false;  // beside the device
  };

  void allocate(const void* data, std::size_t size_bytes, Purpose purpose, bool on_host) {
    forget(data, size_bytes);
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    blocks_[begin] = {begin, size_bytes, purpose, on_host};
  }
  void forget(const void* data, std::size_t size_bytes) {
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    erase(begin, begin + size_bytes);
    blocks_.erase(begin);
  }
  std::optional<Block> block_at(std::uintptr_t at) const {
    auto next = blocks_.upper_bound(at);
    if (next == blocks_.begin()) return std::nullopt;
    const Block& block = std::prev(next)->second;
    if (at - block.begin >= block.size_bytes) return std::nullopt;
    return block;
  }

  /// The first conflict of an access by `now`, whose stream knows `clock`; it is not noted.
  std::optional<Conflict> find(const Access& access, const Touch& now,
                               const VectorClock& clock) const {
    const auto [begin, end] = range_of(access);
    std::optional<Conflict> found;
    if (begin == end) return found;
    for (auto it = first_behind(begin); it != intervals_.end() && it->first < end; ++it) {
      const Touch* earlier = conflict_in(it->second, now, clock);
      if (found) {  // how far does it reach?
        if (earlier == nullptr || !(*earlier == found->earlier) || it->first != found->end) break;
        found->end = std::min(end, it->second.end);
      } else if (earlier != nullptr) {
        found = {*earlier, now, std::max(begin, it->first), std::min(end, it->second.end),
                 covers(clock, *earlier)};
      }
    }
    return found;
  }

  void note(const Access& access, const Touch& now, const VectorClock& clock) {
    const auto [begin, end] = range_of(access);
    if (begin == end) return;
    if (now.how == Touching::read)
      note_read(begin, end, now, clock);
    else
      note_write(begin, end, now);
    merge(begin, end);
  }

  /// Accesses that are kept, one for each stretch of bytes that it is kept for.
  std::size_t size() const {
    std::size_t count = 0;
    for (const auto& [begin, interval] : intervals_)
      count += (interval.write.time != 0) + interval.reads.size();
    return count;
  }

 private:
  struct Interval {
    std::uintptr_t end = 0;
    Touch write{};             // the last; time 0: none
    std::vector<Touch> reads;  // since, of which none is ordered behind another
  };
  using Intervals = std::map<std::uintptr_t, Interval>;  // by their begin

  static std::pair<std::uintptr_t, std::uintptr_t> range_of(const Access& access) {
    const auto begin = reinterpret_cast<std::uintptr_t>(access.data);
    return {begin, begin + access.size_bytes};
  }
  static bool covers(const VectorClock& clock, const Touch& touch) {
    return clock[touch.stream] >= touch.time;
  }

  static const Touch* conflict_in(const Interval& interval, const Touch& now,
                                  const VectorClock& clock) {
    const Touch& write = interval.write;
    if (!covers(clock, write)) return &write;
    if (now.how != Touching::read)
      for (const Touch& read : interval.reads)
        if (!covers(clock, read)) return &read;
    if (write.how == Touching::free) return &write;
    if (write.how == Touching::retire && now.how == Touching::read) return &write;
    return nullptr;
  }

  // The first interval that ends behind `at`.
  Intervals::const_iterator first_behind(std::uintptr_t at) const {
    auto it = intervals_.upper_bound(at);
    if (it != intervals_.begin() && std::prev(it)->second.end > at) --it;
    return it;
  }
  void split(std::uintptr_t at) {
    auto it = intervals_.upper_bound(at);
    if (it == intervals_.begin()) return;
    --it;
    if (it->first == at || it->second.end <= at) return;
    intervals_.emplace_hint(std::next(it), at, it->second);
    it->second.end = at;
  }
  void erase(std::uintptr_t begin, std::uintptr_t end) {
    split(begin);
    split(end);
    intervals_.erase(intervals_.lower_bound(begin), intervals_.lower_bound(end));
  }

  void note_write(std::uintptr_t begin, std::uintptr_t end, const Touch& now) {
    erase(begin, end);
    intervals_.emplace(begin, Interval{end, now, {}});
  }
  void note_read(std::uintptr_t begin, std::uintptr_t end, const Touch& now,
                 const VectorClock& clock) {
    split(begin);
    split(end);
    auto it = intervals_.lower_bound(begin);
    for (std::uintptr_t at = begin; at < end; ++it) {
      if (it == intervals_.end() || it->first > at) {  // bytes without a history
        const std::uintptr_t next = it == intervals_.end() ? end : std::min(end, it->first);
        it = intervals_.emplace_hint(it, at, Interval{next, {}, {}});
      }
      std::erase_if(it->second.reads, [&](const Touch& read) { return covers(clock, read); });
      it->second.reads.push_back(now);
      at = it->second.end;
    }
  }
  void merge(std::uintptr_t begin, std::uintptr_t end) {
    auto it = intervals_.lower_bound(begin);
    if (it != intervals_.begin()) --it;
    while (it != intervals_.end() && it->first < end) {
      const auto next = std::next(it);
      if (next != intervals_.end() && it->second.end == next->first &&
          it->second.write == next->second.write && it->second.reads == next->second.reads) {
        it->second.end = next->second.end;
        intervals_.erase(next);
      } else {
        it = next;
      }
    }
  }

  Intervals intervals_;
  std::map<std::uintptr_t, Block> blocks_;
};

}  // namespace shardexpr::detail
