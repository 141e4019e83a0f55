// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/model/spec.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace shardexpr {

/// A bijective mix of 64 bits. Source: Steele, Lea & Flood, OOPSLA 2014 (SplitMix64's finalizer).
SHARDEXPR_HOST_DEVICE constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// The initial value of element `i` of the parameter called `name`. It depends on nothing else, so
/// a rank makes its own part and no rank ever holds the whole; and on integer arithmetic, one
/// fp32 product and one sum in double alone, so other programs can make the same weights
/// (tests/fixtures).
///
/// z is the sum of the four 16-bit words of mix(mix(seed ^ hash(name)) + i), centred and divided
/// by its deviation: near normal (kurtosis 2.7), never beyond 3.47.
SHARDEXPR_HOST_DEVICE constexpr float initial_value(std::uint64_t seed, std::uint64_t name_hash,
                                                    std::size_t i, Init init) {
  const std::uint64_t h = mix(mix(seed ^ name_hash) + i);
  const auto words = static_cast<std::int32_t>((h & 0xffff) + ((h >> 16) & 0xffff) +
                                               ((h >> 32) & 0xffff) + (h >> 48));
  const float z = static_cast<float>(words - 131070) * (1.0f / 37837.227f);
  // In double the product is exact, so that contraction could not change the sum.
  return static_cast<float>(static_cast<double>(init.mean) +
                            static_cast<double>(init.spread) * static_cast<double>(z));
}

}  // namespace shardexpr
