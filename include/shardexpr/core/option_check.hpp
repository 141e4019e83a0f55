// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>

#include <cmath>
#include <cstdio>
#include <string>
#include <utility>

namespace shardexpr {

/// Refuses run-time options out of their range, in one line that names option, value and range:
/// "AdamW: beta1 is 1; give one in [0, 1)". NaN is in no range.
///
/// Errors:  each throws ConfigError.
class OptionCheck {
 public:
  /// `whose`: the name that a message begins with.
  explicit OptionCheck(std::string whose) : whose_{std::move(whose)} {}

  /// Finite, at least 0.
  void at_least_zero(const char* option, double value) const {
    require(value >= 0 && std::isfinite(value), option, value, "a finite one, at least 0");
  }
  /// Finite, above 0.
  void above_zero(const char* option, double value) const {
    require(value > 0 && std::isfinite(value), option, value, "a finite one above 0");
  }
  /// In [0, 1).
  void below_one(const char* option, double value) const {
    require(value >= 0 && value < 1, option, value, "one in [0, 1)");
  }
  /// In [0, 1].
  void at_most_one(const char* option, double value) const {
    require(value >= 0 && value <= 1, option, value, "one in [0, 1]");
  }
  /// `allowed` goes on behind "give".
  void require(bool is_allowed, const char* option, double value, const char* allowed) const {
    if (is_allowed) return;
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", value);
    throw ConfigError(whose_ + ": " + option + " is " + digits + "; give " + allowed);
  }

 private:
  std::string whose_;
};

namespace detail {

/// Refuses options that the policy refuses, if it says so.
template <class P>
void check_options(const typename P::Options& options) {
  if constexpr (
      requires { &P::check; } || requires { P::check(options); })
    P::check(options);
}

}  // namespace detail
}  // namespace shardexpr
