// SPDX-License-Identifier: Apache-2.0
// Accelerate's YAML: FSDP 1 and 2, DeepSpeed blocks, DDP.
#include <filesystem>
#include <fstream>
#include <string>

#include "../support/scratch.hpp"
#include "judged.hpp"
#include <doctest/doctest.h>

using namespace judged;
using from_config::Dtype;

namespace {

/// A file of FSDP 1 with a wrap, so that groups are gathered in turn.
std::string wrapped(const std::string& lines, const std::string& before = "") {
  return fsdp("auto_wrap_policy: TRANSFORMER_BASED_WRAP\n" + lines, before);
}
const std::string each = ", WrapEach<gpt::Block>";

}  // namespace

TEST_CASE("fsdp 1: sharding") {
  const auto of = [](const std::string& lines, const std::string& before = "") {
    return outcome(yaml(wrapped("backward_prefetch: BACKWARD_PRE\n" + lines, before)));
  };
  const std::string tail = each + ", AdamW, FullPrecision";
  CHECK(of("sharding_strategy: FULL_SHARD") == "FullShard" + tail);
  CHECK(of("") == "FullShard" + tail);
  CHECK(of("sharding_strategy: SHARD_GRAD_OP") == "ShardGradOp" + tail);
  CHECK(of("sharding_strategy: NO_SHARD") == "NoShard" + tail);
  CHECK(of("sharding_strategy: 2") == "ShardGradOp" + tail);
  CHECK(of("sharding_strategy: 3") == "NoShard" + tail);
  CHECK(of("sharding_strategy: HYBRID_SHARD", "num_machines: 2\nnum_processes: 16\n") ==
        "HybridShard<8>" + tail);
  CHECK(of("sharding_strategy: HYBRID_SHARD_ZERO2", "num_machines: 4\nnum_processes: 16\n") ==
        "HybridShardGradOp<4>" + tail);
  // One machine is one group: FSDP makes the plain strategy of it.
  CHECK(of("sharding_strategy: HYBRID_SHARD", "num_machines: 1\nnum_processes: 8\n") ==
        "FullShard" + tail);
  CHECK(of("sharding_strategy: HYBRID_SHARD_ZERO2", "num_processes: 8\n") == "ShardGradOp" + tail);
  // A group of one rank: there gradients would never be reduced.
  CHECK(of("sharding_strategy: HYBRID_SHARD", "num_machines: 4\nnum_processes: 4\n") ==
        "FullShard" + tail + "; not fsdp_config.fsdp_sharding_strategy");
  CHECK(of("sharding_strategy: HYBRID_SHARD") ==
        "FullShard" + tail + "; not fsdp_config.fsdp_sharding_strategy");
  CHECK(
      yaml_refusal(fsdp("sharding_strategy: FULL")) ==
      "a.yaml:3: fsdp_config.fsdp_sharding_strategy: 'FULL' is none of FULL_SHARD, SHARD_GRAD_OP, "
      "NO_SHARD, HYBRID_SHARD, HYBRID_SHARD_ZERO2");
  CHECK_FALSE(yaml_refusal(fsdp("sharding_strategy: 6")).empty());
}

TEST_CASE("fsdp 1 reads its own keys alone") {
  const Judgement after = yaml(wrapped("reshard_after_forward: SHARD_GRAD_OP"));
  CHECK(pack(after) == "FullShard, BackwardNone" + each + ", AdamW, FullPrecision");
  CHECK(verdict(after, "fsdp_config.fsdp_reshard_after_forward") == Verdict::ignored);
  CHECK(warns(after, "Accelerate ignores it, fsdp_sharding_strategy is FULL_SHARD"));
  CHECK(verdict(yaml(wrapped("reshard_after_forward: FULL_SHARD")),
                "fsdp_config.fsdp_reshard_after_forward") == Verdict::standard);
  CHECK(outcome(yaml(wrapped("reshard_after_forward: true"))).find("; not") != std::string::npos);
  const Judgement misnamed = yaml(wrapped("backward_prefetch_policy: BACKWARD_PRE"));
  CHECK(verdict(misnamed, "fsdp_config.fsdp_backward_prefetch_policy") == Verdict::ignored);
  CHECK(pack(misnamed) == "FullShard, BackwardNone" + each + ", AdamW, FullPrecision");
}

TEST_CASE("fsdp 1: prefetch; left out there is none") {
  const auto of = [](const std::string& lines) { return pack(yaml(wrapped(lines))); };
  const std::string tail = each + ", AdamW, FullPrecision";
  CHECK(of("") == "FullShard, BackwardNone" + tail);
  CHECK(of("backward_prefetch: NO_PREFETCH") == "FullShard, BackwardNone" + tail);
  CHECK(of("backward_prefetch: BACKWARD_PRE") == "FullShard" + tail);
  CHECK(of("backward_prefetch: BACKWARD_POST") == "FullShard, BackwardPost" + tail);
  CHECK(of("backward_prefetch: BACKWARD_PRE\nforward_prefetch: true") ==
        "FullShard, ForwardPrefetch<1>" + tail);
  CHECK(of("sharding_strategy: SHARD_GRAD_OP\nbackward_prefetch: BACKWARD_POST\n"
           "forward_prefetch: true") == "ShardGradOp" + tail);
}

TEST_CASE("fsdp 2") {
  const auto of = [](const std::string& lines, const std::string& before = "") {
    return yaml(wrapped("version: 2\n" + lines, before));
  };
  const std::string tail = each + ", AdamW, FullPrecision";
  CHECK(outcome(of("reshard_after_forward: true")) == "FullShard" + tail);
  CHECK(outcome(of("")) == "FullShard" + tail);
  CHECK(outcome(of("reshard_after_forward: false")) == "ShardGradOp" + tail);
  CHECK(outcome(of("forward_prefetch: true")) ==
        "FullShard" + tail + "; not fsdp_config.fsdp_forward_prefetch");
  CHECK(outcome(of("state_dict_type: LOCAL_STATE_DICT")) ==
        "FullShard" + tail + "; not fsdp_config.fsdp_state_dict_type");
  const Judgement old =
      of("sharding_strategy: NO_SHARD\nbackward_prefetch: BACKWARD_POST\n"
         "use_orig_params: true\nsync_module_states: true");
  CHECK(outcome(old) == "FullShard" + tail);
  CHECK(old.warnings.size() == 4);
  CHECK(verdict(old, "fsdp_config.fsdp_sharding_strategy") == Verdict::ignored);
  CHECK(yaml_refusal(wrapped("version: 2\nreshard_after_forward: FULL_SHARD")) ==
        "a.yaml:5: fsdp_config.fsdp_reshard_after_forward: 'FULL_SHARD' is a text; in fsdp_version "
        "2 give true or false");
  CHECK_FALSE(yaml_refusal(fsdp("version: 3")).empty());

  const auto mesh = [&](int replicas, int shards, const char* more = "", int ranks = 8) {
    return outcome(of("reshard_after_forward: true" + std::string{more},
                      "num_processes: " + std::to_string(ranks) +
                          "\nparallelism_config:\n  parallelism_config_dp_replicate_size: " +
                          std::to_string(replicas) + "\n  parallelism_config_dp_shard_size: " +
                          std::to_string(shards) + "\n"));
  };
  CHECK(mesh(2, 4) == "HybridShard<4>" + tail);
  CHECK(mesh(1, 8) == "FullShard" + tail);
  CHECK(mesh(8, 1) == "NoShard" + tail);
  CHECK(mesh(2, 2) ==
        "HybridShard<2>" + tail + "; not parallelism_config.parallelism_config_dp_shard_size");
  for (const char* other : {"tp", "cp", "sp"}) {
    const Judgement split =
        of("", "parallelism_config:\n  parallelism_config_" + std::string{other} + "_size: 2\n");
    CHECK_FALSE(split.is_supported());
    const Judgement whole =
        of("", "parallelism_config:\n  parallelism_config_" + std::string{other} + "_size: 1\n");
    CHECK(whole.is_supported());
  }
}

TEST_CASE("fsdp: offload is of all state, or none") {
  const auto of = [](const std::string& lines) {
    return outcome(yaml(wrapped("backward_prefetch: BACKWARD_PRE\n" + lines)));
  };
  const std::string tail = each + ", AdamW, FullPrecision";
  CHECK(of("offload_params: true") == "FullShard, OffloadAll" + tail);
  CHECK(of("offload_params: false") == "FullShard" + tail);
  // Whole from forward to backward, a part on the host between steps.
  CHECK(of("offload_params: true\nsharding_strategy: SHARD_GRAD_OP") ==
        "FullShard, OffloadAll, ReuseWithin<unlimited>" + tail);
  CHECK(of("offload_params: true\nsharding_strategy: NO_SHARD") ==
        "NoShard, Offload<OnDevice, OnHost>" + tail + "; not fsdp_config.fsdp_offload_params");
  CHECK(yaml_refusal(fsdp("offload_params: 'true'")) ==
        "a.yaml:3: fsdp_config.fsdp_offload_params: 'true' is a text; give true or false, without "
        "quotes");
  CHECK_FALSE(yaml_refusal(fsdp("offload_params: 1")).empty());
}

TEST_CASE("fsdp: wrap and recomputation") {
  const auto of = [](const std::string& lines, Settings settings = {}) {
    return outcome(yaml(fsdp("version: 2\n" + lines), settings));
  };
  const std::string tail = ", AdamW, FullPrecision";
  CHECK(of("") == "FullShard, WrapWhole" + tail);
  CHECK(of("auto_wrap_policy: NO_WRAP") == "FullShard, WrapWhole" + tail);
  CHECK(of("auto_wrap_policy: SIZE_BASED_WRAP\nmin_num_params: 1000") ==
        "FullShard, WrapBySize<1000>" + tail);
  CHECK(of("auto_wrap_policy: SIZE_BASED_WRAP\nmin_num_params: 1") == "FullShard" + tail);
  CHECK(of("auto_wrap_policy: SIZE_BASED_WRAP\nmin_num_params: 0") ==
        "FullShard, WrapWhole" + tail);
  CHECK(outcome(yaml(fsdp("auto_wrap_policy: SIZE_BASED_WRAP\nbackward_prefetch: BACKWARD_PRE"))) ==
        "FullShard, WrapBySize<100000000>" + tail);
  CHECK(yaml_refusal(fsdp("auto_wrap_policy: SIZE_BASED_WRAP\nmin_num_params: -5")) ==
        "a.yaml:4: fsdp_config.fsdp_min_num_params: -5 is negative; give at least 0");
  CHECK(
      yaml_refusal(fsdp("auto_wrap_policy: SIZE_BASED_WRAP\nmin_num_params: 1e6")) ==
      "a.yaml:4: fsdp_config.fsdp_min_num_params: '1e6' is a text; give a number, without quotes; "
      "in YAML one with an exponent as 1.0e+8");
  const std::string named =
      "auto_wrap_policy: TRANSFORMER_BASED_WRAP\ntransformer_layer_cls_to_wrap: A, B\n";
  CHECK(of(named) == "FullShard" + each + tail);
  Settings settings;
  settings.block = "mine::Layer";
  CHECK(of(named, settings) == "FullShard, WrapEach<mine::Layer>" + tail);
  settings.units["B"] = "mine::Other";
  CHECK(of(named + "activation_checkpointing: true", settings) ==
        "FullShard, WrapEach<mine::Layer, mine::Other>, Recompute<mine::Layer, mine::Other>" +
            tail);
  CHECK(
      of("auto_wrap_policy: SIZE_BASED_WRAP\nmin_num_params: 9\nactivation_checkpointing: true") ==
      "FullShard, WrapBySize<9>, Recompute<>" + tail);
  CHECK(of("activation_checkpointing: true") ==
        "FullShard, WrapWhole" + tail + "; not fsdp_config.fsdp_activation_checkpointing");
  const std::string inputs = "fsdp_config.fsdp_activation_checkpointing_offload";
  const auto moved = [](const char* value) {
    return yaml(fsdp("activation_checkpointing_offload: " + std::string{value}));
  };
  CHECK(verdict(moved("false"), inputs) == Verdict::standard);
  CHECK(row(moved("true"), inputs).text == "what a recomputed unit is given stays on the device");
  CHECK_FALSE(moved("true").is_supported());
  CHECK(of("auto_wrap_policy: TRANSFORMER_BASED_WRAP\nignored_modules: 'h.*'") ==
        "FullShard" + each + tail + "; not fsdp_config.fsdp_ignored_modules");
  CHECK(of("auto_wrap_policy: TRANSFORMER_BASED_WRAP\nignored_modules: null") ==
        "FullShard" + each + tail);
}

TEST_CASE("the guide's rows of precision hold for files") {
  const auto of = [](const std::string& mixed, Dtype loaded) {
    Settings settings;
    settings.loaded = loaded;
    return outcome(yaml("distributed_type: FSDP\nmixed_precision: " + mixed + "\n", settings));
  };
  const std::string head = "FullShard, WrapWhole, AdamW, ";
  // FSDP, loaded in bf16, without mixed precision: all in bf16, the optimizer too.
  CHECK(of("'no'", Dtype::bf16) == head + "Precision<bf16, bf16, bf16, bf16>");
  CHECK(of("no", Dtype::bf16) == head + "Precision<bf16, bf16, bf16, bf16>");
  CHECK(of("'no'", Dtype::fp32) == head + "FullPrecision");
  // With it parameters are upcast, and gradients reduced in bf16, whatever was loaded.
  CHECK(of("bf16", Dtype::bf16) == head + "MixedPrecision<bf16, bf16>");
  CHECK(of("bf16", Dtype::fp32) == head + "MixedPrecision<bf16, bf16>");
  CHECK(of("fp16", Dtype::fp32) == head + "MixedPrecision<fp16, fp16>, DynamicLossScale");
  CHECK(of("'no'", Dtype::fp16) == head + "FullPrecision; not mixed_precision");
  CHECK(of("fp8", Dtype::fp32) == head + "FullPrecision; not mixed_precision");
  // DeepSpeed: fp32, whatever was loaded.
  Settings settings;
  settings.loaded = Dtype::bf16;
  const auto zero = [&](const std::string& mixed) {
    return outcome(yaml("distributed_type: DEEPSPEED\nmixed_precision: " + mixed +
                            "\ndeepspeed_config:\n  zero_stage: 3\n",
                        settings));
  };
  CHECK(zero("bf16") == "FullShard, ClipNorm, AdamW, MixedPrecision<bf16, bf16>");
  CHECK(zero("'no'") == "FullShard, ClipNorm, AdamW, FullPrecision");
  // Loss scales: GradScaler's under FSDP, DeepSpeed's under DeepSpeed.
  CHECK(yaml("distributed_type: FSDP\nmixed_precision: fp16\n").values.growth_interval == 2000);
  CHECK(yaml("distributed_type: DEEPSPEED\nmixed_precision: fp16\n").values.growth_interval ==
        1000);
}

TEST_CASE("ddp and one process") {
  CHECK(outcome(yaml("distributed_type: MULTI_GPU\nmixed_precision: bf16\nnum_processes: 4\n")) ==
        "NoShard, AdamW, MixedPrecision<bf16, fp32>");
  CHECK(outcome(yaml("distributed_type: MULTI_CPU\nmixed_precision: fp16\n")) ==
        "NoShard, AdamW, MixedPrecision<fp16, fp32>, DynamicLossScale");
  CHECK(outcome(yaml("distributed_type: 'NO'\n")) == "NoShard, AdamW, FullPrecision");
  CHECK(outcome(yaml("distributed_type: NO\n")) == "NoShard, AdamW, FullPrecision");
  const Judgement others = yaml(
      "distributed_type: MULTI_GPU\nfsdp_config:\n  fsdp_offload_params: true\n"
      "deepspeed_config:\n  zero_stage: 3\n");
  CHECK(outcome(others) == "NoShard, AdamW, FullPrecision");
  CHECK(others.warnings.size() == 2);
  CHECK_FALSE(yaml("distributed_type: MEGATRON_LM\n").is_supported());
  CHECK_FALSE(yaml("distributed_type: XLA\n").is_supported());
  CHECK_FALSE(yaml_refusal("distributed_type: FDSP\n").empty());
  Settings settings;
  settings.micro_batches = 4;
  CHECK(pack(yaml("distributed_type: MULTI_GPU\n", settings)) ==
        "NoShard, ReduceAtEnd, AdamW, FullPrecision");
  CHECK(pack(yaml("distributed_type: FSDP\n", settings)) ==
        "FullShard, WrapWhole, ReduceAtEnd, AdamW, FullPrecision");
}

TEST_CASE("a deepspeed block") {
  const auto of = [](const std::string& lines) {
    return yaml("distributed_type: DEEPSPEED\ndeepspeed_config:\n" + lines);
  };
  CHECK(outcome(of("  zero3_init_flag: false\n")) == "ShardGradOp, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(of("  zero_stage: 3\n  offload_optimizer_device: cpu\n"
                   "  offload_param_device: nvme\n  offload_param_nvme_path: /disk\n")) ==
        "FullShard, Offload<OnNvme, OnHost>, ClipNorm, AdamW, FullPrecision");
  CHECK(of("  zero_stage: 3\n  offload_param_device: nvme\n  offload_param_nvme_path: /disk\n")
            .values.nvme_directory == "/disk");
  CHECK(outcome(of("  zero_stage: 2\n  offload_param_device: cpu\n")) ==
        "ShardGradOp, ClipNorm, AdamW, FullPrecision");
  CHECK(warns(of("  zero_stage: 2\n  offload_param_device: cpu\n"), "without effect"));
  CHECK(outcome(of("  zero_stage: 1\n  gradient_accumulation_steps: 4\n"
                   "  gradient_clipping: 1.0\n")) ==
        "ShardOptimizer, ReduceAtEnd, ClipNorm, AdamW, FullPrecision");
  CHECK(outcome(of("  zero_stage: 2\n  gradient_accumulation_steps: 4\n")) ==
        "ShardGradOp, ClipNorm, AdamW, FullPrecision");
  CHECK(of("  zero_stage: 3\n  zero3_save_16bit_model: true\n").values.checkpoint == "full");
  CHECK(verdict(of("  zero_stage: 2\n  zero3_save_16bit_model: true\n"),
                "deepspeed_config.zero3_save_16bit_model") == Verdict::ignored);
  CHECK_FALSE(of("  deepspeed_moe_layer_cls_names: Expert\n").is_supported());
  CHECK_FALSE(of("  zero_stages: 2\n").is_supported());
}

TEST_CASE("a deepspeed block clips at 1 where it says nothing else, and cannot say that none is") {
  const auto of = [](const char* line) {
    return yaml("distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 2\n" +
                std::string{line});
  };
  const std::string key = "deepspeed_config.gradient_clipping";
  for (const char* line : {"", "  gradient_clipping:\n", "  gradient_clipping: auto\n",
                           "  gradient_clipping: 0.0\n"}) {
    CAPTURE(std::string{line});
    CHECK(outcome(of(line)) == "ShardGradOp, ClipNorm, AdamW, FullPrecision");
    CHECK(of(line).values.clip == 1);
  }
  CHECK(of("  gradient_clipping: 0.25\n").values.clip == 0.25);
  CHECK(verdict(of("  gradient_clipping: auto\n"), key) == Verdict::taken);
  CHECK(verdict(of("  gradient_clipping: 0\n"), key) == Verdict::ignored);
  CHECK(warns(of("  gradient_clipping: 0\n"), key + ": Accelerate leaves 0 out"));
  CHECK(outcome(of("  gradient_clipping: none\n")) ==
        "ShardGradOp, AdamW, FullPrecision; not " + key);
}

TEST_CASE("a deepspeed_config_file is read, from a root, and nothing may stand beside it") {
  const Scratch folder{std::filesystem::temp_directory_path()};
  const std::string json_path = folder / "zero.json";
  std::ofstream{json_path} << "{\"zero_optimization\":\n{\"stage\": 1}}";
  Settings settings;
  settings.root = std::filesystem::path{json_path}.parent_path().string();
  const std::string head =
      "distributed_type: DEEPSPEED\nnum_processes: 4\ndeepspeed_config:\n"
      "  deepspeed_config_file: zero.json\n";
  const Judgement read = yaml(head, settings);
  CHECK(outcome(read) == "ShardOptimizer, ClipNorm, AdamW, FullPrecision");
  CHECK(read.rows.back().key == "zero_optimization.stage");
  CHECK(read.rows.back().file == json_path);
  CHECK(read.rows.back().line == 2);
  CHECK(read.values.ranks == 4);
  CHECK(outcome(yaml(head + "mixed_precision: bf16\n", settings)) ==
        "ShardOptimizer, ClipNorm, AdamW, FullPrecision; not mixed_precision");
  CHECK(outcome(yaml(head + "  zero_stage: 3\n", settings)) ==
        "ShardOptimizer, ClipNorm, AdamW, FullPrecision; not deepspeed_config.zero_stage");
  settings.root += "/elsewhere";
  CHECK_FALSE(yaml(head, settings).is_supported());
  std::ofstream{json_path} << "{\"zero_optimization\":";
  settings.root = std::filesystem::path{json_path}.parent_path().string();
  CHECK(refusal([&] { return yaml(head, settings); }) ==
        json_path + ":1: zero_optimization: the file ends too soon; close what is open");
}

TEST_CASE("keys of launching are aside, unknown ones are not carried over") {
  const Judgement all = yaml(
      "compute_environment: LOCAL_MACHINE\ndebug: false\ndistributed_type: MULTI_GPU\n"
      "downcast_bf16: 'no'\nmachine_rank: 0\nmain_process_port: 29500\nrdzv_backend: static\n"
      "same_network: true\ntpu_env: []\ntpu_use_sudo: false\nuse_cpu: false\ngpu_ids: all\n"
      "dynamo_config:\n  dynamo_backend: INDUCTOR\nmain_process_ip: null\nfsdp_config: {}\n");
  CHECK(all.is_supported());
  CHECK(all.rows.size() == 15);
  CHECK(verdict(all, "gpu_ids") == Verdict::aside);
  CHECK(verdict(all, "dynamo_config.dynamo_backend") == Verdict::aside);
  CHECK(row(yaml("distributed_type: FSDP\ninvalid_key: 1\n"), "invalid_key").text ==
        "Accelerate refuses a key of this name; misspelt?");
  CHECK(row(yaml(fsdp("offload: true")), "fsdp_config.fsdp_offload").text ==
        "Accelerate has no key of this name and would ignore it; misspelt?");
  CHECK(row(yaml("distributed_type: FSDP\nfsdp_config:\n  offload_params: true\n"),
            "fsdp_config.offload_params")
            .text == "Accelerate puts fsdp_ before it; write that name");
  CHECK_FALSE(yaml("distributed_type: FSDP\ngradient_accumulation_steps: 4\n").is_supported());
}

TEST_CASE("Accelerate's file may be JSON, too") {
  CHECK(outcome(json("{\"distributed_type\": \"FSDP\", \"fsdp_config\": {\"fsdp_version\": 2}}")) ==
        "FullShard, WrapWhole, AdamW, FullPrecision");
}

TEST_CASE("loading and saving") {
  const Judgement saved =
      yaml(fsdp("state_dict_type: FULL_STATE_DICT\n"
                "cpu_ram_efficient_loading: true\nsync_module_states: true\n"
                "use_orig_params: false"));
  CHECK(saved.is_supported());
  CHECK(saved.values.checkpoint == "full");
  CHECK(verdict(saved, "fsdp_config.fsdp_state_dict_type") == Verdict::value);
  CHECK(verdict(saved, "fsdp_config.fsdp_cpu_ram_efficient_loading") == Verdict::standard);
  CHECK_FALSE(
      yaml(fsdp("cpu_ram_efficient_loading: true\nsync_module_states: false")).is_supported());
}
