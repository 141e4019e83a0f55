// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

namespace shardexpr::detail {

/// Calls `functor(i)` for each i below `count`. The iterations must not meet: the compiler is told
/// so, and vectorizes without asking whether arrays overlap. It is not told so of a functor that
/// has a member `is_loop`: one that loops itself, so that its own loops are vectorized, or that
/// cannot be.
template <class Functor>
[[gnu::always_inline]] inline void for_independent(std::size_t count, const Functor& functor) {
  if constexpr (requires { Functor::is_loop; }) {
    for (std::size_t i = 0; i < count; ++i) functor(i);
  } else {
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpass-failed"  // a functor may call what does not vectorize
#pragma clang loop vectorize(assume_safety)
#elif defined(__GNUC__)
#pragma GCC ivdep
#endif
    for (std::size_t i = 0; i < count; ++i) functor(i);
#if defined(__clang__)
#pragma clang diagnostic pop
#endif
  }
}

}  // namespace shardexpr::detail
