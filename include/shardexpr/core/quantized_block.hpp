// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/macros.hpp>

#include <cstddef>
#include <cstdint>

namespace shardexpr {

/// 64 values as whole multiples of one scale: codes from -most to most. This is what quantized
/// collectives send.
///
/// A parameter begins and a part is cut at multiples of 64 elements, so that a block belongs to one
/// parameter and one rank, and holds the same elements whatever the world, the wrap or the sharding
/// (docs/adr/0018-quantized-blocks.md).
///
/// Units:   68 bytes with 8 bits, 36 with 4: 17 and 9 bits a value.
template <std::size_t bits>
struct QuantizedBlock {
  static_assert(bits == 4 || bits == 8, "codes have 4 or 8 bits");
  static constexpr int most = (1 << (bits - 1)) - 1;

  fp32 scale;  ///< with 16 significant bits, so that scale * code is exact; NaN: not finite
  /// In two's complement. Of 4 bits, byte i has value i in its lower half, i + 32 in its upper.
  std::uint8_t codes[block_elements * bits / 8];
};
static_assert(sizeof(QuantizedBlock<8>) == 68 && sizeof(QuantizedBlock<4>) == 36);

/// Blocks of as many elements, a multiple of 64.
constexpr std::size_t block_count(std::size_t elements) { return elements / block_elements; }

namespace detail {

/// The nearest towards 0 with 16 significant bits.
SHARDEXPR_HOST_DEVICE constexpr fp32 with_16_bits(fp32 value) {
  return __builtin_bit_cast(fp32, __builtin_bit_cast(std::uint32_t, value) & ~std::uint32_t{0xff});
}

/// The bits of the largest magnitude. As integers they are ordered alike, NaN above infinity.
template <class T>
[[gnu::always_inline]] SHARDEXPR_HOST_DEVICE inline std::uint32_t largest_bits(
    const T* __restrict from) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < block_elements; ++i) {
    const auto bits = __builtin_bit_cast(std::uint32_t, static_cast<fp32>(from[i])) & 0x7fffffffu;
    largest = largest > bits ? largest : bits;
  }
  return largest;
}

/// The code in the lowest bits: added to 1.5 * 2^23, a value is rounded to a whole number, ties to
/// even, and the sum's last bits are that number's.
SHARDEXPR_HOST_DEVICE inline std::uint32_t code_bits(fp32 value, fp32 inverse) {
  return __builtin_bit_cast(std::uint32_t, multiply_add(value, inverse, 12582912.0f));
}

template <std::size_t bits, class T>
[[gnu::always_inline]] SHARDEXPR_HOST_DEVICE inline void write_codes(const T* __restrict from,
                                                                     fp32 inverse,
                                                                     std::uint8_t* __restrict to) {
  if constexpr (bits == 8)
    for (std::size_t i = 0; i < block_elements; ++i)
      to[i] = static_cast<std::uint8_t>(code_bits(static_cast<fp32>(from[i]), inverse));
  else
    for (std::size_t i = 0; i < block_elements / 2; ++i)
      to[i] = static_cast<std::uint8_t>(
          (code_bits(static_cast<fp32>(from[i]), inverse) & 15u) |
          (code_bits(static_cast<fp32>(from[i + block_elements / 2]), inverse) << 4));
}

}  // namespace detail

/// Rounds 64 values to the nearest multiples of a scale that takes the largest to `most`.
///
/// With a the largest magnitude, what `for_each_value` gives back is at most a / (2 most) from the
/// value, a/254 with 8 bits, a/14 with 4; times 1 + 2^-15, since the codes are found by a product
/// with the scale's inverse. Written in fp32, bf16 or fp16 and quantized again, it gives the same
/// values.
///
/// Errors:  none. A block with an infinity or a NaN is all NaN. One whose scale would be below the
///          smallest normal number, 1.2e-38, is all zero.
template <std::size_t bits, class T>
[[gnu::always_inline]] SHARDEXPR_HOST_DEVICE inline void quantize(const T* from,
                                                                  QuantizedBlock<bits>& to) {
  constexpr std::uint32_t infinity = 0x7f800000u, quiet_nan = 0x7fc00000u;
  constexpr fp32 smallest_normal = 0x1p-126f;
  const std::uint32_t largest = detail::largest_bits(from);
  fp32 scale = detail::with_16_bits(__builtin_bit_cast(fp32, largest) /
                                    static_cast<fp32>(QuantizedBlock<bits>::most));
  fp32 inverse = 1 / scale;
  if (!(scale >= smallest_normal)) scale = inverse = 0;
  if (largest >= infinity) {
    scale = __builtin_bit_cast(fp32, quiet_nan);
    inverse = 0;
  }
  to.scale = scale;
  detail::write_codes<bits>(from, inverse, to.codes);
}

/// Calls `visit(i, value)` for each of the 64 values, in fp32.
template <std::size_t bits, class Visit>
[[gnu::always_inline]] SHARDEXPR_HOST_DEVICE inline void for_each_value(
    const QuantizedBlock<bits>& block, Visit visit) {
  const fp32 scale = block.scale;
  if constexpr (bits == 8) {
    for (std::size_t i = 0; i < block_elements; ++i)
      visit(i, static_cast<fp32>(static_cast<std::int8_t>(block.codes[i])) * scale);
  } else {
    constexpr std::size_t half = block_elements / 2;
    for (std::size_t i = 0; i < half; ++i)
      visit(i, static_cast<fp32>(((block.codes[i] & 15) ^ 8) - 8) * scale);
    for (std::size_t i = 0; i < half; ++i)
      visit(i + half, static_cast<fp32>(((block.codes[i] >> 4) ^ 8) - 8) * scale);
  }
}

}  // namespace shardexpr
