// SPDX-License-Identifier: Apache-2.0
// A strategy is the same as a type, as text and as data.
#include <shardexpr/policy/deepspeed.hpp>
#include <shardexpr/policy/fsdp.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <string>

#include "../../examples/strategy_from_config/describe.hpp"
#include <doctest/doctest.h>

using namespace shardexpr;
using from_config::describe;
using from_config::Description;
using from_config::pack_of;
using from_config::parse_policies;

namespace block {
struct Block {};
struct Head {};
}  // namespace block

namespace {

std::string said(const char* policies) {
  try {
    (void)parse_policies(policies);
    return {};
  } catch (const from_config::BadPolicies& error) {
    return error.what();
  }
}

}  // namespace

// The compiler's type of a pack, and the pack's text, give one description; which, written, is a
// pack of that description again.
#define SAME(...)                                                      \
  do {                                                                 \
    static_assert(LegalStrategy<__VA_ARGS__>);                         \
    const Description of_type = describe<StrategyOf<__VA_ARGS__>>();   \
    const Description of_text = parse_policies(#__VA_ARGS__);          \
    CHECK(of_type == of_text);                                         \
    CHECK(parse_policies(pack_of(of_type)) == of_type);                \
    CHECK(parse_policies(pack_of(of_type, "shardexpr::")) == of_type); \
    CHECK(from_config::differences(of_type, of_text).empty());         \
  } while (false)

TEST_CASE("each policy is one description, as a type and as text") {
  SAME(FullShard);
  SAME(ShardGradOp);
  SAME(ShardOptimizer);
  SAME(NoShard);
  SAME(HybridShard<4>);
  SAME(HybridShardGradOp<8>);
  SAME(ReshardTo<2>);
  SAME(OffloadAll);
  SAME(Offload<OnDevice, OnHost>);
  SAME(Offload<OnNvme, OnNvmeBy<65536>>);
  SAME(NoShard, Offload<OnDevice, Partly<3, 10>>);
  SAME(BackwardPost);
  SAME(BackwardNone);
  SAME(ForwardPrefetch<2>);
  SAME(ForwardPrefetch<unlimited>);
  SAME(PersistBelow<100000>);
  SAME(MaxLive<1000>, PrefetchBucket<500>);
  SAME(PrefetchBucket<500>, ForwardNone);
  SAME(PrefetchBucket<500>, BackwardNone);
  SAME(ReuseWithin<unlimited>);
  SAME(LimitGathers<2>);
  SAME(WrapEach<block::Block>);
  SAME(WrapEach<block::Block, block::Head>, Recompute<block::Block>);
  SAME(WrapBySize<1000000>);
  SAME(WrapWhole);
  SAME(ReduceAtEnd);
  SAME(ClipNorm);
  SAME(ClipValue);
  SAME(Recompute<>);
  SAME(Adam);
  SAME(Sgd);
  SAME(SgdMomentum);
  SAME(Lion);
  SAME(Adagrad);
  SAME(FullPrecision);
  SAME(MixedPrecision<bf16, fp32>);
  SAME(MixedPrecision<fp16, fp16>, DynamicLossScale);
  SAME(Precision<bf16, bf16, bf16, bf16>, RoundStochastic);
  SAME(Precision<fp32, bf16, bf16, fp32, bf16>, StaticLossScale);
  SAME(QuantizedWeights, QuantizedGradients);
}

TEST_CASE("the frameworks' words are described as what they are") {
  using S = StrategyOf<deepspeed::ZeroStage<2>, deepspeed::precision<bf16, bf16>>;
  CHECK(describe<S>() == parse_policies("ShardGradOp, MixedPrecision<bf16, bf16>"));
  using F = StrategyOf<fsdp::NO_WRAP, fsdp::offload_params<true>>;
  CHECK(describe<F>() == parse_policies("OffloadAll, WrapWhole"));
}

TEST_CASE("a unit of the library has one name, with its scope or without") {
  CHECK(parse_policies("WrapEach<shardexpr::gpt::Block>") ==
        parse_policies("WrapEach<gpt::Block>"));
}

TEST_CASE("a pack is written with what is no default") {
  CHECK(pack_of(parse_policies("")) == "FullShard, AdamW, FullPrecision");
  CHECK(pack_of(parse_policies("BackwardPre, NoShard")) ==
        "NoShard, BackwardPre, AdamW, FullPrecision");
  CHECK(pack_of(parse_policies("BackwardPre, ReuseWithin<unlimited>"), "sx::") ==
        "sx::FullShard, sx::ReuseWithin<sx::unlimited>, sx::AdamW, sx::FullPrecision");
}

TEST_CASE("differences name the axis and both policies") {
  const auto all =
      from_config::differences(parse_policies("NoShard, Lion"), parse_policies("ClipNorm"));
  REQUIRE(all.size() == 4);
  CHECK(all[0].axis == "sharding");
  CHECK(all[0].wanted == "NoShard");
  CHECK(all[0].got == "FullShard");
  CHECK(all[1].axis == "backward prefetch");
  CHECK(all[2].axis == "clipping");
  CHECK(all[2].wanted == "none");
  CHECK(all[3].wanted == "Lion");
}

TEST_CASE("what is no pack is refused in a line") {
  CHECK(said("FullShard, NoShard") == "two policies of sharding; keep one");
  CHECK(said("FullShards") ==
        "'FullShards' is none of the library's policies that a file can speak of");
  CHECK(said("HybridShard") == "HybridShard takes 1 argument, got 0");
  CHECK(said("HybridShard<x>") == "HybridShard takes a whole number, got 'x'");
  CHECK(said("HybridShard<2") == "HybridShard<...: expected '>'");
  CHECK(said("MixedPrecision<bf16, fp8>") == "'fp8' is none of fp32, bf16 and fp16");
  CHECK(said("Offload<OnHost, Here>") == "'Here' is no place of state");
  CHECK(said("FullShard NoShard") == "'NoShard': expected a comma");
  CHECK(said("FullShard,") == "the list of policies ends too soon");
  CHECK(said("<<<<<<<<<<<") == "'<<<<<<<<<<<': expected a policy");
  CHECK(said("a<a<a<a<a<a<a<a<a<a<a<") == "policies nest deeper than any does");
}
