// SPDX-License-Identifier: Apache-2.0
// What rounding to codes does to a block of 64 values: how far off each may be, what survives, and
// that doing it again changes nothing.
#include <shardexpr/core/quantized_block.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

template <class T>
using Values = std::array<T, block_elements>;

template <std::size_t bits, class T>
QuantizedBlock<bits> encoded(const Values<T>& values) {
  QuantizedBlock<bits> block;
  quantize<bits>(values.data(), block);
  return block;
}
template <class T, std::size_t bits>
Values<T> decoded(const QuantizedBlock<bits>& block) {
  Values<T> values{};
  for_each_value(block, [&](std::size_t i, fp32 value) { values[i] = static_cast<T>(value); });
  return values;
}
template <class T>
double largest(const Values<T>& values) {
  double most = 0;
  for (const T& value : values)
    most = std::max(most, std::abs(static_cast<double>(static_cast<float>(value))));
  return most;
}
template <class T>
bool same_bits(const Values<T>& a, const Values<T>& b) {
  return std::bit_cast<std::array<std::byte, sizeof a>>(a) ==
         std::bit_cast<std::array<std::byte, sizeof b>>(b);
}

/// Half the distance of the values of `T` about `x`, if they are fewer than fp32's: what one more
/// rounding may add.
template <class T>
double half_place(double x) {
  if (std::is_same_v<T, fp32>) return 0;  // codes times scale are exact
  constexpr bool is_bf16 = std::is_same_v<T, bf16>;
  constexpr int digits = is_bf16 ? 8 : 11, smallest_exponent = is_bf16 ? -126 : -14;
  const int exponent = x == 0 ? smallest_exponent : std::max(std::ilogb(x), smallest_exponent);
  return std::ldexp(1.0, exponent - digits);
}

/// Numbers from a formula, in [-1, 1).
class Draw {
 public:
  explicit Draw(std::uint32_t seed) : state_{seed} {}
  float operator()() {
    state_ = state_ * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<std::int32_t>(state_ ^ state_ << 13)) * 0x1p-31f;
  }

 private:
  std::uint32_t state_;
};

/// Blocks of one size `scale`: even ones, ones with an element that dwarfs the others, ones with
/// few that are not 0.
template <class T, class Check>
void for_blocks(float scale, Check check) {
  Draw draw{std::bit_cast<std::uint32_t>(scale) >> 3};
  for (int round = 0; round < 60; ++round) {
    Values<T> values{};
    for (T& value : values) {
      float x = draw() * scale;
      if (round % 3 == 1) x *= std::abs(draw() * draw());
      if (round % 3 == 2 && draw() < 0.8f) x = 0;
      value = static_cast<T>(x);
    }
    if (round % 3 == 1) values[static_cast<std::size_t>(round)] = static_cast<T>(scale);
    check(values);
  }
}

template <std::size_t b, class T>
struct Case {
  static constexpr std::size_t bits = b;
  using type = T;
};
#define SHARDEXPR_CASES \
  Case<8, fp32>, Case<4, fp32>, Case<8, bf16>, Case<4, bf16>, Case<8, fp16>, Case<4, fp16>

TEST_CASE_TEMPLATE("each value is within half a step of its own", C, SHARDEXPR_CASES) {
  using T = typename C::type;
  constexpr double steps = C::bits == 8 ? 254 : 14;
  double worst = 0;
  std::size_t blocks = 0;
  const int least = std::is_same_v<T, fp16> ? -24 : -118, most = std::is_same_v<T, fp16> ? 15 : 127;
  for (int exponent = least; exponent <= most; ++exponent)
    for_blocks<T>(std::ldexp(1.0f, exponent), [&](const Values<T>& values) {
      const double a = largest(values);
      if (a == 0) return;
      const Values<T> back = decoded<T>(encoded<C::bits>(values));
      for (std::size_t i = 0; i < values.size(); ++i) {
        const double x = static_cast<float>(values[i]), y = static_cast<float>(back[i]);
        const double bound = a / steps * (1 + 0x1p-15) + half_place<T>(y);
        worst = std::max(worst, std::abs(x - y) / bound);
      }
      ++blocks;
    });
  CHECK(blocks > 2000);
  CHECK(worst <= 1);
  CHECK(worst > 0.95);  // the bound is reached: it would not hide a coarser step
}

TEST_CASE_TEMPLATE("what was made from codes has those codes", C, SHARDEXPR_CASES) {
  using T = typename C::type;
  std::size_t changed = 0, blocks = 0;
  const int least = std::is_same_v<T, fp16> ? -24 : -149, most = std::is_same_v<T, fp16> ? 15 : 127;
  for (int exponent = least; exponent <= most; ++exponent)
    for_blocks<T>(std::ldexp(1.0f, exponent), [&](const Values<T>& values) {
      const Values<T> once = decoded<T>(encoded<C::bits>(values));
      const Values<T> twice = decoded<T>(encoded<C::bits>(once));
      changed += !same_bits(once, twice);
      ++blocks;
    });
  CHECK(blocks > 2000);
  CHECK(changed == 0);
}

TEST_CASE_TEMPLATE("a code times its scale is exact in fp32", C, Case<8, fp32>, Case<4, fp32>) {
  // So that sums of them do not depend on contraction.
  std::size_t inexact = 0, values_seen = 0;
  for (int exponent = -20; exponent <= 20; ++exponent)
    for_blocks<fp32>(std::ldexp(1.0f, exponent), [&](const Values<fp32>& values) {
      const QuantizedBlock<C::bits> block = encoded<C::bits>(values);
      const double scale = static_cast<double>(block.scale);
      for_each_value(block, [&](std::size_t, fp32 value) {
        const double code = std::round(static_cast<double>(value) / scale);
        inexact += code * scale != static_cast<double>(value);  // exact in double
        ++values_seen;
      });
    });
  CHECK(values_seen > 100000);
  CHECK(inexact == 0);
}

TEST_CASE("codes are whole numbers of scales, rounded to nearest, ties to even") {
  Values<fp32> values{};
  values[0] = 127;  // the scale is 1
  const float given[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f, -126.5f, 0.75f, -127, 0};
  const float wanted[] = {0, 2, 2, 0, -2, 126, -126, 1, -127, 0};
  std::copy(std::begin(given), std::end(given), values.begin() + 30);
  const QuantizedBlock<8> block = encoded<8>(values);
  CHECK(block.scale == 1);
  CHECK(block.codes[0] == 127);
  CHECK(block.codes[38] == 129);  // -127
  const Values<fp32> back = decoded<fp32>(block);
  for (std::size_t i = 0; i < std::size(wanted); ++i) CHECK(back[30 + i] == wanted[i]);

  Values<fp32> few{};
  few[1] = 7;
  few[33] = -3.5f;
  few[34] = -2.5f;
  few[63] = -7;
  const QuantizedBlock<4> halves = encoded<4>(few);
  CHECK(halves.scale == 1);
  CHECK(halves.codes[1] == 0xc7);  // value 33 is -4, above value 1, which is 7
  CHECK(halves.codes[2] == 0xe0);
  CHECK(halves.codes[31] == 0x90);
  const Values<fp32> whole = decoded<fp32>(halves);
  CHECK(whole[33] == -4);
  CHECK(whole[34] == -2);
  CHECK(whole[63] == -7);
}

TEST_CASE_TEMPLATE("a value that is not finite makes its block NaN", C, SHARDEXPR_CASES) {
  using T = typename C::type;
  using Limits = std::numeric_limits<float>;
  for (const float bad : {Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN(),
                          -Limits::quiet_NaN(), Limits::signaling_NaN()})
    for (const std::size_t at : {std::size_t{0}, std::size_t{31}, std::size_t{63}}) {
      Values<T> values{};
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<T>(static_cast<float>(i));
      values[at] = static_cast<T>(bad);
      std::size_t nans = 0;
      for (const T& value : decoded<T>(encoded<C::bits>(values)))
        nans += std::isnan(static_cast<float>(value));
      CHECK(nans == block_elements);
    }
}

TEST_CASE_TEMPLATE("the largest stay finite, the smallest vanish, zero is zero", C, Case<8, fp32>,
                   Case<4, fp32>) {
  constexpr float most = std::numeric_limits<float>::max();
  Values<fp32> values{};
  values[3] = most;
  values[4] = -most;
  const Values<fp32> large = decoded<fp32>(encoded<C::bits>(values));
  CHECK(large[3] > most * (1 - 0x1p-14f));
  CHECK(std::isfinite(large[3]));
  CHECK(large[4] == -large[3]);

  // From where the scale is no longer a normal number.
  constexpr float steps = QuantizedBlock<C::bits>::most;
  values = {};
  values[3] = steps * 0x1p-126f;
  CHECK(decoded<fp32>(encoded<C::bits>(values))[3] == values[3]);
  values[3] = std::nextafter(values[3], 0.0f) * (1 - 0x1p-10f);
  CHECK(encoded<C::bits>(values).scale == 0);
  CHECK(same_bits(decoded<fp32>(encoded<C::bits>(values)), Values<fp32>{}));
  CHECK(same_bits(decoded<fp32>(encoded<C::bits>(Values<fp32>{})), Values<fp32>{}));
}

}  // namespace
}  // namespace shardexpr::testing
