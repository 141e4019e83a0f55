// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/policy/axis.hpp>

namespace shardexpr {

/// The dtype of each thing: parameters as a rank keeps them, as units compute with them, gradients
/// as ranks reduce them, moments.
template <class P>
concept PrecisionPolicy = OnAxis<P, axis::Precision> && requires {
  typename P::storage;
  typename P::compute;
  typename P::reduce;
  typename P::optimizer;
};

/// fp32 throughout.
struct FullPrecision {
  using axis = axis::Precision;
  using storage = fp32;
  using compute = fp32;
  using reduce = fp32;
  using optimizer = fp32;
};

template <>
struct axis_traits<axis::Precision> {
  template <class P>
  static constexpr bool accepts = PrecisionPolicy<P>;
  using standard = FullPrecision;
};

}  // namespace shardexpr
