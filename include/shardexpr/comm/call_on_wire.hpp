// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace shardexpr::detail {

/// A call as processes tell it to each other: plain bytes, without addresses.
class CallOnWire {
 public:
  CallOnWire() = default;
  explicit CallOnWire(const Call& call)
      : sequence_{call.sequence},
        count_{call.count},
        root_{call.root},
        unit_{call.unit},
        dtype_hash_{hash(call.dtype)},
        collective_{static_cast<std::uint32_t>(call.collective)},
        reduction_{static_cast<std::uint32_t>(call.reduction)} {
    std::copy_n(call.dtype.data(), std::min(call.dtype.size(), dtype_.size()), dtype_.begin());
  }

  /// Refers to this object; a long name of a dtype is cut.
  Call call() const {
    const auto end = std::find(dtype_.begin(), dtype_.end(), '\0');
    return {.collective = static_cast<Collective>(collective_),
            .sequence = sequence_,
            .dtype = {dtype_.data(), static_cast<std::size_t>(end - dtype_.begin())},
            .count = count_,
            .reduction = static_cast<Reduction>(reduction_),
            .root = root_,
            .unit = unit_};
  }
  friend bool operator==(const CallOnWire&, const CallOnWire&) = default;

 private:
  // FNV-1a
  static constexpr std::uint64_t hash(std::string_view text) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const char c : text)
      hash = (hash ^ static_cast<unsigned char>(c)) * std::uint64_t{0x100000001b3u};
    return hash;
  }

  std::uint64_t sequence_ = 0, count_ = 0, root_ = 0, unit_ = 0;
  std::uint64_t dtype_hash_ = 0;  // of the whole name
  std::uint32_t collective_ = 0, reduction_ = 0;
  std::array<char, 24> dtype_{};
};

}  // namespace shardexpr::detail
