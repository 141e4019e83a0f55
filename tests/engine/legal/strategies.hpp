// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/combinations.hpp>
#include <shardexpr/policy/strategy.hpp>

#include "../../support/toy.hpp"

// Every legal strategy of the toy, made at compile time from the rules: the product of sharding,
// reshard and prefetch, each sharding with each policy of the other axes, and each pair of those.
// What the rules refuse drops out; nothing is listed by hand but the policies.
namespace legal {

namespace sx = shardexpr;

/// In 16 bits where there is a choice, clipped and with a loss scale.
template <class... P>
using In16 =
    sx::StrategyOf<sx::MixedPrecision<sx::bf16, sx::bf16>, sx::ClipNorm, sx::StaticLossScale, P...>;

using Shardings = sx::OneOf<sx::FullShard, sx::ShardGradOp, sx::ShardOptimizer, sx::NoShard>;
using HybridShardings = sx::OneOf<sx::HybridShard<2>, sx::HybridShardGradOp<2>, sx::HybridShard<4>,
                                  sx::HybridShardGradOp<4>>;
template <class Of>
using Product = sx::LegalCombinations<
    Of, sx::OneOf<sx::ReshardToShard, sx::ReshardTo<2>>,
    sx::OneOf<sx::BackwardPre, sx::BackwardPost, sx::BackwardNone>,
    sx::OneOf<sx::ForwardNone, sx::ForwardPrefetch<1>, sx::ForwardPrefetch<2>>>;

// The policies of the other axes, sized for the toy of run.hpp: units of 42, 4 x 56 and 5 elements;
// wrapped by 60, the last computes with 159.
using Others =
    sx::OneOf<sx::PersistBelow<8>, sx::MaxLive<160>, sx::PrefetchBucket<112>, sx::ReuseWithin<60>,
              sx::LimitGathers<3>, sx::WrapEach<toy::Mixer>, sx::WrapBySize<60>, sx::WrapWhole,
              sx::Recompute<toy::Mixer>, sx::Recompute<>, sx::ReduceAtEnd>;

using OneCopy = sx::UnitedStrategies<Product<Shardings>, sx::LegalCombinations<Shardings, Others>,
                                     sx::LegalCombinations<Others, Others>>;
using Copies =
    sx::UnitedStrategies<Product<HybridShardings>,
                         sx::LegalCombinations<sx::OneOf<sx::HybridShard<2>>, Others>,
                         sx::LegalCombinations<sx::OneOf<sx::HybridShardGradOp<2>>, Others>>;

}  // namespace legal
