// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

/// One file in memory, under any name, for tests that open it a hundred thousand times. It counts
/// what is asked of it.
struct MemorySystem : shardexpr::detail::LinuxSystem {
  static inline std::string file;
  static inline std::size_t opened = 0, closed = 0, read_bytes = 0, read_outside = 0;

  static int open(const char*, int, mode_t) { return ++opened, 1000; }
  static int close(int) { return ++closed, 0; }
  static int fstat(int, struct stat* to) {
    *to = {};
    to->st_mode = S_IFREG;
    to->st_size = static_cast<off_t>(file.size());
    return 0;
  }
  static ssize_t pread(int, void* to, std::size_t bytes, std::uint64_t offset) {
    if (offset > file.size() || bytes > file.size() - offset) ++read_outside;
    if (offset >= file.size()) return 0;
    const std::size_t count = std::min<std::uint64_t>(bytes, file.size() - offset);
    std::memcpy(to, file.data() + offset, count);
    read_bytes += count;
    return static_cast<ssize_t>(count);
  }
};
