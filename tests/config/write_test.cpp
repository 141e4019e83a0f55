// SPDX-License-Identifier: Apache-2.0
// A strategy in the frameworks' words: what they can say comes back, what they cannot is named.
#include "../../examples/strategy_from_config/write.hpp"

#include <shardexpr/policy/strategy.hpp>

#include <string>
#include <vector>

#include "judged.hpp"
#include <doctest/doctest.h>

using from_config::Description;
using from_config::parse_policies;
using from_config::Values;
using from_config::Written;
using judged::Settings;

namespace {

/// Axes that a text leaves unsaid, "clipping, wrap"; empty: it says all.
std::string unsaid(const Written& written) {
  std::string all;
  for (const auto& each : written.unsaid) all += (all.empty() ? "" : ", ") + each.axis;
  return all;
}
std::string in_yaml(const char* policies, const Values& values = {}) {
  return unsaid(write_accelerate(parse_policies(policies), values));
}
std::string in_json(const char* policies, const Values& values = {}) {
  return unsaid(write_deepspeed(parse_policies(policies), values));
}
bool holds(const std::string& text, const char* part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("what Accelerate's YAML says comes back") {
  for (const char* policies :
       {"FullShard",
        "ShardGradOp",
        "NoShard",
        "ShardOptimizer, ClipNorm",
        "HybridShard<4>",
        "HybridShardGradOp<4>",
        "OffloadAll",
        "OffloadAll, ReuseWithin<unlimited>",
        "BackwardPost",
        "BackwardNone",
        "ForwardPrefetch<1>",
        "WrapWhole",
        "WrapBySize<1000>",
        "WrapEach<gpt::Block>",
        "WrapEach<gpt::Block>, Recompute<gpt::Block>",
        "WrapEach<mine::A, mine::B>, ForwardPrefetch<1>, MixedPrecision<bf16, bf16>",
        "Recompute<>",
        "WrapWhole, Recompute<>",
        "MixedPrecision<bf16, bf16>",
        "MixedPrecision<fp16, fp16>, DynamicLossScale",
        "NoShard, MixedPrecision<bf16, fp32>",
        "ShardGradOp, ClipNorm",
        "ShardOptimizer, ReduceAtEnd, ClipNorm",
        "FullShard, ClipNorm",
        "NoShard, ReduceAtEnd, ClipNorm, MixedPrecision<bf16, bf16>",
        "Offload<OnHost, OnNvme>, ClipNorm",
        "Offload<OnDevice, OnHost>, ClipNorm",
        "ShardGradOp, Offload<OnDevice, OnHost>, WrapEach<>, ClipNorm"}) {
    CAPTURE(std::string{policies});
    CHECK(in_yaml(policies) == "");
  }
}

TEST_CASE("what DeepSpeed's JSON says comes back") {
  for (const char* policies :
       {"FullShard",
        "ShardGradOp",
        "ShardOptimizer",
        "NoShard",
        "HybridShard<4>",
        "ReshardTo<2>",
        "HybridShard<4>, ReshardTo<2>",
        "OffloadAll",
        "Offload<OnNvme, OnNvme>",
        "Offload<OnDevice, OnNvmeBy<65536>>",
        "Offload<OnHost, Partly<3, 10>>",
        "ShardOptimizer, Offload<OnDevice, OnNvme>",
        "BackwardNone",
        "PersistBelow<1000>",
        "MaxLive<1000>",
        "PrefetchBucket<500>",
        "ReuseWithin<77>",
        "QuantizedWeights",
        "PersistBelow<7>, MaxLive<1000>, PrefetchBucket<500>, ReuseWithin<77>, QuantizedGradients",
        "BackwardNone, ReuseWithin<5>, MaxLive<9>",
        "ClipNorm",
        "Adam",
        "Sgd",
        "SgdMomentum",
        "Lion",
        "Adagrad",
        "ShardOptimizer, ReduceAtEnd",
        "NoShard, ReduceAtEnd",
        "MixedPrecision<bf16, bf16>",
        "MixedPrecision<bf16, fp32>",
        "MixedPrecision<fp16, fp16>, DynamicLossScale",
        "MixedPrecision<fp16, fp32>, StaticLossScale",
        "Precision<bf16, bf16, bf16, fp32>",
        "Precision<bf16, bf16, bf16, bf16>, Lion",
        "Precision<bf16, bf16, bf16, bf16>, Sgd",
        "Precision<fp16, fp16, fp16, fp32>, StaticLossScale"}) {
    CAPTURE(std::string{policies});
    CHECK(in_json(policies) == "");
  }
}

TEST_CASE("what a format cannot say is named, axis by axis") {
  CHECK(in_yaml("PersistBelow<1000>") == "persistence");
  CHECK(in_yaml("FullShard, Lion") == "optimizer");
  CHECK(in_yaml("WrapEach<gpt::Block>, ClipNorm") == "clipping");
  CHECK(in_yaml("WrapEach<gpt::Block>, ReduceAtEnd") == "accumulation");
  CHECK(in_yaml("MixedPrecision<bf16, fp32>") == "precision");
  // DeepSpeed's block always clips: what FSDP's says is nearer, no weight depends on the rest.
  CHECK(in_yaml("ShardOptimizer") == "sharding");
  CHECK(in_yaml("Offload<OnHost, OnNvme>") == "offload");
  CHECK(in_yaml("ShardOptimizer, Offload<OnDevice, OnNvme>") == "clipping");
  CHECK(in_yaml("ForwardPrefetch<2>") == "forward prefetch");
  CHECK(in_yaml("Recompute<gpt::Block>") == "recompute");
  CHECK(in_yaml("HybridShard<4>, ReshardTo<2>") == "reshard");
  CHECK(in_yaml("ReuseWithin<unlimited>") == "reuse");
  CHECK(in_yaml("QuantizedWeights, QuantizedGradients") ==
        "weight compression, gradient compression");
  CHECK(in_json("BackwardPost") == "backward prefetch");
  CHECK(in_json("ForwardPrefetch<1>") == "forward prefetch");
  CHECK(in_json("ClipValue") == "clipping");
  CHECK(in_json("WrapEach<gpt::Block>, Recompute<gpt::Block>") == "wrap, recompute");
  CHECK(in_json("WrapWhole") == "wrap");
  CHECK(in_json("HybridShardGradOp<4>") == "sharding");
  CHECK(in_json("LimitGathers<2>") == "gather limit");
  CHECK(in_json("ReduceAtEnd") == "accumulation");
  CHECK(in_json("NoShard, Offload<OnDevice, OnHost>") == "offload");
  CHECK(in_json("Precision<bf16, bf16, bf16, bf16>, RoundStochastic") == "rounding");
  CHECK(in_json("Precision<fp32, bf16, bf16, bf16>") == "precision");
  CHECK(in_json("ReuseWithin<unlimited>") == "reuse");
}

TEST_CASE("a type is written as its description is") {
  using namespace shardexpr;
  using S = StrategyOf<ShardGradOp, ClipNorm, MixedPrecision<bf16, fp32>>;
  CHECK(from_config::deepspeed_json<S>().text ==
        write_deepspeed(parse_policies("ShardGradOp, ClipNorm, MixedPrecision<bf16, fp32>")).text);
  CHECK(from_config::deepspeed_json<S>().unsaid.empty());
  CHECK(from_config::accelerate_yaml<S>().unsaid.size() == 1);
}

TEST_CASE("values that a format has keys for are in it") {
  Values values;
  values.learning_rate = 3e-4;
  values.beta1 = 0.8;
  values.beta2 = 0.98;
  values.weight_decay = 0.01;
  values.clip = 0.5;
  values.micro_batches = 4;
  values.micro_batch_size = 2;
  values.nvme_directory = "/disk/\"a\"";
  values.checkpoint = "full";
  values.overlaps = true;
  values.initial_scale = 1024;
  values.growth_interval = 7;
  values.hysteresis = 3;
  values.least_scale = 2;
  const Written written = write_deepspeed(
      parse_policies("Offload<OnDevice, OnNvme>, ClipNorm, MixedPrecision<fp16, fp16>, "
                     "DynamicLossScale"),
      values);
  CHECK(written.unsaid.empty());
  const judged::Judgement read = judged::json(written.text);
  CHECK(read.is_supported());
  CHECK(read.warnings.empty());
  const Values& v = read.values;
  CHECK(v.learning_rate == 3e-4);
  CHECK(v.beta1 == 0.8);
  CHECK(v.beta2 == 0.98);
  CHECK(v.weight_decay == 0.01);
  CHECK(v.clip == 0.5);
  CHECK(v.micro_batches == 4);
  CHECK(v.micro_batch_size == 2);
  CHECK(v.nvme_directory == "/disk/\"a\"");
  CHECK(v.checkpoint == "full");
  CHECK(v.overlaps);
  CHECK(v.initial_scale == 1024);
  CHECK(v.growth_interval == 7);
  CHECK(v.hysteresis == 3);
  CHECK(v.least_scale == 2);
  const judged::Judgement block =
      judged::yaml(write_accelerate(parse_policies("ShardGradOp, ClipNorm"), values).text);
  CHECK(block.is_supported());
  CHECK(block.values.clip == 0.5);
  CHECK(block.values.micro_batches == 4);
}

TEST_CASE("what is written is taken without a warning, and written again the same") {
  for (const char* policies :
       {"FullShard", "HybridShard<4>, ReshardTo<2>", "WrapEach<gpt::Block>, ForwardPrefetch<1>",
        "ShardOptimizer, ReduceAtEnd, ClipNorm, MixedPrecision<fp16, fp16>, DynamicLossScale",
        "ShardOptimizer, SgdMomentum", "NoShard"}) {
    CAPTURE(std::string{policies});
    const Description d = parse_policies(policies);
    for (const bool is_json : {false, true}) {
      const Written first = is_json ? write_deepspeed(d) : write_accelerate(d);
      const judged::Judgement read =
          from_config::judge_bytes("written", first.text, is_json, Settings{});
      CHECK(read.is_supported());
      CHECK(read.warnings.empty());
      if (first.unsaid.empty()) {
        const Written second = is_json ? write_deepspeed(read.strategy, read.values)
                                       : write_accelerate(read.strategy, read.values);
        const judged::Judgement again =
            from_config::judge_bytes("written", second.text, is_json, Settings{});
        CHECK(again.strategy == read.strategy);
        CHECK(again.warnings == read.warnings);
      }
    }
  }
}

TEST_CASE("fsdp's versions: the one that says more") {
  CHECK(holds(write_fsdp(parse_policies("WrapEach<gpt::Block>")).text, "fsdp_version: 1"));
  Settings settings;
  settings.ranks = 8;
  CHECK(unsaid(write_fsdp(parse_policies("HybridShard<4>"), {}, settings)) == "");
}

TEST_CASE(
    "a strategy in the dtype that was loaded: no mixed precision, and the option says which") {
  Settings settings;
  settings.loaded = from_config::Dtype::bf16;
  const Description d = parse_policies("WrapWhole, Precision<bf16, bf16, bf16, bf16>");
  CHECK(unsaid(write_accelerate(d, {}, settings)) == "");
  CHECK(unsaid(write_accelerate(d)) == "precision");
}

TEST_CASE("side by side, in the guide's groups") {
  const std::string table = from_config::explain(
      parse_policies("Offload<OnDevice, OnNvme>, ClipNorm, MixedPrecision<bf16, bf16>"), {}, {});
  for (const char* group : {"| sharding |", "| offload |", "| model loading |", "| checkpointing |",
                            "| prefetching |", "| model |", "| parameters summoning |",
                            "| parameters syncing |", "| training |", "| precision |"})
    CHECK(holds(table, group));
  CHECK(holds(table,
              "| sharding | `fsdp_sharding_strategy: FULL_SHARD` | `stage: 3` | "
              "`FullShard` |"));
  CHECK(holds(table,
              "| offload | `fsdp_offload_params: false`; cannot say `Offload<OnDevice, "
              "OnNvme>` | `device: nvme` | `Offload<OnDevice, OnNvme>` |"));
}

TEST_CASE("side by side: what either cannot say") {
  const std::string table = from_config::explain(parse_policies("ClipValue, Lion"), {}, {});
  CHECK(holds(table,
              "| training | the script's; cannot say `ClipValue`; cannot say `Lion` | "
              "`gradient_accumulation_steps: 1`, `gradient_clipping: 1`, `type: Lion`; "
              "cannot say `ClipValue` | `ClipValue`, `Lion` |"));
}

TEST_CASE("the header") {
  Values values;
  values.learning_rate = 2e-5;
  values.clip = 1;
  values.momentum = 0.9;
  values.micro_batches = 2;
  values.ranks = 8;
  const Description d = parse_policies("ShardGradOp, ClipNorm, WrapEach<>");
  const std::string header = from_config::write_header("Mine", "a\"b\n.json", d, values);
  CHECK(holds(header,
              "using Trainer = Sharded<Model, ShardGradOp, ClipNorm, AdamW, FullPrecision>;"));
  CHECK(holds(header, "file = \"a\\\"b\\012.json\""));
  CHECK(holds(header, "options.optimizer.learning_rate = 2e-05f;"));
  CHECK(holds(header, "options.clipping.max_norm = 1.0f;"));
  CHECK(holds(header, "options.micro_batches = 2;"));
  CHECK(holds(header, "ranks = 8, micro_batches = 2, micro_batch_size = 0;"));
  CHECK_FALSE(holds(header, "momentum"));  // AdamW has none
}
