// SPDX-License-Identifier: Apache-2.0
// bf16 and fp16 against the definition of their formats, in double arithmetic.
#include <shardexpr/core/dtype.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

/// A binary format as IEEE 754 defines it, by the bits of its fraction and its largest exponent.
template <class T>
struct Format;
template <>
struct Format<bf16> {
  static constexpr int fraction_bits = 7, largest_exponent = 127;
  static constexpr bool widening_quiets = false;  // it only shifts
};
template <>
struct Format<fp16> {
  static constexpr int fraction_bits = 10, largest_exponent = 15;
  static constexpr bool widening_quiets = true;  // as processors do
};

template <class T>
struct Reference : Format<T> {
  using Format<T>::fraction_bits;
  using Format<T>::largest_exponent;
  static constexpr int smallest_exponent = 1 - largest_exponent;
  static constexpr std::uint16_t infinity =
      static_cast<std::uint16_t>((2 * largest_exponent + 1) << fraction_bits);
  static constexpr std::uint16_t quiet = 1u << (fraction_bits - 1);

  static bool is_nan(std::uint16_t bits) { return (bits & 0x7fffu) > infinity; }

  /// What a pattern stands for. Infinity is read as the value that would follow the largest.
  static double value(std::uint16_t bits) {
    const int exponent = (bits & 0x7fff) >> fraction_bits;
    const int fraction = bits & ((1 << fraction_bits) - 1);
    const double magnitude = exponent == 0
                                 ? std::ldexp(fraction, smallest_exponent - fraction_bits)
                                 : std::ldexp(fraction + (1 << fraction_bits),
                                              exponent - largest_exponent - fraction_bits);
    return bits & 0x8000u ? -magnitude : magnitude;
  }

  /// The nearest value, ties to even, as the pattern that stands for it.
  static std::uint16_t rounded(float x) {
    const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) {
      const std::uint32_t payload = std::bit_cast<std::uint32_t>(x) & 0x7fffffu;
      return static_cast<std::uint16_t>(sign | infinity | quiet |
                                        (payload >> (23 - fraction_bits)));
    }
    const double magnitude = std::abs(static_cast<double>(x));
    if (std::isinf(x)) return sign | infinity;
    if (magnitude == 0) return sign;
    const int exponent = std::max(std::ilogb(magnitude), smallest_exponent);
    const double last_places = std::nearbyint(std::ldexp(magnitude, fraction_bits - exponent));
    // A normal number counts 2^fraction_bits last places from its exponent on, and the patterns of
    // all numbers follow each other: a carry into the next exponent is the next pattern.
    const int step = 1 << fraction_bits;
    const double pattern = (exponent - smallest_exponent) * step + last_places;
    return sign | (pattern >= infinity ? infinity : static_cast<std::uint16_t>(pattern));
  }
};

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

template <class T>
constexpr T from_pattern(std::uint16_t bits) {
  return std::bit_cast<T>(bits);
}

/// Counts what disagrees and keeps the first: a CHECK an element would take minutes.
template <class T>
struct Comparison {
  std::size_t compared = 0, wrong = 0;
  std::uint32_t input = 0;
  std::uint16_t got = 0, expected = 0;

  void operator()(float x, std::uint16_t reference) {
    const std::uint16_t bits = T(x).bits;
    ++compared;
    if (bits == reference) return;
    if (wrong++ != 0) return;
    input = std::bit_cast<std::uint32_t>(x);
    got = bits;
    expected = reference;
  }
  void operator()(std::uint32_t bits) {
    const float x = from_bits(bits);
    (*this)(x, Reference<T>::rounded(x));
  }
  void report(std::size_t at_least) const {
    CAPTURE(input);
    CAPTURE(got);
    CAPTURE(expected);
    CHECK(wrong == 0);
    CHECK(compared >= at_least);
  }
};

constexpr float infinity = std::numeric_limits<float>::infinity();

// In constant expressions, by values that anyone can look up.
static_assert(bf16(1.0f).bits == 0x3f80 && bf16(-2.0f).bits == 0xc000);
static_assert(fp16(1.0f).bits == 0x3c00 && fp16(-2.0f).bits == 0xc000);
static_assert(bf16(3.14159274f).bits == 0x4049 && fp16(3.14159274f).bits == 0x4248);
static_assert(bf16(0.0f).bits == 0 && bf16(-0.0f).bits == 0x8000);
static_assert(fp16(0.0f).bits == 0 && fp16(-0.0f).bits == 0x8000);
static_assert(bf16(infinity).bits == 0x7f80 && fp16(-infinity).bits == 0xfc00);
static_assert(fp16(65504.0f).bits == 0x7bff && fp16(65519.996f).bits == 0x7bff);
static_assert(fp16(65520.0f).bits == 0x7c00 && fp16(0x1p127f).bits == 0x7c00);
static_assert(bf16(0x1.fep127f).bits == 0x7f7f && bf16(0x1.fefffep127f).bits == 0x7f7f);
static_assert(bf16(0x1.ffp127f).bits == 0x7f80);
static_assert(fp16(0x1p-24f).bits == 1 && fp16(0x1p-25f).bits == 0);
static_assert(fp16(0x1.000002p-25f).bits == 1 && fp16(0x1.ff8p-15f).bits == 0x03ff);
static_assert(bf16(0x1p-133f).bits == 1 && bf16(0x1p-134f).bits == 0);
static_assert(bf16(1 + 0x1p-8f).bits == 0x3f80 && bf16(1 + 0x3p-8f).bits == 0x3f82);
static_assert(fp16(1 + 0x1p-11f).bits == 0x3c00 && fp16(1 + 0x3p-11f).bits == 0x3c02);
static_assert(float{from_pattern<bf16>(0x4049)} == 3.140625f &&
              float{from_pattern<fp16>(0x4248)} == 3.140625f);
static_assert(float{from_pattern<fp16>(0x0001)} == 0x1p-24f &&
              float{from_pattern<fp16>(0x83ff)} == -0x1.ff8p-15f);
static_assert(float{from_pattern<fp16>(0x7c00)} == infinity &&
              float{from_pattern<bf16>(0xff80)} == -infinity);
static_assert(bf16(1 + 0x1p-8 + 0x1p-40).bits == 0x3f80);  // a double rounds twice

// As other code relies on: 16 bits without a constructor's work, and never lost by accident.
template <class T>
struct StorageDtype {
  static_assert(sizeof(T) == 2 && alignof(T) == 2);
  static_assert(std::is_trivially_copyable_v<T>);
  static_assert(std::is_trivially_default_constructible_v<T>);
  static_assert(std::is_convertible_v<T, float>);
  static_assert(!std::is_convertible_v<float, T>);
  static_assert(!std::is_convertible_v<double, T>);
};
template struct StorageDtype<bf16>;
template struct StorageDtype<fp16>;
static_assert(std::is_same_v<Accumulate<bf16>, fp32> && std::is_same_v<Accumulate<fp16>, fp32>);
static_assert(dtype_name<bf16> == "bf16" && dtype_name<fp16> == "fp16");

}  // namespace

TEST_CASE_TEMPLATE("every pattern is the value that its format defines, and comes back", T, bf16,
                   fp16) {
  using R = Reference<T>;
  std::size_t wrong_value = 0, wrong_back = 0, nans = 0;
  for (std::uint32_t pattern = 0; pattern < 0x10000u; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const float wide = from_pattern<T>(bits);
    if (R::is_nan(bits)) {
      ++nans;
      const std::uint32_t sign = bits & 0x8000u, fraction = bits & (2u * R::quiet - 1);
      const std::uint32_t quiet = R::widening_quiets ? 0x400000u : 0;
      wrong_value += std::bit_cast<std::uint32_t>(wide) !=
                     (sign << 16 | 0x7f800000u | quiet | fraction << (23 - R::fraction_bits));
      wrong_back += T(wide).bits != (bits | R::quiet);
    } else {
      const bool is_infinite = (bits & 0x7fffu) == R::infinity;
      const double expected =
          is_infinite ? std::copysign(infinity, R::value(bits)) : R::value(bits);
      wrong_value +=
          static_cast<double>(wide) != expected || std::signbit(wide) != (bits >= 0x8000u);
      wrong_back += T(wide).bits != bits;
    }
  }
  CHECK(wrong_value == 0);
  CHECK(wrong_back == 0);
  CHECK(nans == 2 * ((std::size_t{1} << R::fraction_bits) - 1));
}

// Needs no reference that rounds: what lies between two neighbours goes to the nearer one.
TEST_CASE_TEMPLATE("between neighbours, halfway and beside it", T, bf16, fp16) {
  using R = Reference<T>;
  Comparison<T> comparison;
  for (std::uint16_t lower = 0; lower < R::infinity; ++lower) {
    const auto upper = static_cast<std::uint16_t>(lower + 1);  // of the largest: infinity
    const auto a = static_cast<float>(R::value(lower));
    const double next = R::value(upper);
    const auto half = static_cast<float>((R::value(lower) + next) / 2);
    REQUIRE(static_cast<double>(half) * 2 == R::value(lower) + next);  // a float holds it
    const std::uint16_t even = lower % 2 == 0 ? lower : upper;
    for (const bool negative : {false, true}) {
      const auto with = [negative](std::uint16_t bits) {
        return static_cast<std::uint16_t>(negative ? bits | 0x8000u : bits);
      };
      const auto of = [negative](float x) { return negative ? -x : x; };
      comparison(of(a), with(lower));
      comparison(of(std::nextafter(a, infinity)), with(lower));
      comparison(of(std::nextafter(half, 0.0f)), with(lower));
      comparison(of(half), with(even));
      comparison(of(std::nextafter(half, infinity)), with(upper));
      comparison(of(std::nextafter(static_cast<float>(next), 0.0f)), with(upper));
    }
  }
  comparison.report(std::size_t{6} * 2 * R::infinity);
  CHECK(R::value(R::infinity) == (std::is_same_v<T, fp16> ? 65536.0 : 0x1p128));
}

TEST_CASE_TEMPLATE("rounding agrees with double arithmetic", T, bf16, fp16) {
  using R = Reference<T>;
  Comparison<T> comparison;
  SUBCASE("beside every prefix of 19 bits, which holds sign, exponent and what fp16 keeps") {
    for (std::uint32_t prefix = 0; prefix < 0x80000u; ++prefix)
      for (const std::uint32_t rest : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x1fffu})
        comparison(prefix << 13 | rest);
    comparison.report(3000000);
  }
  SUBCASE("on patterns drawn at random") {
    std::uint32_t x = 1;
    for (int i = 0; i < 3000000; ++i) {
      x = x * 1664525u + 1013904223u;  // Numerical Recipes: every pattern comes once in 2^32
      comparison(x ^ x >> 16);
    }
    comparison.report(3000000);
  }
  SUBCASE("on what becomes subnormal or nothing") {
    const auto beyond = static_cast<float>(std::ldexp(1.0, R::smallest_exponent + 1));
    const std::uint32_t end = std::bit_cast<std::uint32_t>(beyond);
    const std::uint32_t step = end / 1000003 | 1u;
    for (std::uint32_t bits = 0; bits < end; bits += step) {
      comparison(bits);
      comparison(bits | 0x80000000u);
    }
    comparison.report(1000000);
  }
  SUBCASE("on NaNs: sign and the upper bits of the payload stay, and it is quiet") {
    for (std::uint32_t payload = 1; payload < 0x800000u; payload += 101)
      for (const std::uint32_t sign : {0u, 0x80000000u}) comparison(sign | 0x7f800000u | payload);
    comparison.report(160000);
  }
}

}  // namespace shardexpr::testing
