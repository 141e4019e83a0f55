// SPDX-License-Identifier: Apache-2.0
#pragma once
// From a strategy that is a type to the same as data.
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include "description.hpp"

namespace from_config {
namespace detail {

template <class T>
constexpr Dtype dtype_of() {
  static_assert(shardexpr::detail::is_one_of<T, shardexpr::fp32, shardexpr::bf16, shardexpr::fp16>);
  return std::is_same_v<T, shardexpr::fp32>   ? Dtype::fp32
         : std::is_same_v<T, shardexpr::bf16> ? Dtype::bf16
                                              : Dtype::fp16;
}

template <class Place>
constexpr PlaceOf place_of() {
  if constexpr (shardexpr::detail::is_partial<Place>)
    return {PlaceOf::Kind::partly, Place::numerator, Place::denominator};
  else if constexpr (requires { Place::chunk_elements; })
    return {PlaceOf::Kind::nvme_by, Place::chunk_elements, 0};
  else
    return {Place::place == shardexpr::Place::device ? PlaceOf::Kind::device
            : Place::place == shardexpr::Place::host ? PlaceOf::Kind::host
                                                     : PlaceOf::Kind::nvme,
            0, 0};
}

template <class... Unit>
std::vector<std::string> names_of(shardexpr::detail::list<Unit...>) {
  return {shardexpr::type_name<Unit>()...};
}

template <class P>
constexpr Optimizer optimizer_of() {
  using namespace shardexpr;
  static_assert(shardexpr::detail::is_one_of<P, AdamW, Adam, Sgd, SgdMomentum, Lion, Adagrad>,
                "an optimizer of your own has no name in a configuration file");
  return std::is_same_v<P, AdamW>         ? from_config::Optimizer::adamw
         : std::is_same_v<P, Adam>        ? from_config::Optimizer::adam
         : std::is_same_v<P, Sgd>         ? from_config::Optimizer::sgd
         : std::is_same_v<P, SgdMomentum> ? from_config::Optimizer::sgd_momentum
         : std::is_same_v<P, Lion>        ? from_config::Optimizer::lion
                                          : from_config::Optimizer::adagrad;
}

}  // namespace detail

/// A strategy in normal form, `StrategyOf<...>` or a trainer's `Strategy`, as data. Asked for
/// properties, so that the frameworks' aliases and policies of one's own are described, too.
template <class S>
Description describe() {
  namespace sx = shardexpr;
  using sharding = typename S::sharding;
  Description d;
  d.group = sx::detail::group_of<sharding>;
  d.sharding = d.group != 0 ? (sharding::parameters ? Sharding::hybrid : Sharding::hybrid_grad_op)
               : sharding::parameters ? Sharding::full
               : sharding::gradients  ? Sharding::grad_op
               : sharding::optimizer  ? Sharding::optimizer
                                      : Sharding::none;
  d.reshard = S::reshard::ranks;
  d.parameters = detail::place_of<typename S::offload::parameters>();
  d.optimizer_state = detail::place_of<typename S::offload::optimizer>();
  d.backward = S::backward_prefetch::ahead == sx::GatherAhead::before_compute  ? GatherAhead::before
               : S::backward_prefetch::ahead == sx::GatherAhead::after_compute ? GatherAhead::after
                                                                               : GatherAhead::never;
  d.forward = S::forward_prefetch::depth;
  d.persist_below = S::persistence::persist_below;
  d.reuse_within = S::reuse::reuse_elements;
  d.max_live = S::live_limit::live_elements;
  d.prefetch_bucket = S::prefetch_limit::ahead_elements;
  d.limit_gathers = S::gather_limit::live_groups;
  d.wrap = S::wrap::whole ? Wrap::whole : S::wrap::least != 0 ? Wrap::by_size : Wrap::each;
  d.wrap_least = S::wrap::least;
  d.wrapped = detail::names_of(typename sx::detail::units_named<typename S::wrap>::type{});
  d.reduces_at_end = !S::accumulation::reduce_each;
  d.clipping = std::is_same_v<typename S::clipping, sx::ClipNone>   ? Clipping::none
               : std::is_same_v<typename S::clipping, sx::ClipNorm> ? Clipping::norm
                                                                    : Clipping::value;
  d.recomputes = !std::is_same_v<typename S::recompute, sx::RecomputeNone>;
  d.recomputed = detail::names_of(typename sx::detail::units_named<typename S::recompute>::type{});
  d.optimizer = detail::optimizer_of<typename S::optimizer>();
  using precision = typename S::precision;
  d.precision = {detail::dtype_of<typename precision::storage>(),
                 detail::dtype_of<typename precision::compute>(),
                 detail::dtype_of<typename precision::reduce>(),
                 detail::dtype_of<typename precision::optimizer>(),
                 detail::dtype_of<typename precision::buffers>()};
  d.loss_scale = std::is_same_v<typename S::loss_scale, sx::LossScaleNone>     ? LossScale::none
                 : std::is_same_v<typename S::loss_scale, sx::StaticLossScale> ? LossScale::fixed
                                                                               : LossScale::dynamic;
  d.rounds_stochastically = S::rounding::is_random;
  d.quantizes_weights = S::weight_compression::bits != 0;
  d.quantizes_gradients = S::gradient_compression::bits != 0;
  return d;
}

}  // namespace from_config
