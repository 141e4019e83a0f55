// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

#include <concepts>

namespace shardexpr {

/// When the gradients of a step's micro-batches are reduced. They are added up
/// in the gradient dtype of the precision, full gradients in the reduce dtype.
template <class P>
concept AccumulationPolicy = OnAxis<P, axis::Accumulation> && requires {
  { P::reduce_each } -> std::convertible_to<bool>;
};

/// Each micro-batch's gradients are reduced and added to what the rank keeps: more is sent, no full
/// gradient outlives its backward. FSDP with sync_each_batch; ZeRO-2 and ZeRO-3.
struct ReduceEveryMicroBatch {
  using axis = axis::Accumulation;
  static constexpr bool reduce_each = true;
};

/// Each rank adds up full gradients and reduces once, in the last micro-batch. FSDP's no_sync,
/// ZeRO-0 and ZeRO-1.
/// Cost:    the full gradients of the model, held from the first micro-batch to the last.
struct ReduceAtEnd {
  using axis = axis::Accumulation;
  static constexpr bool reduce_each = false;
};

template <>
struct axis_traits<axis::Accumulation> {
  template <class P>
  static constexpr bool accepts = AccumulationPolicy<P>;
  using standard = ReduceEveryMicroBatch;
};

}  // namespace shardexpr
