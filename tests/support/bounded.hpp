// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cmath>

/// A number as exact arithmetic has it (double stands for exact), and how far from it a computation
/// may be that rounds each operation's result by at most `unit`, relative: running error analysis.
/// Source:  Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.3.
class Bounded {
 public:
  /// Of the dtype that stores results: 2^-24 for fp32, 2^-8 for bf16.
  static inline double unit = 0;

  explicit Bounded(double value = 0, double error = 0) : value_{value}, error_{error} {}
  /// A constant, formed in double and rounded once to fp32.
  static Bounded constant(double value) { return Bounded{value, 0x1p-24 * std::abs(value)}; }

  double value() const { return value_; }
  double error() const { return error_; }
  /// Rounded once more.
  Bounded rounded() const { return Bounded{value_, error_ + unit * (std::abs(value_) + error_)}; }

  friend Bounded operator+(const Bounded& a, const Bounded& b) {
    return Bounded{a.value_ + b.value_, a.error_ + b.error_}.rounded();
  }
  friend Bounded operator-(const Bounded& a, const Bounded& b) {
    return Bounded{a.value_ - b.value_, a.error_ + b.error_}.rounded();
  }
  friend Bounded operator*(const Bounded& a, const Bounded& b) {
    return Bounded{a.value_ * b.value_, std::abs(a.value_) * b.error_ +
                                            std::abs(b.value_) * a.error_ + a.error_ * b.error_}
        .rounded();
  }
  /// By what is positive.
  friend Bounded operator/(const Bounded& a, const Bounded& b) {
    return Bounded{a.value_ / b.value_,
                   (a.error_ + std::abs(a.value_ / b.value_) * b.error_) / (b.value_ - b.error_)}
        .rounded();
  }
  /// Of what is not negative.
  friend Bounded sqrt(const Bounded& a) {
    const double root = std::sqrt(a.value_);
    return Bounded{root, root - std::sqrt(std::max(0.0, a.value_ - a.error_))}.rounded();
  }

 private:
  double value_, error_;
};
