// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>

#include <array>
#include <string_view>
#include <type_traits>

// Each rule lives here once: code, what breaks it, what is wrong, what to write instead. From this
// come the static_asserts, `LegalStrategy`, the run-time list, and, checked by a test,
// docs/diagnostics.md. Codes: 0xx grammar of the pack, 1xx combinations, 2xx model, 3xx backend.

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
  RULE(SX103, !all_fp32<typename S::precision>(),                                                  \
       "the precision names a dtype other than fp32, the only one that is trained in",             \
       "use FullPrecision")

namespace shardexpr {

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

inline constexpr auto rule_texts = std::to_array<RuleText>({
#define SHARDEXPR_RULE_TEXT(code, broken, what, advice) {#code, what, advice},
    SHARDEXPR_GRAMMAR_RULES(SHARDEXPR_RULE_TEXT) SHARDEXPR_COMBINATION_RULES(SHARDEXPR_RULE_TEXT)
#undef SHARDEXPR_RULE_TEXT
});

namespace detail {
template <class P>
consteval bool all_fp32() {
  return std::is_same_v<typename P::storage, fp32> && std::is_same_v<typename P::compute, fp32> &&
         std::is_same_v<typename P::reduce, fp32> && std::is_same_v<typename P::optimizer, fp32>;
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
