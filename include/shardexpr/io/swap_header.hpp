// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/crc32c.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>

#include <unistd.h>

namespace shardexpr::detail {

/// The first bytes of a rank's file: whose it is. What stands behind the name is zeros.
struct SwapHeader {
  static constexpr std::array<char, 16> right_magic{'s', 'h', 'a', 'r', 'd', 'e', 'x', 'p',
                                                    'r', ' ', 's', 'w', 'a', 'p', ' ', '1'};
  std::array<char, 16> magic = right_magic;
  std::uint64_t process = 0;
  std::uint64_t size_bytes = 0;  // of the state, without this header
  std::array<char, 64> host{};
  std::uint32_t zero = 0;
  std::uint32_t checksum = 0;  // of all before it

  static SwapHeader of_this_process(std::uint64_t size_bytes) {
    SwapHeader header;
    header.process = static_cast<std::uint64_t>(::getpid());
    header.size_bytes = size_bytes;
    ::gethostname(header.host.data(), header.host.size() - 1);
    header.checksum = header.right_checksum();
    return header;
  }

  bool is_valid() const { return magic == right_magic && checksum == right_checksum(); }

  /// "process 17 on node-3"
  std::string owner() const {
    const auto end = std::find(host.begin(), host.end(), '\0');
    return "process " + std::to_string(process) + " on " + std::string{host.begin(), end};
  }

 private:
  std::uint32_t right_checksum() const {
    return crc32c(std::as_bytes(std::span{this, 1}).first(sizeof *this - sizeof checksum));
  }
};
static_assert(std::is_trivially_copyable_v<SwapHeader> &&
              std::has_unique_object_representations_v<SwapHeader>);

}  // namespace shardexpr::detail
