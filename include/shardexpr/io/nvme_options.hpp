// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdio>
#include <string>

namespace shardexpr {
namespace detail {

inline void print_notice(const std::string& line) {
  std::fprintf(stderr, "shardexpr: %s\n", line.c_str());
}

}  // namespace detail

/// Where a rank keeps state on a disk, and how.
struct NvmeOptions {
  /// A directory on a disk of this machine. It exists and is writable; no other run uses it.
  std::string directory;
  /// Pieces of at most 1 MiB that are read at once at most, and as many that are written; 1 to
  /// 4096.
  std::size_t queue_depth = 32;
  /// Called with one line, without a newline, where the library goes on in another way than was to
  /// be expected. It may be called by several ranks at once.
  void (*notice)(const std::string& line) = &detail::print_notice;
};

}  // namespace shardexpr
