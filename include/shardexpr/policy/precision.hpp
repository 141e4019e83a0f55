// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/policy/axis.hpp>

#include <type_traits>

namespace shardexpr {

/// The dtype of each thing:
///   storage    parameters as the optimizer updates them; also of a checkpoint
///   compute    parameters as units compute with them and as they are gathered; activations
///   reduce     full gradients, and as they are reduced: summed in fp32, rounded once
///   gradient   reduced gradients as a rank keeps them and adds up micro-batches
///   optimizer  moments
///   buffers    what units keep that is not trained (model/buffers.hpp)
template <class P>
concept PrecisionPolicy = OnAxis<P, axis::Precision> && requires {
  typename P::storage;
  typename P::compute;
  typename P::reduce;
  typename P::gradient;
  typename P::optimizer;
  typename P::buffers;
};

/// The dtypes of a rank's state, each as wanted. Where compute differs from storage, each rank
/// keeps a copy of its part in compute dtype: the update writes it in the same pass, gathers send
/// it, so that nothing is cast before a gather. Reduced gradients are kept in the wider of storage
/// and reduce. Frozen parameters are kept in compute dtype alone.
template <class Storage, class Compute, class Reduce, class Optimizer, class Buffers = Storage>
struct Precision {
  using axis = axis::Precision;
  using storage = Storage;
  using compute = Compute;
  using reduce = Reduce;
  using gradient = std::conditional_t<(sizeof(Storage) < sizeof(Reduce)), Reduce, Storage>;
  using optimizer = Optimizer;
  using buffers = Buffers;
};

/// fp32 throughout.
using FullPrecision = Precision<fp32, fp32, fp32, fp32>;

/// Computes and gathers in `Compute`, reduces gradients in `Reduce`, keeps and updates parameters
/// in fp32. `Reduce` has no default: the frameworks disagree on it.
template <class Compute, class Reduce>
using MixedPrecision = Precision<fp32, Compute, Reduce, fp32>;

template <>
struct axis_traits<axis::Precision> {
  template <class P>
  static constexpr bool accepts = PrecisionPolicy<P>;
  using standard = FullPrecision;
};

}  // namespace shardexpr
