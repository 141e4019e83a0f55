// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <fstream>
#include <istream>
#include <limits>
#include <string>

namespace shardexpr::detail {

/// What Linux says in /proc/meminfo that programs could still allocate, in bytes.
/// Errors:  none: what is not said there is no limit.
inline std::size_t available_host_bytes(std::istream& meminfo) {
  std::string name, unit;
  std::size_t size = 0;
  while (meminfo >> name >> size && std::getline(meminfo, unit))
    if (name == "MemAvailable:" && unit == " kB") return size << 10;
  return std::numeric_limits<std::size_t>::max();
}
inline std::size_t available_host_bytes() {
  std::ifstream meminfo{"/proc/meminfo"};
  return available_host_bytes(meminfo);
}

}  // namespace shardexpr::detail
