// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "harness.hpp"

// How far a layer in 16 bits may be from the same layer in double on the same inputs. What a layer
// stores it rounds once, so that an element y differs by at most
//
//     u |y| + s / 2 + f,     u the dtype's unit roundoff, s its smallest number,
//
// where f is what sums in fp32 lose on the way: each of r roundings 2^-24 of the sum of the
// absolute values of all terms. A layer that also rounds to 16 bits on the way adds u times those
// terms.
namespace harness {

/// Half the distance of 1 to the next number.
template <class T>
inline constexpr double unit_roundoff = 0;
template <>
inline constexpr double unit_roundoff<sx::bf16> = 0x1p-8;
template <>
inline constexpr double unit_roundoff<sx::fp16> = 0x1p-11;
template <>
inline constexpr double unit_roundoff<float> = 0x1p-24;
template <>
inline constexpr double unit_roundoff<double> = 0x1p-53;

/// The smallest positive number.
template <class T>
inline constexpr double smallest_number = 0;  // fp32 and double: nothing here is that small
template <>
inline constexpr double smallest_number<sx::bf16> = 0x1p-133;
template <>
inline constexpr double smallest_number<sx::fp16> = 0x1p-24;

/// What `roundings` in A, the dtype of sums, lose of terms whose absolute values sum to `size`.
template <class A = float>
double sum_loss(double size, std::size_t roundings) {
  return static_cast<double>(roundings) * unit_roundoff<A> * size;
}

/// The largest difference seen, as a part of what was allowed: at most 1.
class Worst {
 public:
  template <class T>
  void see(T got, double exact, double sum_error, double rounded_terms = 0) {
    const double allowed =
        unit_roundoff<T> * (std::abs(exact) + rounded_terms) + smallest_number<T> / 2 + sum_error;
    const double difference = std::abs(static_cast<double>(got) - exact);
    const double ratio = difference == 0 ? 0 : difference / allowed;
    ratio_ = std::isnan(ratio) ? std::numeric_limits<double>::infinity() : std::max(ratio_, ratio);
  }
  double ratio() const { return ratio_; }

 private:
  double ratio_ = 0;
};

/// How far a GPT's gradients in T are from exact ones, of their norm.
///
/// Each rounding leaves errors of at most u / sqrt(3), squares averaged, of what it rounds;
/// independent ones add as squares. Behind a gradient are the roundings of all that forward stores
/// (one tensor in the embedding, eight in a block, two in the head) and of what backward does
/// (three in the head, nine in a block).
template <class T>
double gradient_error_in(const sx::GptConfig& c) {
  return unit_roundoff<T> * std::sqrt((6.0 + 17.0 * static_cast<double>(c.layers)) / 3);
}
/// How far the loss is off if logits are off by 1 of themselves. A row's loss is a difference of
/// logits, whose deviation is that of a row of the table, 0.02 at the start, times that of a norm's
/// output.
inline double loss_of_logit_error(const sx::GptConfig& c) {
  return 2 * 0.02 * std::sqrt(static_cast<double>(c.embed));
}

template <class T>
Owned<double> widened(const Owned<T>& t) {
  Owned<double> wide{t.view.shape};
  for (std::size_t i = 0; i < t.count(); ++i) wide[i] = static_cast<double>(t[i]);
  return wide;
}
/// The absolute values.
template <class T>
Owned<double> sizes(const Owned<T>& t) {
  Owned<double> wide{t.view.shape};
  for (std::size_t i = 0; i < t.count(); ++i) wide[i] = std::abs(static_cast<double>(t[i]));
  return wide;
}

}  // namespace harness
