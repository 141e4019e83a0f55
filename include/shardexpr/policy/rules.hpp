// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/policy/offload.hpp>
#include <shardexpr/policy/prefetch.hpp>

#include <array>
#include <string_view>
#include <type_traits>

// Each rule lives here once: code, what breaks it, what is wrong, what to write instead. From this
// come the static_asserts, `LegalStrategy`, the run-time list, and, checked by a test,
// docs/diagnostics.md. Codes: 0xx grammar of the pack, 1xx combinations, 2xx model, 3xx what the
// strategy runs on, this model among it.

// Rules on the pack itself, judged in `first_broken`.
#define SHARDEXPR_GRAMMAR_RULES(RULE)                                   \
  RULE(SX001, , "an argument after the model is not a policy",          \
       "give only types whose member 'axis' is one of shardexpr::axis") \
  RULE(SX002, , "two policies stand on one axis", "keep one of them")   \
  RULE(SX003, , "a policy leaves questions of its axis unanswered",     \
       "give it every member that the axis concept asks for")

// Rules on a strategy S in normal form. They ask properties, never names.
#define SHARDEXPR_COMBINATION_RULES(RULE)                                                          \
  RULE(SX101, S::sharding::gradients && !S::sharding::optimizer,                                   \
       "sharded gradients with a replicated optimizer; no rank could update the whole",            \
       "shard the optimizer too (ShardGradOp) or keep the gradients whole (NoShard)")              \
  RULE(SX102, S::sharding::parameters && !S::sharding::gradients,                                  \
       "sharded parameters with replicated gradients; each rank would reduce what it cannot keep", \
       "shard the gradients too (FullShard) or keep the parameters whole (ShardOptimizer)")        \
  RULE(SX103, !trains_in_all<S>(), "the precision names a dtype that is not trained in",           \
       "use fp32, bf16 or fp16")                                                                   \
  RULE(SX104, counts_nothing<S>(),                                                                 \
       "a policy's number changes nothing; 0, unlimited, or a size of one element",                \
       "give one that does, or leave the policy out")                                              \
  RULE(SX105, group_of<typename S::sharding> == 1,                                                 \
       "a shard group of one rank, in which nothing would be sharded",                             \
       "give the group at least 2 ranks, or use NoShard")                                          \
  RULE(SX106, group_of<typename S::sharding> != 0 && !S::sharding::optimizer,                      \
       "a shard group in which no state is sharded",                                               \
       "shard at least the optimizer, or leave the group out")                                     \
  RULE(SX107, S::reshard::ranks == 1,                                                              \
       "a reshard to one rank, which would keep every unit whole after its forward",               \
       "reshard to at least 2 ranks, or use ShardGradOp, which keeps the parameters whole")        \
  RULE(SX108, reshards_nothing<S>(),                                                               \
       "a partial reshard where no unit is released after its forward",                            \
       "shard the parameters (FullShard, HybridShard), without WrapWhole and without an "          \
       "unlimited ReuseWithin, or leave ReshardTo out")                                            \
  RULE(SX109, reshard_exceeds_group<S>(),                                                          \
       "a partial reshard to a number of ranks that does not divide the shard group, or to all "   \
       "of it",                                                                                    \
       "in HybridShard<S>, give ReshardTo<K> a K below S that divides S")                          \
  RULE(SX110, prefetches_backward<S>() && !gathers_in_turn<S>(),                                   \
       "a backward prefetch where parameters are not gathered group by group",                     \
       "shard the parameters (FullShard, HybridShard) and do not use WrapWhole, or leave the "     \
       "prefetch out")                                                                             \
  RULE(SX111, prefetches_forward<S>() && !gathers_in_turn<S>(),                                    \
       "a forward prefetch where parameters are not gathered group by group",                      \
       "shard the parameters (FullShard, HybridShard) and do not use WrapWhole, or leave the "     \
       "prefetch out")                                                                             \
  RULE(SX112, S::persistence::persist_below != 0 && !S::sharding::parameters,                      \
       "small parameters are to persist where every rank keeps all parameters",                    \
       "shard the parameters (FullShard, HybridShard), or leave PersistBelow out")                 \
  RULE(                                                                                            \
      SX113, bounds_gathers<S>() && !gathers_in_turn<S>(),                                         \
      "MaxLive, PrefetchBucket, ReuseWithin or LimitGathers where parameters are not gathered "    \
      "group by group",                                                                            \
      "shard the parameters (FullShard, HybridShard) and do not use WrapWhole, or leave them out") \
  RULE(SX114, bounds_nothing<S>(),                                                                 \
       "MaxLive, LimitGathers or PrefetchBucket where nothing is gathered ahead to hold back",     \
       "add BackwardPre, BackwardPost or ForwardPrefetch, or leave the bound out")                 \
  RULE(SX115, S::gather_limit::live_groups == 1,                                                   \
       "a limit of one gathered group, which leaves no room to gather ahead or to keep a group",   \
       "give LimitGathers at least 2, or leave it out and use BackwardNone and ForwardNone")       \
  RULE(SX116, !names_differ<typename units_named<typename S::wrap>::type>,                         \
       "a unit is named twice in one wrap policy", "name it once")                                 \
  RULE(SX117, !names_differ<typename units_named<typename S::recompute>::type>,                    \
       "a unit is named twice in one recompute policy", "name it once")                            \
  RULE(SX118, prefetches_beyond_limit<S>(),                                                        \
       "a forward prefetch of more units than LimitGathers leaves room for",                       \
       "give ForwardPrefetch a depth below the number in LimitGathers")                            \
  RULE(SX119, mixes_16_bits<S>(),                                                                  \
       "bf16 and fp16 in one precision; what one holds overflows or vanishes in the other",        \
       "use one of them, beside fp32")                                                             \
  RULE(SX120, lacks_loss_scale<S>(),                                                               \
       "fp16 without a loss scale; small gradients would vanish, large ones end the run",          \
       "add DynamicLossScale or StaticLossScale, or use bf16")                                     \
  RULE(SX121, names_moments_in_vain<S>(), "a dtype for moments with an optimizer that keeps none", \
       "give the optimizer the dtype of the storage")                                              \
  RULE(SX122, S::rounding::is_random && sizeof(typename S::precision::storage) != 2,               \
       "a stochastic rounding of parameters that are kept in fp32, as updates compute them",       \
       "keep them in bf16 or fp16, or leave RoundStochastic out")                                  \
  RULE(SX123, parameters_place<S> != Place::device && !S::sharding::parameters,                    \
       "parameters are offloaded where every rank keeps all of them to compute with",              \
       "shard the parameters (FullShard, HybridShard), or leave them OnDevice")                    \
  RULE(SX124, S::weight_compression::bits != 0 && !S::sharding::parameters,                        \
       "quantized weights where every rank keeps all parameters; nothing is gathered",             \
       "shard the parameters (FullShard, HybridShard), or leave QuantizedWeights out")             \
  RULE(SX125, S::gradient_compression::bits != 0 && !S::sharding::optimizer,                       \
       "quantized gradients where they are all-reduced; no rank is sent a part alone",             \
       "shard at least the optimizer (ShardOptimizer, ShardGradOp, FullShard), or leave "          \
       "QuantizedGradients out")                                                                   \
  RULE(SX126, quantizes_to_no_codes<S>(), "a compression to neither 4 nor 8 bits",                 \
       "give it bits of 4 or 8; to send values as they are, leave it out")                         \
  RULE(SX127, offloads_no_fraction<S>(),                                                           \
       "Partly stands for the parameters, or for none or all of the optimizer",                    \
       "give the optimizer a fraction above 0 and below 1, or OnHost or OnDevice")                 \
  RULE(SX128, misses_blocks<S>(),                                                                  \
       "OnNvmeBy with a number that is no multiple of 32768, or for parameters",                   \
       "give the optimizer a multiple of 32768, parameters OnNvme")

namespace shardexpr {

/// The rules on a pack of policies, SX0xx and SX1xx, by code.
enum class Rule {
  none,
#define SHARDEXPR_RULE_NAME(code, broken, what, advice) code,
  SHARDEXPR_GRAMMAR_RULES(SHARDEXPR_RULE_NAME) SHARDEXPR_COMBINATION_RULES(SHARDEXPR_RULE_NAME)
#undef SHARDEXPR_RULE_NAME
};

/// A rule as text.
struct RuleText {
  std::string_view code, what, advice;
};

/// The texts of these rules, in the order of their codes.
inline constexpr auto rule_texts = std::to_array<RuleText>({
#define SHARDEXPR_RULE_TEXT(code, broken, what, advice) {#code, what, advice},
    SHARDEXPR_GRAMMAR_RULES(SHARDEXPR_RULE_TEXT) SHARDEXPR_COMBINATION_RULES(SHARDEXPR_RULE_TEXT)
#undef SHARDEXPR_RULE_TEXT
});

namespace detail {
template <class P>
using dtypes_of = list<typename P::storage, typename P::compute, typename P::reduce,
                       typename P::gradient, typename P::optimizer, typename P::buffers>;
template <class... T>
consteval bool trains_in(list<T...>) {
  return (is_one_of<T, fp32, bf16, fp16> && ...);
}
template <class S>
consteval bool trains_in_all() {
  return trains_in(dtypes_of<typename S::precision>{});
}
template <class T, class... Dtype>
consteval bool is_among(list<Dtype...>) {
  return is_one_of<T, Dtype...>;
}
template <class S>
consteval bool mixes_16_bits() {
  constexpr dtypes_of<typename S::precision> dtypes;
  return is_among<bf16>(dtypes) && is_among<fp16>(dtypes);
}
template <class S>
consteval bool lacks_loss_scale() {
  return is_among<fp16>(dtypes_of<typename S::precision>{}) && !S::loss_scale::skips;
}
template <class S>
consteval bool names_moments_in_vain() {
  using P = typename S::precision;
  return S::optimizer::moments == 0 && !std::is_same_v<typename P::optimizer, typename P::storage>;
}

template <class S>
consteval bool offloads_no_fraction() {
  using Optimizer = typename S::offload::optimizer;
  if constexpr (is_partial<typename S::offload::parameters>) return true;
  if constexpr (is_partial<Optimizer>)
    return Optimizer::numerator == 0 || Optimizer::numerator >= Optimizer::denominator;
  return false;
}
template <class S>
consteval bool misses_blocks() {
  constexpr std::size_t chunk = chunk_of<typename S::offload::optimizer>;
  return chunk == 0 || chunk % chunk_step != 0 || requires {
    S::offload::parameters::chunk_elements;
  };
}
template <class S>
consteval bool quantizes_to_no_codes() {
  constexpr auto is_known = [](std::size_t bits) { return bits == 0 || bits == 4 || bits == 8; };
  return !is_known(S::weight_compression::bits) || !is_known(S::gradient_compression::bits);
}

template <class P>
inline constexpr bool counts_zero = false;
template <class P>
  requires std::is_integral_v<std::remove_pointer_t<decltype(&P::count)>>
inline constexpr bool counts_zero<P> = P::count == 0;
template <class S>
struct any_counts_zero;
template <template <class...> class Strategy, class... Ps>
struct any_counts_zero<Strategy<Ps...>> : std::bool_constant<(counts_zero<Ps> || ...)> {};
// Bounds that bound nothing, and sizes that every parameter, or every unit, has.
template <class P>
inline constexpr bool counts_all = false;
template <class P>
  requires std::is_integral_v<std::remove_pointer_t<decltype(&P::count)>>
inline constexpr bool counts_all<P> = P::count == unlimited;
template <class S>
consteval bool counts_nothing() {
  return any_counts_zero<S>::value || counts_all<typename S::persistence> ||
         counts_all<typename S::live_limit> || counts_all<typename S::prefetch_limit> ||
         counts_all<typename S::gather_limit> || counts_all<typename S::wrap> ||
         S::persistence::persist_below == 1 || S::wrap::least == 1;
}

template <class S>
consteval bool gathers_in_turn() {
  return gathers_in_turn_with<typename S::sharding, typename S::wrap>;
}
template <class S>
consteval bool reshards_nothing() {
  return S::reshard::ranks != 0 &&
         (!gathers_in_turn<S>() ||
          (S::reuse::reuse_elements == unlimited && S::live_limit::live_elements == unlimited &&
           S::gather_limit::live_groups == unlimited));
}
template <class S>
consteval bool reshard_exceeds_group() {
  constexpr std::size_t group = group_of<typename S::sharding>, ranks = S::reshard::ranks;
  if constexpr (group < 2 || ranks == 0)
    return false;
  else
    return ranks >= group || group % ranks != 0;
}
template <class S>
consteval bool prefetches_backward() {
  return S::backward_prefetch::ahead != GatherAhead::never;
}
template <class S>
consteval bool prefetches_forward() {
  return S::forward_prefetch::depth != 0;
}
template <class S>
consteval bool keeps_several() {
  return prefetches_backward<S>() || prefetches_forward<S>() || S::reuse::reuse_elements != 0;
}
template <class S>
consteval bool bounds_gathers() {
  return S::live_limit::live_elements != unlimited ||
         S::prefetch_limit::ahead_elements != unlimited || S::reuse::reuse_elements != 0 ||
         S::gather_limit::live_groups != unlimited;
}
template <class S>
consteval bool bounds_nothing() {
  const bool prefetches = prefetches_backward<S>() || prefetches_forward<S>();
  return (S::prefetch_limit::ahead_elements != unlimited && !prefetches) ||
         ((S::live_limit::live_elements != unlimited ||
           S::gather_limit::live_groups != unlimited) &&
          !keeps_several<S>());
}
template <class S>
consteval bool prefetches_beyond_limit() {
  constexpr std::size_t depth = S::forward_prefetch::depth, groups = S::gather_limit::live_groups;
  return depth != 0 && depth != unlimited && groups != unlimited && depth >= groups;
}

template <class S>
consteval Rule first_broken_combination() {
#define SHARDEXPR_JUDGE(code, broken, what, advice) \
  if (broken) return Rule::code;
  SHARDEXPR_COMBINATION_RULES(SHARDEXPR_JUDGE)
#undef SHARDEXPR_JUDGE
  return Rule::none;
}
}  // namespace detail

}  // namespace shardexpr
