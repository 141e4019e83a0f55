// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>

#include <cstdint>

namespace shardexpr {

/// A sum of doubles whose result does not depend on their order, nor on how they were split over
/// ranks: every addition is exact, in fixed point.
///
/// Shapes:  20 limbs of 32 payload bits, from 2^-320 to 2^320: squares of any fp32, and their sums.
/// Units:   limb k weighs 2^(32 k - 320). Terms are non-negative; at most 2^31 between two
///          `normalize()` calls.
/// Errors:  infinities and NaNs do not throw; they make `value()` infinite or NaN.
/// Cost:    168 bytes; an addition touches three limbs. Trivially copyable: ranks exchange it.
/// Source:  Kulisch's long accumulator; Demmel & Hida, SIAM J. Sci. Comput. 25(4), 2004.
class ExactSum {
 public:
  static constexpr int limbs = 20;
  static constexpr int lowest_exponent = -320;

  /// Adds a non-negative term; bits below 2^-320 are dropped, term by term, so that order still
  /// does not matter.
  SHARDEXPR_HOST_DEVICE void add(double term) {
    split(
        term, [&](int k, std::int64_t value) { limb_[k] += value; },
        [&](double special) { special_ += special; });
  }

  /// What adding a term adds: `limb(k, value)` to limb k, or `special(value)` once to the part that
  /// is not finite. For who adds in parallel, integers in any order.
  template <class Limb, class Special>
  SHARDEXPR_HOST_DEVICE static void split(double term, Limb limb, Special special) {
    const auto bits = __builtin_bit_cast(std::uint64_t, term);
    const int exponent = static_cast<int>((bits >> 52) & 0x7ff);
    if (exponent == 0x7ff || exponent > 1075 + 240) {  // infinite, NaN, or beyond any fp32 square
      special(term * 0x1p1000);
      return;
    }
    if (exponent == 0) return;  // subnormal doubles lie far below 2^-320
    const std::uint64_t significand =
        (bits & ((std::uint64_t{1} << 52) - 1)) | (std::uint64_t{1} << 52);
    const int shift = exponent - 1075 - lowest_exponent;  // weight of the lowest bit
    if (shift <= -53) return;
    if (shift < 0) {
      limb(0, static_cast<std::int64_t>((significand >> -shift) & 0xffffffffu));
      limb(1, static_cast<std::int64_t>((significand >> -shift) >> 32));
      return;
    }
    const int k = shift / 32, s = shift % 32;
    const std::uint64_t low = significand << s;
    const std::uint64_t high = s == 0 ? 0 : significand >> (64 - s);
    limb(k, static_cast<std::int64_t>(low & 0xffffffffu));
    limb(k + 1, static_cast<std::int64_t>(low >> 32));
    limb(k + 2, static_cast<std::int64_t>(high));
  }

  /// Adds what another sum holds; exact, too.
  SHARDEXPR_HOST_DEVICE void add(const ExactSum& other) {
    for (int k = 0; k < limbs; ++k) limb_[k] += other.limb_[k];
    special_ += other.special_;
    normalize();
  }

  /// For who adds what `split` gives, in parallel.
  SHARDEXPR_HOST_DEVICE std::int64_t* limb_data() { return limb_; }
  /// The sum of what is not finite, for the same.
  SHARDEXPR_HOST_DEVICE double* special_data() { return &special_; }

  /// Moves what a limb holds above 32 bits into the next one: the form is then unique.
  SHARDEXPR_HOST_DEVICE void normalize() {
    for (int k = 0; k + 1 < limbs; ++k) {
      limb_[k + 1] += limb_[k] >> 32;
      limb_[k] &= 0xffffffff;
    }
  }

  /// The sum, rounded to a double.
  SHARDEXPR_HOST_DEVICE double value() const {
    ExactSum sum = *this;
    sum.normalize();
    double total = 0;
    for (int k = 0; k < limbs; ++k)  // from the lowest limb, so that roundings stay below one ulp
      total += static_cast<double>(sum.limb_[k]) * power_of_two(32 * k + lowest_exponent);
    return total + special_;
  }

 private:
  SHARDEXPR_HOST_DEVICE static constexpr double power_of_two(int exponent) {
    return __builtin_bit_cast(double, static_cast<std::uint64_t>(exponent + 1023) << 52);
  }

  std::int64_t limb_[limbs] = {};  // no std::array: device code may not call its members
  double special_ = 0;             // 0, infinity or NaN
};

}  // namespace shardexpr
