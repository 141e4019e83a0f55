// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdlib>

namespace shardexpr::benchmarks {

/// A test runs the benchmarks, on sizes that an emulated GPU can take: what is measured means
/// nothing then.
inline bool is_rehearsal() {
  static const bool is = std::getenv("SHARDEXPR_BENCH_REHEARSAL") != nullptr;
  return is;
}

}  // namespace shardexpr::benchmarks
