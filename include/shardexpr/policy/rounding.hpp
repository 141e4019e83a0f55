// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

#include <concepts>

namespace shardexpr {

struct NearestRounding;    // optim/rounding.hpp
class StochasticRounding;  // optim/rounding.hpp

/// How an update's fp32 result becomes the dtype in which parameters are kept: `Rounding` is made
/// of the trainer's seed and the number of the step.
template <class P>
concept RoundingPolicy = OnAxis<P, axis::Rounding> && requires {
  typename P::Rounding;
  { P::is_random } -> std::convertible_to<bool>;
};

/// To the nearest value, ties to even. An update below half a last place is lost.
struct RoundNearest {
  using axis = axis::Rounding;
  static constexpr bool is_random = false;
  using Rounding = NearestRounding;
};

/// Up or down, with the probability of the distance: right in the mean, so that small updates add
/// up. For parameters kept in 16 bits without a copy in fp32.
/// Source:  Gupta et al., Deep Learning with Limited Numerical Precision, ICML 2015, section 3;
///          Zamirai et al., Revisiting BFloat16 Training, 2020.
struct RoundStochastic {
  using axis = axis::Rounding;
  static constexpr bool is_random = true;
  using Rounding = StochasticRounding;
};

template <>
struct axis_traits<axis::Rounding> {
  template <class P>
  static constexpr bool accepts = RoundingPolicy<P>;
  using standard = RoundNearest;
};

}  // namespace shardexpr
