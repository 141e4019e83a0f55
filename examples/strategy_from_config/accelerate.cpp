// SPDX-License-Identifier: Apache-2.0
// Accelerate's YAML but for its block fsdp_config.
#include "accelerate.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace from_config {
namespace detail {
namespace {

using enum Verdict;

constexpr std::array asides{
    std::pair{"compute_environment", "where the program runs"},
    std::pair{"debug", "checks of collectives; ranks here compare each call"},
    std::pair{"downcast_bf16", "of TPUs"},
    std::pair{"enable_cpu_affinity", "how the program is launched"},
    std::pair{"gpu_ids", "how the program is launched"},
    std::pair{"machine_rank", "how the program is launched"},
    std::pair{"main_process_ip", "how the program is launched"},
    std::pair{"main_process_port", "how the program is launched"},
    std::pair{"main_training_function", "how the program is launched"},
    std::pair{"rdzv_backend", "how the program is launched"},
    std::pair{"rdzv_conf", "how the program is launched"},
    std::pair{"same_network", "how the program is launched"},
    std::pair{"use_cpu", "where the program runs; here the device is a policy, On<...>"},
    std::pair{"commands", "how the program is launched"},
    std::pair{"command_file", "how the program is launched"},
    std::pair{"mpirun_config", "how the program is launched"},
    std::pair{"ipex_config", "another implementation of the same operations"},
    std::pair{"dynamo_config", "compiles the graph; here all of a step is compiled"},
    std::pair{"dynamo_backend", "compiles the graph; here all of a step is compiled"},
    std::pair{"num_cpu_threads_per_process", "how the program is launched"},
};
/// Of Amazon's SageMaker and of TPUs.
constexpr std::array places{"base_job_name",
                            "ec2_instance_type",
                            "iam_role_name",
                            "image_uri",
                            "profile",
                            "py_version",
                            "pytorch_version",
                            "region",
                            "transformers_version",
                            "sagemaker_inputs_file",
                            "sagemaker_metrics_file",
                            "additional_args",
                            "tpu_env",
                            "tpu_name",
                            "tpu_use_cluster",
                            "tpu_use_sudo",
                            "tpu_vm",
                            "tpu_zone"};

}  // namespace

void Accelerate::judge_launch() {
  const auto processes = keys.count("num_processes");
  if (processes && *processes == 0) keys.refuse_at("num_processes", "no process; give at least 1");
  if (processes) {
    if (settings.ranks && *settings.ranks != *processes)
      to.rule("--ranks " + std::to_string(*settings.ranks) + " replaces num_processes");
    else
      settings.ranks = processes;
  }
  if (settings.ranks) to.values.ranks = settings.ranks;
  say("num_processes", value, "ranks");
  const auto given = keys.count("num_machines");
  if (given && *given == 0) keys.refuse_at("num_machines", "no machine; give at least 1");
  machines = given.value_or(1);
  if (settings.ranks && *settings.ranks % machines != 0)
    keys.refuse_at("num_machines", "does not divide num_processes");
  say("num_machines", value, "ranks of a machine are neighbours");

  // An unquoted no is false; Accelerate takes it for 'no' here.
  const Node* const precision = keys.node("mixed_precision");
  if (precision != nullptr && precision->kind == Node::Kind::boolean && !precision->boolean) {
    mixed = "no";
  } else if (const auto at = keys.choice("mixed_precision", {"no", "bf16", "fp16", "fp8"})) {
    static constexpr std::array names{"no", "bf16", "fp16", "fp8"};
    mixed = names[*at];
  }
  if (mixed == "fp8") {
    say("mixed_precision", unsupported, "units compute in fp32, bf16 or fp16");
    keys.say_below("fp8_config", unsupported, "units compute in fp32, bf16 or fp16");
    mixed = "no";
  }
  keys.say_below("fp8_config", ignored, "mixed_precision is not fp8");
}

void Accelerate::judge_ddp() {
  Description& d = to.strategy;
  d.sharding = Sharding::none;
  d.backward = d.standard_backward();
  // Autocast leaves parameters and their gradients in fp32.
  if (mixed == "bf16") d.precision.compute = Dtype::bf16;
  if (mixed == "fp16") {
    take_fp16(to);
    to.values.growth_interval = 2000;
    to.values.hysteresis = 1;
    d.precision.reduce = Dtype::fp32;
  }
  say("mixed_precision", mixed == "no" ? standard : taken,
      mixed == "no" ? "computes as loaded, fp32"
                    : "autocast: computes in " + mixed + ", keeps and reduces fp32");
  to.values.micro_batches = settings.micro_batches.value_or(1);
  settle_accumulation(to, false);
}

void Accelerate::judge_deepspeed_block() {
  const std::string block = "deepspeed_config.";
  for (const char* name : {"deepspeed_hostfile", "deepspeed_multinode_launcher",
                           "deepspeed_inclusion_filter", "deepspeed_exclusion_filter"})
    say(block + name, aside, "how the program is launched");
  (void)keys.flag(block + "zero3_init_flag");
  say(block + "zero3_init_flag", standard, "no rank holds more than its part when it begins");
  if (const auto layers = keys.word(block + "deepspeed_moe_layer_cls_names"); layers)
    say(block + "deepspeed_moe_layer_cls_names", unsupported, "there are no mixtures of experts");

  if (const auto file = keys.word(block + "deepspeed_config_file"); file && *file != "none") {
    // Accelerate takes these from the JSON alone and refuses them beside it.
    for (const char* name :
         {"gradient_accumulation_steps", "gradient_clipping", "zero_stage",
          "offload_optimizer_device", "offload_param_device", "offload_param_nvme_path",
          "offload_optimizer_nvme_path", "zero3_save_16bit_model"})
      if (!keys.is_null(block + name))
        say(block + name, unsupported,
            "Accelerate refuses it beside deepspeed_config_file; say it "
            "there");
    say("mixed_precision", unsupported,
        "Accelerate refuses it beside deepspeed_config_file; say it there");
    return judge_deepspeed_file(*file);
  }
  say(block + "deepspeed_config_file", standard, "none: as if left out");

  // The JSON that Accelerate makes of the block, judged by the same rules.
  const std::string stage_key = block + "zero_stage";
  const auto stage = keys.count(stage_key);
  if (stage && *stage > 3) keys.refuse_at(stage_key, "there are stages 0 to 3");
  if (!stage) to.rule("deepspeed_config.zero_stage left out is 2");
  const std::size_t zero = stage.value_or(2);
  Description& d = to.strategy;
  static constexpr Sharding by_stage[] = {Sharding::none, Sharding::optimizer, Sharding::grad_op,
                                          Sharding::full};
  static constexpr const char* names[] = {"NoShard", "ShardOptimizer", "ShardGradOp", "FullShard"};
  d.sharding = by_stage[zero];
  d.backward = d.standard_backward();
  say(stage_key, taken, names[zero]);
  if (mixed == "bf16") {
    d.precision.compute = d.precision.reduce = Dtype::bf16;
  } else if (mixed == "fp16") {
    take_fp16(to);
  }
  say("mixed_precision", mixed == "no" ? standard : taken,
      mixed == "no" ? "DeepSpeed without a 16-bit block: fp32, whatever was loaded"
                    : "parameters and moments in fp32; computes and reduces in " + mixed);

  const auto offload = [&](const std::string& name, PlaceOf& place, bool serves,
                           const char* below) {
    const std::string key = block + "offload_" + name + "_device",
                      path = block + "offload_" + name + "_nvme_path";
    const auto device = keys.choice(key, {"none", "cpu", "nvme"}).value_or(0);
    if (device == 0) {
      say(key, standard, "on the device");
    } else if (!serves) {
      say(key, ignored, below);
      warn(key + ": without effect, " + below);
    } else {
      place.kind = device == 1 ? PlaceOf::Kind::host : PlaceOf::Kind::nvme;
      say(key, taken, device == 1 ? "OnHost" : "OnNvme");
    }
    const auto folder = keys.word(path);
    const bool is_named = folder && *folder != "none";
    if (place.kind != PlaceOf::Kind::nvme) return say(path, ignored, "nothing is on a disk");
    if (!is_named)
      warn(key + ": without a path DeepSpeed fails; name the folder when the program runs");
    else if (!to.values.nvme_directory.empty() && to.values.nvme_directory != *folder)
      return say(path, unsupported, "a rank's state is in one file; name one folder");
    else
      to.values.nvme_directory = *folder;
    say(path, value, "nvme.directory");
  };
  offload("optimizer", d.optimizer_state, zero >= 1, "stage 0 shards no optimizer");
  offload("param", d.parameters, zero == 3, "parameters are offloaded at stage 3 alone");
  if (d.optimizer_state.kind == PlaceOf::Kind::nvme && zero < 3)
    warn(block +
         "offload_optimizer_device: below stage 3 DeepSpeed takes the host's memory for "
         "nvme; here it is the disk");

  const std::string clip_key = block + "gradient_clipping";
  if (const Node* const clip = keys.node(clip_key);
      clip != nullptr && clip->kind == Node::Kind::text && clip->text == "none") {
    say(clip_key, unsupported, "Accelerate refuses the word; give a number, or auto, which is 1");
  } else {
    const auto norm = keys.number(clip_key);
    d.clipping = Clipping::norm;
    to.values.clip = norm && *norm > 0 ? *norm : 1;
    if (!norm) {
      to.rule("gradient_clipping that is \"auto\" or left out is 1, what Accelerate fills in");
      if (keys.is_auto(clip_key)) say(clip_key, taken, "ClipNorm; auto: max_norm is 1");
    } else if (*norm > 0) {
      say(clip_key, taken, "ClipNorm; the value is clipping.max_norm");
    } else {
      const std::string what = "Accelerate leaves 0 out, and DeepSpeed 0.19 makes 1 of that";
      say(clip_key, ignored, what);
      warn(clip_key + ": " + what + "; a deepspeed_config_file can say 0");
    }
  }
  const std::string steps_key = block + "gradient_accumulation_steps";
  const auto steps = keys.count(steps_key);
  if (steps && *steps == 0) keys.refuse_at(steps_key, "0 of them; give at least 1");
  if (!steps && keys.is_auto(steps_key))
    to.rule("\"auto\" of gradient_accumulation_steps is what --accumulate says, 1 if not given");
  to.values.micro_batches = steps ? *steps : settings.micro_batches.value_or(1);
  settle_accumulation(to, zero >= 2);
  say(steps_key, d.reduces_at_end ? taken : value,
      d.reduces_at_end ? "micro_batches; ReduceAtEnd, as stages 0 and 1 do" : "micro_batches");
  if (to.values.micro_batches > 1 && zero >= 2 && mixed != "no")
    warn(steps_key + ": DeepSpeed adds up micro-batches in 16 bits; here it is fp32");
  const std::string save_key = block + "zero3_save_16bit_model";
  if (keys.flag(save_key).value_or(false) && zero == 3) to.values.checkpoint = "full";
  say(save_key, zero == 3 ? value : ignored,
      zero == 3 ? "a checkpoint's form: full, in the storage dtype" : "of stage 3");
}

void Accelerate::judge_deepspeed_file(const std::string& path) {
  namespace fs = std::filesystem;
  const std::string key = "deepspeed_config.deepspeed_config_file";
  std::error_code error;
  fs::path found = fs::path{settings.root} / path;
  if (!fs::is_regular_file(found, error))
    return say(key, unsupported,
               "there is no such file " +
                   (settings.root.empty() ? std::string{"here; --root names the folder that the "
                                                        "path counts from"}
                                          : "in " + settings.root));
  say(key, taken, "its keys are below");
  const Document document = read_json(found.string(), read_bytes(found.string()));
  judge_deepspeed(document, settings, to);
}

void Accelerate::judge_type() {
  const std::string key = "distributed_type";
  const Node* const node = keys.node(key);
  // Unquoted NO is false: older files have it.
  const bool is_false = node != nullptr && node->kind == Node::Kind::boolean && !node->boolean;
  const std::string type =
      is_false ? "NO" : keys.word(key).value_or(keys.has_below("fsdp_config") ? "FSDP" : "NO");
  if (type != "FSDP") {
    if (keys.has_below("fsdp_config")) {
      keys.say_below("fsdp_config", ignored, "distributed_type is not FSDP");
      warn("fsdp_config: without effect, distributed_type is " + shown(type));
    }
  }
  if (type != "DEEPSPEED" && keys.has_below("deepspeed_config")) {
    keys.say_below("deepspeed_config", ignored, "distributed_type is not DEEPSPEED");
    warn("deepspeed_config: without effect, distributed_type is " + shown(type));
  }
  if (type == "FSDP") {
    say(key, taken, "see fsdp_config");
    return judge_fsdp();
  }
  if (type == "DEEPSPEED") {
    say(key, taken, "see deepspeed_config");
    judge_deepspeed_block();
    for (const char* name : {"dp_replicate_size", "dp_shard_size"})
      say(std::string{"parallelism_config.parallelism_config_"} + name, standard,
          "DeepSpeed's stages shard over all ranks");
    return;
  }
  if (type == "NO") {
    say(key, taken, "NoShard");
    if (to.values.ranks.value_or(1) > 1) {
      warn("num_processes: one process alone, distributed_type is NO");
      to.values.ranks = 1;
    }
  } else if (type == "MULTI_GPU" || type == "MULTI_CPU" || type == "MULTI_XPU" ||
             type == "MULTI_NPU" || type == "MULTI_MLU" || type == "MULTI_MUSA" ||
             type == "MULTI_SDAA" || type == "MULTI_HPU" || type == "MULTI_NEURON") {
    say(key, taken, "NoShard, as DDP");
  } else if (type == "XLA" || type == "TPU" || type == "MEGATRON_LM") {
    say(key, unsupported,
        type == "MEGATRON_LM" ? "there is no tensor and no pipeline parallelism"
                              : "a compiler of its own decides how state is sharded");
    keys.say_below("megatron_lm_config", unsupported, "of Megatron-LM");
  } else {
    keys.refuse_at(key, shown(type) +
                            " is none of NO, MULTI_GPU, MULTI_CPU, FSDP, DEEPSPEED and "
                            "their like");
  }
  judge_ddp();
  const std::string block = "parallelism_config.parallelism_config_";
  (void)keys.count(block + "dp_replicate_size");
  say(block + "dp_replicate_size", standard, "each rank keeps a copy");
  const bool shards = keys.count(block + "dp_shard_size").value_or(1) > 1;
  say(block + "dp_shard_size", shards ? unsupported : standard,
      shards ? "shards are of distributed_type FSDP" : "off");
}

void Accelerate::judge_rest() {
  const std::string block = "parallelism_config.parallelism_config_";
  for (const auto& [name, what] :
       {std::pair{"tp", "tensor"}, std::pair{"cp", "context"}, std::pair{"sp", "sequence"}}) {
    const std::string key = block + name + "_size";
    const bool splits = keys.count(key).value_or(1) > 1;
    say(key, splits ? unsupported : standard,
        splits ? std::string{"there is no "} + what + " parallelism" : "off");
    for (const char* detail : {"_backend", "_comm_strategy", "_seq_length",
                               "_seq_length_is_variable", "_attn_implementation", "_handler"})
      say(block + name + detail, splits ? unsupported : ignored,
          std::string{"of "} + what + " parallelism");
  }
  keys.say_below("megatron_lm_config", ignored, "distributed_type is not MEGATRON_LM");
  for (const auto& [key, text] : asides) keys.say_below(key, aside, text);
  for (const char* key : places) keys.say_below(key, aside, "where the program runs");
  // Of Accelerate before 0.12.
  const bool is_half = keys.flag("fp16").value_or(false);
  say("fp16", is_half ? unsupported : standard,
      is_half ? "an old key; write mixed_precision: fp16" : "off");
}

}  // namespace detail

Judgement judge_accelerate(const Document& document, const Settings& settings) {
  Keys keys{document};
  Judgement to;
  detail::Accelerate judge{keys, settings, to, "no", 1};
  Judgement file;  // rows of a file that this one names come behind its own
  judge.judge_launch();
  judge.judge_type();
  judge.judge_rest();
  std::swap(file.rows, to.rows);
  keys.finish(to, [](const std::string& key) -> std::string {
    if (key == "gradient_accumulation_steps")
      return "Accelerate's file has no such key, a script says it; here --accumulate does";
    if (key.starts_with("fsdp_config.") && key.find("fsdp", 12) == key.npos)
      return "Accelerate puts fsdp_ before it; write that name";
    if (key.starts_with("fsdp_config."))
      return "Accelerate has no key of this name and would ignore it; misspelt?";
    return "Accelerate refuses a key of this name; misspelt?";
  });
  to.rows.insert(to.rows.end(), file.rows.begin(), file.rows.end());
  return to;
}

}  // namespace from_config
