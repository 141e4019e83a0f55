// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/trace.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr::benchmarks {

/// A stretch of time, in nanoseconds.
using Stretch = std::pair<std::int64_t, std::int64_t>;

/// The same time by stretches in order that do not touch.
inline std::vector<Stretch> united(std::vector<Stretch> all) {
  std::sort(all.begin(), all.end());
  std::vector<Stretch> out;
  for (const Stretch& next : all)
    if (!out.empty() && next.first <= out.back().second)
      out.back().second = std::max(out.back().second, next.second);
    else
      out.push_back(next);
  return out;
}
inline std::int64_t length(const std::vector<Stretch>& united) {
  std::int64_t sum = 0;
  for (const auto& [begin, end] : united) sum += end - begin;
  return sum;
}
/// The time that two unions have in common.
inline std::int64_t common(const std::vector<Stretch>& a, const std::vector<Stretch>& b) {
  std::int64_t sum = 0;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    sum += std::max<std::int64_t>(
        0, std::min(a[i].second, b[j].second) - std::max(a[i].first, b[j].first));
    (a[i].second < b[j].second ? i : j) += 1;
  }
  return sum;
}

/// How far a trace has come, so that what comes later can be told apart.
class TraceMark {
 public:
  explicit TraceMark(const Trace& trace) : trace_{trace} {
    for (const auto* stream : trace.streams()) seen_.emplace_back(stream, stream->events().size());
  }
  /// What a stream recorded since then.
  std::span<const detail::TraceEvent> since(const detail::StreamTrace& stream) const {
    const auto seen = std::find_if(seen_.begin(), seen_.end(),
                                   [&](const auto& entry) { return entry.first == &stream; });
    return stream.events().subspan(seen == seen_.end() ? 0 : seen->second);
  }
  /// When the streams of these names were busy since then; of one rank, or of all.
  std::vector<Stretch> busy(std::initializer_list<std::string_view> names,
                            std::optional<std::size_t> rank = {}) const {
    std::vector<Stretch> all;
    for (const auto* stream : trace_.streams()) {
      if (std::find(names.begin(), names.end(), stream->name()) == names.end()) continue;
      if (rank && *rank != stream->rank()) continue;
      for (const auto& event : since(*stream))
        if (event.kind == detail::TraceKind::operation)
          all.emplace_back(event.begin_ns, event.end_ns);
    }
    return united(std::move(all));
  }

 private:
  const Trace& trace_;
  std::vector<std::pair<const detail::StreamTrace*, std::size_t>> seen_;
};

}  // namespace shardexpr::benchmarks
