// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/model/buffers.hpp>
#include <shardexpr/model/unit.hpp>

#include <type_traits>

namespace shardexpr {

template <class D>
struct Context;  // device/concepts.hpp

/// What a unit is given to compute its output. Every view is bound; nothing is allocated here.
///
/// Order:   work is enqueued on `context.stream`.
///
/// `B` is the dtype of buffers; a unit that has none need not name it.
template <class Unit, class D, class T, class B = T>
struct Forward {
  using Config = typename Unit::Config;
  using Batch = typename Unit::Batch;
  /// Views are empty until they are bound.
  Forward(const Context<D>& c, const Config& with, const Batch& on)
      : context{c}, config{with}, batch{on} {}

  Context<D> context;
  const Config& config;
  const Batch& batch;
  typename Unit::template Params<Tensor<const T>> w;  ///< full parameters, gathered
  InputOf<Unit, ConstTensor, T> in;                   ///< what the unit before put out
  OutputOf<Unit, Tensor, T> out;
  SavedOf<Unit, Tensor, T> saved;      ///< kept until this unit's backward
  ScratchOf<Unit, Tensor, T> scratch;  ///< any content before and after
  BuffersOf<Unit, Tensor<B>> buffers;  ///< this rank's own
  bool is_rebuild = false;             ///< a second forward (Recompute): leave buffers as they are
};

/// What a unit is given to compute gradients: of its parameters, added to `dw` (zeroed by the
/// engine before the first use in a step); of its input, written to `din`.
template <class Unit, class D, class T, class G = T, class B = T>
struct Backward {
  using Config = typename Unit::Config;
  using Batch = typename Unit::Batch;
  /// Views are empty until they are bound.
  Backward(const Context<D>& c, const Config& with, const Batch& on)
      : context{c}, config{with}, batch{on} {}

  Context<D> context;
  const Config& config;
  const Batch& batch;
  typename Unit::template Params<Tensor<const T>> w;
  typename Unit::template Params<Tensor<G>> dw;
  InputOf<Unit, ConstTensor, T> in;
  OutputOf<Unit, ConstTensor, T> dout;
  InputOf<Unit, Tensor, T> din;
  SavedOf<Unit, Tensor, T> saved;  ///< as forward left it; free to be overwritten
  ScratchOf<Unit, Tensor, T> scratch;
  BuffersOf<Unit, Tensor<const B>> buffers;
};

namespace detail {
/// The dtype of buffers as a unit's passes name it: one that has none leaves it out.
template <class Unit, class P>
using pass_buffers =
    std::conditional_t<has_buffers<Unit>, typename P::buffers, typename P::compute>;
template <class Unit, class D, class P>
using ForwardIn = Forward<Unit, D, typename P::compute, pass_buffers<Unit, P>>;
template <class Unit, class D, class P>
using BackwardIn =
    Backward<Unit, D, typename P::compute, typename P::reduce, pass_buffers<Unit, P>>;
}  // namespace detail

}  // namespace shardexpr
