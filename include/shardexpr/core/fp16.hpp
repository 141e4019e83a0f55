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
  SHARDEXPR_HOST_DEVICE constexpr explicit fp16(float value) : bits{rounded(value)} {}
  SHARDEXPR_HOST_DEVICE constexpr explicit fp16(double value)
      : fp16{static_cast<float>(value)} {}  // rounds twice
  SHARDEXPR_HOST_DEVICE constexpr operator float() const {
    const std::uint32_t sign = (bits & 0x8000u) << 16, x = bits & 0x7fffu;
    const std::uint32_t normal = (x << 13) + rebias;
    const std::uint32_t special = (normal + rebias) | (x > 0x7c00u ? 0x400000u : 0u);
    const auto subnormal =
        __builtin_bit_cast(std::uint32_t, static_cast<float>(static_cast<int>(x)) * 0x1p-24f);
    const std::uint32_t magnitude = x < 0x400u ? subnormal : x < 0x7c00u ? normal : special;
    return __builtin_bit_cast(float, sign | magnitude);
  }

 private:
  static constexpr std::uint32_t rebias = (127u - 15u) << 23;

  SHARDEXPR_HOST_DEVICE static constexpr std::uint16_t rounded(float value) {
    const auto all = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t sign = (all >> 16) & 0x8000u, x = all & 0x7fffffffu;
    const std::uint32_t normal = (x - rebias + 0xfffu + ((x >> 13) & 1u)) >> 13;
    const std::uint32_t special = x > 0x7f800000u ? 0x7e00u | ((x >> 13) & 0x3ffu) : 0x7c00u;
    // Beside 0.5, whose last place weighs 2^-24, the sum rounds as a subnormal does.
    constexpr std::uint32_t smallest_normal = (127u - 14u) << 23, half = 0x3f000000u;
    const float small = __builtin_bit_cast(float, x < smallest_normal ? x : 0u);
    const std::uint32_t subnormal = __builtin_bit_cast(std::uint32_t, small + 0.5f) - half;
    const std::uint32_t magnitude = x < smallest_normal ? subnormal
                                    : x < 0x47800000u   ? normal
                                                        : special;
    return static_cast<std::uint16_t>(sign | magnitude);
  }
};

}  // namespace shardexpr
