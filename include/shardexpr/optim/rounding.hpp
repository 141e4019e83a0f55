// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bf16.hpp>
#include <shardexpr/core/fp16.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/policy/rounding.hpp>

#include <cstddef>
#include <cstdint>

namespace shardexpr {

/// The dtype's nearest value, ties to even.
struct NearestRounding {
  NearestRounding() = default;
  NearestRounding(std::uint64_t /*seed*/, std::size_t /*step*/) {}

  template <class T>
  SHARDEXPR_HOST_DEVICE T round(float value, float /*gradient*/) const {
    return static_cast<T>(value);
  }
};

namespace detail {

/// A magnitude cut to a 16-bit dtype: the bits that stay, and the rest in units of 2^-32 of the
/// last place. `largest`: the bits of the largest finite value, as fp32.
struct Cut {
  std::uint32_t bits, rest;
};
template <class T>
struct cut_to;
template <>
struct cut_to<bf16> {
  static constexpr std::uint32_t largest = 0x7f7f0000u;
  SHARDEXPR_HOST_DEVICE static Cut of(std::uint32_t magnitude) {
    return {magnitude >> 16, magnitude << 16};
  }
};
template <>
struct cut_to<fp16> {
  static constexpr std::uint32_t largest = 0x477fe000u;
  SHARDEXPR_HOST_DEVICE static Cut of(std::uint32_t magnitude) {
    // The significand is cut behind 11 bits; below the smallest normal value, earlier by as many
    // bits as the exponent is smaller.
    constexpr std::uint32_t smallest = 127 - 14;
    const std::uint32_t exponent = magnitude >> 23;
    const std::uint32_t missing = smallest - (exponent < smallest ? exponent : smallest);
    const std::uint64_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    const std::uint64_t cut = (significand << 32) >> (13 + (missing < 50 ? missing : 50));
    const std::uint32_t of_exponent = (exponent + missing - smallest) << 10;
    return {of_exponent + static_cast<std::uint32_t>(cut >> 32), static_cast<std::uint32_t>(cut)};
  }
};

/// A bijective mix of 32 bits. Source: Wellons, Prospecting for Hash Functions, 2018 (lowbias32).
SHARDEXPR_HOST_DEVICE constexpr std::uint32_t mix32(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

}  // namespace detail

/// The dtype's value below or above, with the probability of the distance to the other. Values of
/// the dtype stay; infinity and NaN too; what lies beyond the largest finite value is rounded to
/// nearest, so that chance does not decide what overflows.
///
/// The random bits are a hash of seed, step, the value and the gradient: they do not depend on
/// where an element lies or on which rank (docs/adr/0017-random-bits-from-values.md).
///
/// Cost:    two 32-bit mixes; without branches, so that loops over it vectorize.
class StochasticRounding {
 public:
  StochasticRounding(std::uint64_t seed, std::size_t step) {
    const std::uint64_t key = mix(mix(seed) + step);
    low_ = static_cast<std::uint32_t>(key);
    high_ = static_cast<std::uint32_t>(key >> 32);
  }

  template <class T>
  SHARDEXPR_HOST_DEVICE T round(float value, float gradient) const {
    static_assert(sizeof(T) == 2, "an fp32 result is rounded to 16 bits, or not at all");
    const auto x = __builtin_bit_cast(std::uint32_t, value);
    const auto g = __builtin_bit_cast(std::uint32_t, gradient);
    const std::uint32_t noise = detail::mix32((detail::mix32(x ^ low_) + g) ^ high_);
    const std::uint32_t magnitude = x & 0x7fffffffu;
    const detail::Cut cut = detail::cut_to<T>::of(magnitude);
    const std::uint32_t rounded = ((x >> 16) & 0x8000u) | (cut.bits + (noise < cut.rest ? 1u : 0u));
    const std::uint32_t nearest = static_cast<T>(value).bits;
    return __builtin_bit_cast(
        T, static_cast<std::uint16_t>(magnitude <= detail::cut_to<T>::largest ? rounded : nearest));
  }

 private:
  std::uint32_t low_, high_;
};

}  // namespace shardexpr
