// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/model/unit.hpp>

namespace shardexpr {

template <class D>
struct Context;  // device/concepts.hpp

/// What a unit is given to compute its output. Every view is bound; nothing is allocated here.
///
/// Order:   work is enqueued on `context.stream`.
template <class Unit, class D, class T>
struct Forward {
  using Config = typename Unit::Config;
  using Batch = typename Unit::Batch;
  Forward(const Context<D>& c, const Config& with, const Batch& on)
      : context{c}, config{with}, batch{on} {}

  Context<D> context;
  const Config& config;
  const Batch& batch;
  typename Unit::template Params<Tensor<const T>> w;  // full parameters, gathered
  InputOf<Unit, ConstTensor, T> in;                   // what the unit before put out
  OutputOf<Unit, Tensor, T> out;
  SavedOf<Unit, Tensor, T> saved;      // kept until this unit's backward
  ScratchOf<Unit, Tensor, T> scratch;  // any content before and after
};

/// What a unit is given to compute gradients: of its parameters, added to `dw` (zeroed by the
/// engine before the first use in a step); of its input, written to `din`.
template <class Unit, class D, class T, class G = T>
struct Backward {
  using Config = typename Unit::Config;
  using Batch = typename Unit::Batch;
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
  SavedOf<Unit, Tensor, T> saved;  // as forward left it; free to be overwritten
  ScratchOf<Unit, Tensor, T> scratch;
};

}  // namespace shardexpr
