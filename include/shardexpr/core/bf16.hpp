// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>

#include <cstdint>

namespace shardexpr {

/// bfloat16: the upper half of a binary32, 8 bits of exponent and 8 of significand, 7 of them
/// stored. Arithmetic happens in fp32, into which it converts by itself; the way back rounds, to
/// nearest and ties to even, and is written out.
///
/// Errors:  none: beyond the largest finite value lies infinity; a NaN stays one, quiet, with its
///          sign and the upper bits of its payload.
/// Cost:    without branches, so that loops over it vectorize.
struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  /// Rounds to nearest, ties to even.
  SHARDEXPR_HOST_DEVICE constexpr explicit bf16(float value) : bits{rounded(value)} {}
  /// By way of fp32: rounded twice.
  SHARDEXPR_HOST_DEVICE constexpr explicit bf16(double value)
      : bf16{static_cast<float>(value)} {}  // rounds twice
  /// Exact.
  SHARDEXPR_HOST_DEVICE constexpr operator float() const {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
  }

 private:
  SHARDEXPR_HOST_DEVICE static constexpr std::uint16_t rounded(float value) {
    const auto x = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t nearest = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (x >> 16) | 0x40u;
    return static_cast<std::uint16_t>((x & 0x7fffffffu) > 0x7f800000u ? quiet : nearest);
  }
};

}  // namespace shardexpr
