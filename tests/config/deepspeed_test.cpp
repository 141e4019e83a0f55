// SPDX-License-Identifier: Apache-2.0
// DeepSpeed's JSON: the strategy that trains as it does, and one verdict for each key.
#include <algorithm>
#include <string>

#include "judged.hpp"
#include <doctest/doctest.h>

using namespace judged;
using from_config::Dtype;
using from_config::Schedule;

TEST_CASE("stages") {
  CHECK(outcome(json("{\"a_comment\": null}")) == "NoShard, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero("", 0))) == "NoShard, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero("", 1))) == "ShardOptimizer, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero("", 2))) == "ShardGradOp, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero("", 3))) == "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(json_refusal(zero("", 4)) == "ds.json:1: zero_optimization.stage: there are stages 0 to 3");
  CHECK(json_refusal(zero("", -1)) ==
        "ds.json:1: zero_optimization.stage: -1 is negative; give at least 0");
  CHECK(outcome(json("{\"zero_optimization\": {\"stage\": [0, 1, 2]}}")) ==
        "NoShard, ClipNorm, AdamW, FullPrecision; not zero_optimization.stage");
  CHECK(outcome(json("{\"zero_optimization\": true}")) ==
        "NoShard, ClipNorm, AdamW, FullPrecision; not zero_optimization");
}

TEST_CASE("precision is that of the 16-bit block, over fp32 whatever was loaded") {
  const auto of = [](const char* members) {
    return outcome(json("{" + std::string{members} + "}"));
  };
  CHECK(of("\"bf16\": {\"enabled\": true}") ==
        "NoShard, ClipNorm, AdamW, MixedPrecision<bf16, bf16>");
  CHECK(of("\"fp16\": {\"enabled\": true}") ==
        "NoShard, ClipNorm, AdamW, MixedPrecision<fp16, fp16>, DynamicLossScale");
  CHECK(of("\"fp16\": {\"enabled\": true, \"loss_scale\": 128}") ==
        "NoShard, ClipNorm, AdamW, MixedPrecision<fp16, fp16>, StaticLossScale");
  CHECK(of("\"bf16\": {\"enabled\": false}") == "NoShard, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"bf16\": {\"enabled\": true}, \"communication_data_type\": \"fp32\"") ==
        "NoShard, ClipNorm, AdamW, MixedPrecision<bf16, fp32>");
  CHECK(of("\"communication_data_type\": \"bf16\"") ==
        "NoShard, ClipNorm, AdamW, MixedPrecision<fp32, bf16>");
  CHECK(of("\"bf16\": {\"enabled\": true}, \"communication_data_type\": \"fp16\"") ==
        "NoShard, ClipNorm, AdamW, MixedPrecision<bf16, bf16>; not communication_data_type");
  CHECK(of("\"communication_data_type\": \"fp16\"") ==
        "NoShard, ClipNorm, AdamW, FullPrecision; not communication_data_type");
  CHECK(of("\"bf16\": {\"enabled\": true}, \"fp16\": {\"enabled\": true}") ==
        "NoShard, ClipNorm, AdamW, MixedPrecision<fp16, fp16>, DynamicLossScale; not bf16.enabled");
  CHECK(of("\"bf16\": {\"enabled\": true, \"bf16_master_weights_and_grads\": true}") ==
        "NoShard, ClipNorm, AdamW, Precision<bf16, bf16, bf16, fp32>");
  CHECK(of("\"bf16\": {\"enabled\": true, \"bf16_master_weights_and_grads\": true, "
           "\"bf16_optimizer_states\": true}") ==
        "NoShard, ClipNorm, AdamW, Precision<bf16, bf16, bf16, bf16>");
  CHECK(of("\"bf16\": {\"enabled\": true, \"bf16_optimizer_states\": true}") ==
        "NoShard, ClipNorm, AdamW, MixedPrecision<bf16, bf16>; not bf16.bf16_optimizer_states");
  CHECK(of("\"torch_autocast\": {\"enabled\": true}") ==
        "NoShard, ClipNorm, AdamW, FullPrecision; not torch_autocast.enabled");
  CHECK(of("\"torch_autocast\": {\"enabled\": false, \"dtype\": \"bf16\"}") ==
        "NoShard, ClipNorm, AdamW, FullPrecision");
  CHECK(json_refusal("{\"bf16\": {\"enabled\": \"true\"}}") ==
        "ds.json:1: bf16.enabled: 'true' is a text; give true or false, without quotes");
  CHECK(json_refusal("{\"bf16\": {\"enabled\": 1}}") ==
        "ds.json:1: bf16.enabled: 1 is a number; give true or false, without quotes");
}

TEST_CASE("reduced gradients are kept in the wider of storage and reduce") {
  const std::string half =
      "{\"bf16\": {\"enabled\": true}, \"data_types\": "
      "{\"grad_accum_dtype\": \"bf16\"}}";
  CHECK(json(half).is_supported());
  CHECK(warns(json(half), "added up in fp32 here"));
  const std::string whole =
      "{\"bf16\": {\"enabled\": true, \"bf16_master_weights_and_grads\": "
      "true}, \"data_types\": {\"grad_accum_dtype\": \"fp32\"}}";
  CHECK_FALSE(json(whole).is_supported());
  CHECK_FALSE(json_refusal("{\"data_types\": {\"grad_accum_dtype\": \"int8\"}}").empty());
}

TEST_CASE("fp16: values of the loss scale are DeepSpeed's") {
  const Judgement left_out = json("{\"fp16\": {\"enabled\": true}}");
  CHECK(left_out.values.initial_scale == 65536);
  CHECK(left_out.values.growth_interval == 1000);
  CHECK(left_out.values.hysteresis == 2);
  CHECK(left_out.values.least_scale == 1);
  const Judgement given = json(
      "{\"fp16\": {\"enabled\": true, \"loss_scale\": 0, \"initial_scale_power\": 32, "
      "\"loss_scale_window\": 100, \"hysteresis\": 4, \"min_loss_scale\": 1e-10, "
      "\"auto_cast\": true, \"consecutive_hysteresis\": true}}");
  CHECK(given.values.initial_scale == 4294967296.0);
  CHECK(given.values.growth_interval == 100);
  CHECK(given.values.hysteresis == 4);
  CHECK(given.values.least_scale == 1e-10);
  CHECK(verdict(given, "fp16.initial_scale_power") == Verdict::value);
  CHECK(verdict(given, "fp16.auto_cast") == Verdict::aside);
  CHECK(verdict(given, "fp16.consecutive_hysteresis") == Verdict::unsupported);
  const Judgement fixed =
      json("{\"fp16\": {\"enabled\": true, \"loss_scale\": 8, \"hysteresis\": 2}}");
  CHECK(fixed.values.scale == 8);
  CHECK(!fixed.values.initial_scale);
  CHECK(verdict(fixed, "fp16.hysteresis") == Verdict::ignored);
  CHECK(verdict(json("{\"fp16\": {\"enabled\": false, \"hysteresis\": 2}}"), "fp16.hysteresis") ==
        Verdict::ignored);
  const auto refused = [](const char* member) {
    return json_refusal("{\"fp16\": {\"enabled\": true, " + std::string{member} + "}}");
  };
  CHECK_FALSE(refused("\"initial_scale_power\": 128").empty());
  CHECK_FALSE(refused("\"loss_scale_window\": 0").empty());
  CHECK_FALSE(refused("\"min_loss_scale\": 0").empty());
  CHECK_FALSE(refused("\"initial_scale_power\": 2, \"min_loss_scale\": 8").empty());
}

TEST_CASE("auto of the 16-bit blocks is an option's") {
  const std::string both = "{\"fp16\": {\"enabled\": \"auto\"}, \"bf16\": {\"enabled\": \"auto\"}}";
  Settings settings;
  CHECK(pack(json(both, settings)) == "NoShard, ClipNorm, AdamW, FullPrecision");
  settings.mixed_precision = "bf16";
  CHECK(pack(json(both, settings)) == "NoShard, ClipNorm, AdamW, MixedPrecision<bf16, bf16>");
  settings.mixed_precision = "fp16";
  CHECK(pack(json(both, settings)) ==
        "NoShard, ClipNorm, AdamW, MixedPrecision<fp16, fp16>, DynamicLossScale");
  CHECK(json(both, settings).rules.size() == 4);
}

TEST_CASE("offload: where state may lie, by stage") {
  const auto of = [](const char* members, int stage) {
    return outcome(json(zero(members, stage)));
  };
  const char* const both =
      "\"offload_optimizer\": {\"device\": \"cpu\"}, "
      "\"offload_param\": {\"device\": \"cpu\"}";
  CHECK(of(both, 3) == "FullShard, OffloadAll, ClipNorm, AdamW, FullPrecision");
  CHECK(of(both, 2) == "ShardGradOp, Offload<OnDevice, OnHost>, ClipNorm, AdamW, FullPrecision");
  CHECK(of(both, 1) == "ShardOptimizer, Offload<OnDevice, OnHost>, ClipNorm, AdamW, FullPrecision");
  CHECK(of(both, 0) == "NoShard, ClipNorm, AdamW, FullPrecision");
  CHECK(warns(json(zero(both, 2)), "offload_param.device: without effect"));
  CHECK(warns(json(zero(both, 0)), "offload_optimizer.device: without effect"));
  CHECK(verdict(json(zero(both, 2)), "zero_optimization.offload_param.device") == Verdict::ignored);
  CHECK(of("\"offload_optimizer\": {\"device\": \"none\", \"pin_memory\": true}", 3) ==
        "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"offload_optimizer\": null", 3) == "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"cpu_offload\": true", 2) ==
        "ShardGradOp, Offload<OnDevice, OnHost>, ClipNorm, AdamW, FullPrecision");
  CHECK(json_refusal(zero("\"offload_optimizer\": {\"device\": \"gpu\"}")) ==
        "ds.json:1: zero_optimization.offload_optimizer.device: 'gpu' is none of none, cpu, nvme, "
        "auto");

  const char* const disk =
      "\"sub_group_size\": 1e8, \"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": "
      "\"/disk\", \"pipeline_read\": true, \"buffer_count\": 4}";
  CHECK(of(disk, 3) ==
        "FullShard, Offload<OnDevice, OnNvmeBy<99975168>>, ClipNorm, AdamW, FullPrecision");
  CHECK(json(zero(disk)).values.nvme_directory == "/disk");
  CHECK(of(disk, 2) == "ShardGradOp, Offload<OnDevice, OnNvme>, ClipNorm, AdamW, FullPrecision");
  CHECK(warns(json(zero(disk, 2)), "below stage 3 DeepSpeed takes the host's memory"));
  CHECK(warns(json(zero("\"offload_param\": {\"device\": \"nvme\"}")), "without nvme_path"));
  CHECK(of("\"offload_param\": {\"device\": \"nvme\", \"nvme_path\": \"/a\"}, "
           "\"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": \"/b\"}",
           3) ==
        "FullShard, Offload<OnNvme, OnNvme>, ClipNorm, AdamW, FullPrecision; not "
        "zero_optimization.offload_optimizer.nvme_path");

  const auto ratio = [&](const char* value, int stage = 3) {
    const std::string member =
        "\"offload_optimizer\": {\"device\": \"cpu\", \"ratio\": " + std::string{value} + "}";
    return of(member.c_str(), stage);
  };
  CHECK(ratio("0.3") ==
        "FullShard, Offload<OnDevice, Partly<3, 10>>, ClipNorm, AdamW, FullPrecision");
  CHECK(ratio("1.0") == "FullShard, Offload<OnDevice, OnHost>, ClipNorm, AdamW, FullPrecision");
  CHECK(ratio("0") == "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(ratio("0.5", 2) ==
        "ShardGradOp, Offload<OnDevice, OnHost>, ClipNorm, AdamW, FullPrecision");
  CHECK_FALSE(
      json_refusal(zero("\"offload_optimizer\": {\"device\": \"cpu\", \"ratio\": 1.5}")).empty());
}

TEST_CASE("thresholds of stage 3 are policies, and below it without effect") {
  const char* const all =
      "\"stage3_param_persistence_threshold\": 1e5, \"stage3_max_live_parameters\": 1e9, "
      "\"stage3_prefetch_bucket_size\": 5e7, \"stage3_max_reuse_distance\": 1e8";
  CHECK(outcome(json(zero(all))) ==
        "FullShard, PersistBelow<100000>, MaxLive<1000000000>, PrefetchBucket<50000000>, "
        "ReuseWithin<100000000>, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero(all, 2))) == "ShardGradOp, ClipNorm, AdamW, FullPrecision");
  CHECK(json(zero(all, 2)).warnings.size() == 4);
  CHECK(verdict(json(zero(all, 2)), "zero_optimization.stage3_max_reuse_distance") ==
        Verdict::ignored);
  // By the names of the fields.
  CHECK(outcome(json(zero("\"max_live_parameters\": 7, \"max_reuse_distance\": 0"))) ==
        "FullShard, MaxLive<7>, ClipNorm, AdamW, FullPrecision");
  // Nothing is gathered ahead: nothing to bound.
  CHECK(outcome(json(zero("\"stage3_prefetch_bucket_size\": 0, "
                          "\"stage3_max_live_parameters\": 100"))) ==
        "FullShard, BackwardNone, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero("\"stage3_max_live_parameters\": 0"))) ==
        "FullShard, BackwardNone, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero("\"stage3_prefetch_bucket_size\": 0, \"stage3_max_live_parameters\": 9, "
                          "\"stage3_max_reuse_distance\": 5"))) ==
        "FullShard, BackwardNone, MaxLive<9>, ReuseWithin<5>, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero("\"stage3_param_persistence_threshold\": 1"))) ==
        "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero("\"stage3_param_persistence_threshold\": 10, "
                          "\"stage3_model_persistence_threshold\": 0"))) ==
        "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(json(zero("\"stage3_param_persistence_threshold\": 10, "
                          "\"stage3_model_persistence_threshold\": 100"))) ==
        "FullShard, PersistBelow<10>, ClipNorm, AdamW, FullPrecision; not "
        "zero_optimization.stage3_model_persistence_threshold");
  const char* const open =
      "\"stage3_param_persistence_threshold\": \"auto\", "
      "\"stage3_prefetch_bucket_size\": \"auto\", \"reduce_bucket_size\": \"auto\"";
  CHECK(outcome(json(zero(open))) == "FullShard, ClipNorm, AdamW, FullPrecision");
  Settings settings;
  settings.hidden_size = 1000;
  CHECK(outcome(json(zero(open), settings)) ==
        "FullShard, PersistBelow<10000>, ClipNorm, AdamW, FullPrecision");
  CHECK(json_refusal(zero("\"stage3_max_live_parameters\": 1e300")) ==
        "ds.json:1: zero_optimization.stage3_max_live_parameters: 1e300 is too large; give at most "
        "2^53");
  CHECK(json_refusal(zero("\"stage3_max_live_parameters\": 1.5")) ==
        "ds.json:1: zero_optimization.stage3_max_live_parameters: 1.5 is a fraction; give a whole "
        "number");
}

TEST_CASE("hpZ, MiCS and quantized collectives") {
  const auto of = [](const char* members, std::size_t ranks = 0, int stage = 3) {
    Settings settings;
    if (ranks != 0) settings.ranks = ranks;
    return outcome(json(zero(members, stage), settings));
  };
  CHECK(of("\"zero_hpz_partition_size\": 4") ==
        "FullShard, ReshardTo<4>, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"zero_hpz_partition_size\": 1") == "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"zero_hpz_partition_size\": 4", 4) == "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"zero_hpz_partition_size\": 3", 4) ==
        "FullShard, ClipNorm, AdamW, FullPrecision; not zero_optimization.zero_hpz_partition_size");
  CHECK(of("\"zero_hpz_partition_size\": 4", 0, 2) ==
        "ShardGradOp, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"mics_shard_size\": 4") == "HybridShard<4>, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"mics_shard_size\": -1") == "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"mics_shard_size\": 8", 8) == "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"mics_shard_size\": 3", 8) ==
        "FullShard, ClipNorm, AdamW, FullPrecision; not zero_optimization.mics_shard_size");
  CHECK(of("\"mics_shard_size\": 1") ==
        "FullShard, ClipNorm, AdamW, FullPrecision; not zero_optimization.mics_shard_size");
  CHECK(of("\"mics_shard_size\": 8, \"zero_hpz_partition_size\": 2") ==
        "HybridShard<8>, ReshardTo<2>, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"mics_shard_size\": 4, \"zero_hpz_partition_size\": 4") ==
        "HybridShard<4>, ClipNorm, AdamW, FullPrecision; not "
        "zero_optimization.zero_hpz_partition_size");
  // Batch sizes may say how many ranks there are.
  const auto sized = [](const char* total) {
    return outcome(json("{\"train_batch_size\": " + std::string{total} +
                        ", \"train_micro_batch_size_per_gpu\": 2, \"zero_optimization\": "
                        "{\"stage\": 3, \"mics_shard_size\": 4}}"));
  };
  CHECK(sized("8") == "FullShard, ClipNorm, AdamW, FullPrecision");
  CHECK(sized("16") == "HybridShard<4>, ClipNorm, AdamW, FullPrecision");
  CHECK(of("\"zero_quantized_weights\": true, \"zero_quantized_gradients\": true") ==
        "FullShard, ClipNorm, AdamW, FullPrecision, QuantizedWeights, QuantizedGradients");
  CHECK(of("\"zero_quantized_weights\": true", 0, 2) ==
        "ShardGradOp, ClipNorm, AdamW, FullPrecision");
  CHECK(
      of("\"zero_quantized_gradients\": true, \"reduce_scatter\": false") ==
      "FullShard, ClipNorm, AdamW, FullPrecision; not zero_optimization.zero_quantized_gradients");
}

TEST_CASE("batch sizes agree, or DeepSpeed refuses them") {
  const auto of = [](const char* members, std::size_t ranks = 0, int stage = 2) {
    Settings settings;
    if (ranks != 0) settings.ranks = ranks;
    return json(
        "{\"zero_optimization\": {\"stage\": " + std::to_string(stage) + "}, " + members + "}",
        settings);
  };
  const char* const three =
      "\"train_batch_size\": 32, \"train_micro_batch_size_per_gpu\": 4, "
      "\"gradient_accumulation_steps\": 2";
  CHECK(of(three).values.ranks == 4);
  CHECK(of(three).values.micro_batches == 2);
  CHECK(of(three).values.micro_batch_size == 4);
  CHECK(of(three, 4).is_supported());
  CHECK(row(of(three, 8), "train_batch_size").text ==
        "32 is not 4 x 2 x 8 ranks, which DeepSpeed refuses");
  const char* const two = "\"train_batch_size\": 32, \"train_micro_batch_size_per_gpu\": 4";
  CHECK(of(two).values.ranks == 8);
  CHECK(of(two, 2).values.micro_batches == 4);
  CHECK_FALSE(of(two, 3).is_supported());
  CHECK_FALSE(of(two, 16).is_supported());
  CHECK(of("\"train_batch_size\": 32", 4).values.micro_batch_size == 8);
  CHECK(!of("\"train_batch_size\": 32").values.micro_batch_size);
  CHECK_FALSE(of("\"train_batch_size\": 33", 4).is_supported());
  CHECK(of("\"train_batch_size\": 32, \"gradient_accumulation_steps\": 2", 4)
            .values.micro_batch_size == 4);
  CHECK(json_refusal("{\"train_batch_size\": 0}") ==
        "ds.json:1: train_batch_size: 0 of them; give at least 1");
  CHECK(json_refusal("{\"train_batch_size\": -8}") ==
        "ds.json:1: train_batch_size: -8 is negative; give at least 0");
  CHECK(json_refusal("{\"train_batch_size\": \"8\"}") ==
        "ds.json:1: train_batch_size: '8' is a text; give a number, without quotes; in YAML one "
        "with an exponent as 1.0e+8");
  // Stages 0 and 1 reduce once, 2 and 3 in each micro-batch.
  const char* const steps = "\"gradient_accumulation_steps\": 2";
  CHECK(pack(of(steps, 0, 1)) == "ShardOptimizer, ReduceAtEnd, ClipNorm, AdamW, FullPrecision");
  CHECK(pack(of(steps, 0, 0)) == "NoShard, ReduceAtEnd, ClipNorm, AdamW, FullPrecision");
  CHECK(pack(of(steps, 0, 2)) == "ShardGradOp, ClipNorm, AdamW, FullPrecision");
  CHECK(pack(of("\"gradient_accumulation_steps\": 1", 0, 1)) ==
        "ShardOptimizer, ClipNorm, AdamW, FullPrecision");
  Settings settings;
  settings.micro_batches = 4;
  CHECK(json("{\"gradient_accumulation_steps\": \"auto\"}", settings).values.micro_batches == 4);
  CHECK(warns(of("\"gradient_accumulation_steps\": 2, \"bf16\": {\"enabled\": true}"),
              "adds up micro-batches in 16 bits"));
}

TEST_CASE("clipping") {
  CHECK(pack(json("{\"gradient_clipping\": 0.5}")) == "NoShard, ClipNorm, AdamW, FullPrecision");
  CHECK(json("{\"gradient_clipping\": 0.5}").values.clip == 0.5);
  CHECK(pack(json("{\"gradient_clipping\": 0}")) == "NoShard, AdamW, FullPrecision");
  CHECK(!json("{\"gradient_clipping\": 0}").values.clip);
  for (const char* one :
       {"{}", "{\"gradient_clipping\": null}", "{\"gradient_clipping\": \"auto\"}"}) {
    CAPTURE(std::string{one});
    const Judgement read = json(one);
    CHECK(pack(read) == "NoShard, ClipNorm, AdamW, FullPrecision");
    CHECK(read.values.clip == 1);
    CHECK(std::any_of(read.rules.begin(), read.rules.end(), [](const std::string& rule) {
      return rule.find("gradient_clipping") != rule.npos;
    }));
  }
  CHECK_FALSE(json_refusal("{\"gradient_clipping\": -1}").empty());
}

TEST_CASE("optimizers") {
  const auto of = [](const char* type, const char* params = "") {
    return json("{\"optimizer\": {\"type\": \"" + std::string{type} + "\", \"params\": {" + params +
                "}}}");
  };
  CHECK(outcome(of("AdamW")) == "NoShard, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(of("Adam")) == "NoShard, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(of("Adam", "\"adam_w_mode\": false")) == "NoShard, ClipNorm, Adam, FullPrecision");
  CHECK(outcome(of("AdamW", "\"adam_w_mode\": false")) ==
        "NoShard, ClipNorm, AdamW, FullPrecision");
  CHECK(warns(of("AdamW", "\"adam_w_mode\": false"), "adam_w_mode: without effect"));
  CHECK(outcome(of("SGD", "\"lr\": 0.1")) == "NoShard, ClipNorm, Sgd, FullPrecision");
  CHECK(outcome(of("SGD", "\"momentum\": 0.9, \"nesterov\": true")) ==
        "NoShard, ClipNorm, SgdMomentum, FullPrecision");
  CHECK(outcome(of("Lion")) == "NoShard, ClipNorm, Lion, FullPrecision");
  CHECK(outcome(of("adagrad")) == "NoShard, ClipNorm, Adagrad, FullPrecision");
  CHECK(outcome(of("Lamb", "\"lr\": 1")) ==
        "NoShard, ClipNorm, AdamW, FullPrecision; not optimizer.type; not optimizer.params.lr");
  CHECK(outcome(of("Adam", "\"bias_correction\": false")) ==
        "NoShard, ClipNorm, AdamW, FullPrecision; not optimizer.params.bias_correction");
  const Judgement given =
      of("AdamW",
         "\"lr\": 3e-4, \"betas\": [0.8, 0.9], \"eps\": 1e-6, \"weight_decay\": 0.01, "
         "\"torch_adam\": true");
  CHECK(given.is_supported());
  CHECK(given.values.learning_rate == 3e-4);
  CHECK(given.values.beta1 == 0.8);
  CHECK(given.values.beta2 == 0.9);
  CHECK(given.values.epsilon == 1e-6);
  CHECK(given.values.weight_decay == 0.01);
  // What is left out is DeepSpeed's default, not this library's.
  CHECK(of("AdamW").values.beta2 == 0.999);
  CHECK(of("AdamW").values.weight_decay == 0);
  CHECK(of("AdamW", "\"torch_adam\": true").values.weight_decay == 0.01);
  CHECK(of("Adam", "\"torch_adam\": true, \"adam_w_mode\": false").values.weight_decay == 0);
  CHECK(row(of("AdamW", "\"max_grad_norm\": 1"), "optimizer.params.max_grad_norm").text ==
        "DeepSpeed refuses it here; the key is gradient_clipping");
  CHECK(of("AdamW", "\"lr\": \"auto\", \"betas\": \"auto\"").is_supported());
  CHECK(json_refusal("{\"optimizer\": {\"type\": \"Adam\", \"params\": {\"betas\": [0.9]}}}") ==
        "ds.json:1: optimizer.params.betas: not two numbers in [0, 1); give [0.9, 0.999]");
  CHECK(outcome(json("{\"optimizer\": {\"params\": {\"lr\": 1}}}")) ==
        "NoShard, ClipNorm, AdamW, FullPrecision");
  // Sgd keeps no moments: no dtype for them.
  CHECK(outcome(json("{\"optimizer\": {\"type\": \"SGD\"}, \"bf16\": {\"enabled\": true, "
                     "\"bf16_master_weights_and_grads\": true}}")) ==
        "NoShard, ClipNorm, Sgd, Precision<bf16, bf16, bf16, bf16>");
}

TEST_CASE("schedules") {
  const auto of = [](const char* type, const char* params) {
    return json("{\"scheduler\": {\"type\": \"" + std::string{type} + "\", \"params\": {" + params +
                "}}}");
  };
  const Judgement decay = of("WarmupDecayLR",
                             "\"warmup_num_steps\": 10, \"total_num_steps\": 100, "
                             "\"warmup_max_lr\": 0.01, \"warmup_type\": \"linear\"");
  CHECK(decay.is_supported());
  CHECK(decay.values.schedule == Schedule::linear);
  CHECK(decay.values.warmup_steps == 10);
  CHECK(decay.values.total_steps == 100);
  CHECK(decay.values.learning_rate == 0.01);
  CHECK(decay.warnings.empty());
  CHECK(warns(of("WarmupLR", "\"warmup_num_steps\": 5"), "logarithm"));
  CHECK(of("WarmupLR", "").values.warmup_steps == 1000);
  CHECK(of("WarmupLR", "\"warmup_num_steps\": \"auto\"").values.schedule == Schedule::constant);
  CHECK(of("WarmupCosineLR", "\"warmup_num_steps\": 1, \"total_num_steps\": 9").values.schedule ==
        Schedule::cosine);
  CHECK(outcome(of("OneCycle", "\"cycle_min_lr\": 0")) ==
        "NoShard, ClipNorm, AdamW, FullPrecision; not scheduler.type; not "
        "scheduler.params.cycle_min_lr");
}

TEST_CASE("what DeepSpeed refuses because of how it was built is taken, with a warning") {
  const auto with = [](const char* members, const char* zero_members, int stage) {
    return json("{" + std::string{members} + (*members == '\0' ? "" : ", ") +
                zero(zero_members, stage).substr(1));
  };
  const char* const sgd = "\"optimizer\": {\"type\": \"SGD\"}";
  CHECK(outcome(with(sgd, "", 1)) == "ShardOptimizer, ClipNorm, Sgd, FullPrecision");
  CHECK(warns(with(sgd, "", 1), "unless zero_allow_untested_optimizer"));
  CHECK(with(sgd, "", 0).warnings.empty());
  const std::string allowed = std::string{sgd} + ", \"zero_allow_untested_optimizer\": true";
  CHECK(with(allowed.c_str(), "", 1).warnings.empty());
  const char* const ratio = "\"offload_optimizer\": {\"device\": \"cpu\", \"ratio\": 0.5}";
  CHECK(warns(with("\"optimizer\": {\"type\": \"Lion\"}", ratio, 3), "another optimizer"));
  CHECK(with("\"optimizer\": {\"type\": \"Adam\"}", ratio, 3).warnings.empty());
  const char* const offloaded = "\"offload_optimizer\": {\"device\": \"cpu\"}";
  const char* const mics = "\"mics_shard_size\": 2, \"offload_param\": {\"device\": \"cpu\"}";
  CHECK(outcome(with("", mics, 3)) ==
        "HybridShard<2>, Offload<OnHost, OnDevice>, ClipNorm, AdamW, FullPrecision");
  CHECK(warns(with("", mics, 3), "MiCS fails"));
  const char* const kept = "\"bf16\": {\"enabled\": true, \"bf16_master_weights_and_grads\": true}";
  CHECK(warns(with(kept, "", 2), "bf16_master_weights_and_grads: DeepSpeed refuses it"));
  CHECK(with(kept, offloaded, 2).warnings.empty());
}

TEST_CASE("keys that DeepSpeed does not know, and blocks that are not here") {
  CHECK(row(json("{\"zero_optimisation\": {\"stage\": 3}}"), "zero_optimisation.stage").text ==
        "DeepSpeed has no key of this name and would ignore it; misspelt?");
  CHECK(row(json(zero("\"stage3_live\": 3")), "zero_optimization.stage3_live").text ==
        "DeepSpeed refuses a key of this name; misspelt?");
  CHECK(row(json(zero("\"overlap_comm\": \"auto\"")), "zero_optimization.overlap_comm").verdict ==
        Verdict::value);
  CHECK_FALSE(json("{\"tensor_parallel\": {\"autotp_size\": 4}}").is_supported());
  CHECK(json("{\"tensor_parallel\": {\"autotp_size\": 1}}").is_supported());
  CHECK_FALSE(json("{\"pipeline\": {\"stages\": 2}}").is_supported());
  CHECK_FALSE(json("{\"autotuning\": {\"enabled\": true}}").is_supported());
  CHECK(json("{\"autotuning\": {\"enabled\": false, \"fast\": true}}").is_supported());
  CHECK_FALSE(json("{\"sequence_parallel_size\": 2}").is_supported());
  CHECK_FALSE(json(zero("\"zenflow\": {\"topk_ratio\": 0.1}")).is_supported());
  CHECK_FALSE(json(zero("\"leaf_module\": {\"classes\": [\"A\"]}")).is_supported());
  CHECK_FALSE(json("{\"gradient_allreduce_op\": \"sum\"}").is_supported());
  CHECK_FALSE(json(zero("", 2).insert(1, "\"prescale_gradients\": true, ")).is_supported());
  CHECK(json(zero("", 1).insert(1, "\"prescale_gradients\": true, ")).is_supported());
  CHECK(json("{\"steps_per_print\": 10, \"wall_clock_breakdown\": false, \"flops_profiler\": "
             "{\"enabled\": true}, \"compression_training\": {\"a\": {\"b\": [1]}}}")
            .is_supported());
  CHECK(json("{\"activation_checkpointing\": {\"partition_activations\": true, "
             "\"contiguous_memory_optimization\": true}}")
            .is_supported());
  CHECK_FALSE(json("{\"activation_checkpointing\": {\"cpu_checkpointing\": true}}").is_supported());
}

TEST_CASE("each leaf has one row, with its line") {
  const Judgement all = json(
      "{\n\"zero_optimization\": {\"stage\": 3,\n\"overlap_comm\": true},\n"
      "\"x\": [1, {\"y\": 2}],\n\"z\": {}, \"n\": null}");
  REQUIRE(all.rows.size() == 5);
  CHECK(all.rows[0].key == "zero_optimization.stage");
  CHECK(all.rows[0].line == 2);
  CHECK(all.rows[1].line == 3);
  CHECK(all.values.overlaps);
  CHECK(all.rows[2].key == "x");
  CHECK(all.rows[2].value == "[1, {...}]");
  CHECK(all.rows[2].verdict == Verdict::unsupported);
  CHECK(all.rows[3].verdict == Verdict::standard);
  CHECK(all.rows[4].verdict == Verdict::standard);
}
