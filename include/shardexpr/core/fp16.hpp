// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>

#include <cstdint>

namespace shardexpr {

/// IEEE binary16: 5 bits of exponent, 11 of significand, subnormals down to 2^-24, at most 65504.
/// Arithmetic happens in fp32, into which it converts by itself; the way back rounds, to nearest
/// and ties to even, and is written out.
///
/// Errors:  none: from 65520 on lies infinity; a NaN stays one, quiet, with its sign and the upper
///          bits of its payload.
/// Cost:    without branches, so that loops over it vectorize.
struct fp16 {
  std::uint16_t bits;

  fp16() = default;
  /// Rounds to nearest, ties to even.
  SHARDEXPR_HOST_DEVICE constexpr explicit fp16(float value) : bits{rounded(value)} {}
  /// By way of fp32: rounded twice.
  SHARDEXPR_HOST_DEVICE constexpr explicit fp16(double value)
      : fp16{static_cast<float>(value)} {}  // rounds twice
  /// Exact.
  SHARDEXPR_HOST_DEVICE constexpr operator float() const {
    // Up to the smallest normal number the pattern counts 2^-24; from there on it runs beside
    // that of a float.
    const std::uint32_t sign = (bits & 0x8000u) << 16, x = bits & 0x7fffu;
    const std::uint32_t low = x < 0x400u ? x : 0x400u;
    const auto small =
        __builtin_bit_cast(std::uint32_t, static_cast<float>(static_cast<int>(low)) * 0x1p-24f);
    const std::uint32_t finite = small + ((x - low) << 13);
    const std::uint32_t beyond = x > 0x7bffu ? (127u - 15u) << 23 : 0u;  // to exponent 255
    const std::uint32_t quiet = x > 0x7c00u ? 0x400000u : 0u;
    return __builtin_bit_cast(float, sign | quiet | (finite + beyond));
  }

 private:
  // Beside a power of two whose last place is that of the result, a sum rounds as the result does.
  // No value is chosen that a float operation makes: g++ would branch around it and not vectorize.
  SHARDEXPR_HOST_DEVICE static constexpr std::uint16_t rounded(float value) {
    constexpr std::uint32_t smallest = (127u - 14u) << 23, infinity = (127u + 16u) << 23;
    const auto all = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t sign = (all >> 16) & 0x8000u, x = all & 0x7fffffffu;
    const std::uint32_t bounded = x < infinity ? x : infinity, power = bounded & 0x7f800000u;
    const std::uint32_t exponent = power > smallest ? power : smallest;
    const std::uint32_t beside = exponent + (13u << 23);
    const auto sum = __builtin_bit_cast(
        std::uint32_t, __builtin_bit_cast(float, bounded) + __builtin_bit_cast(float, beside));
    const std::uint32_t magnitude = ((exponent - smallest) >> 13) + (sum - beside);
    const std::uint32_t nan = x > 0x7f800000u ? 0x200u | ((x >> 13) & 0x3ffu) : 0u;
    return static_cast<std::uint16_t>(sign | nan | magnitude);
  }
};

}  // namespace shardexpr
