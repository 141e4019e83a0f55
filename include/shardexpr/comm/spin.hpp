// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

namespace shardexpr::detail {

inline constexpr std::size_t cache_line_bytes = 64;

/// Between two looks at a word that another core will write.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace shardexpr::detail
