// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/concepts.hpp>

#include <cstddef>
#include <span>
#include <type_traits>

namespace shardexpr::detail {

/// from -> to in its dtype, equally long and disjoint; enqueued.
template <class D, class From, class To>
void cast(const Context<D>& on, std::span<const From> from, std::span<To> to) {
  if constexpr (std::is_same_v<From, To>)
    on.device.copy(on.stream, from, to);
  else
    on.for_each(to.size(), reads(from), writes(to),
                [from = from.data(), to = to.data()](std::size_t i) {
                  to[i] = static_cast<To>(static_cast<float>(from[i]));
                });
}

}  // namespace shardexpr::detail
