// SPDX-License-Identifier: Apache-2.0
// DeepSpeed's JSON but for its block zero_optimization: precision, batches, what is not about
// sharding.
#include "deepspeed.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>

namespace from_config {
namespace detail {
namespace {

using enum Verdict;

/// Blocks and keys that say nothing about where state lies and what is sent.
constexpr std::array asides{
    std::pair{"steps_per_print", "what is printed, and when"},
    std::pair{"wall_clock_breakdown", "what is timed"},
    std::pair{"memory_breakdown", "what is printed"},
    std::pair{"dump_state", "what is printed"},
    std::pair{"verbose", "what is printed"},
    std::pair{"flops_profiler", "a profiler; sx::plan and train_gpt --trace measure here"},
    std::pair{"comms_logger", "a log of collectives"},
    std::pair{"monitor_config", "where metrics go"},
    std::pair{"tensorboard", "where metrics go"},
    std::pair{"wandb", "where metrics go"},
    std::pair{"comet", "where metrics go"},
    std::pair{"csv_monitor", "where metrics go"},
    std::pair{"timers", "what is timed"},
    std::pair{"compression_training", "a compression of the model: quantization, pruning"},
    std::pair{"data_efficiency", "which data are shown"},
    std::pair{"curriculum_learning", "which data are shown"},
    std::pair{"progressive_layer_drop", "the model"},
    std::pair{"eigenvalue", "a compression of the model"},
    std::pair{"quantize_training", "a compression of the model"},
    std::pair{"dataloader_drop_last", "which data are shown"},
    std::pair{"nebula", "a service that keeps checkpoints"},
    std::pair{"aio", "how a disk is read; here NvmeOptions::queue_depth"},
    std::pair{"_comment", "a comment"},
    std::pair{"comment", "a comment"},
};

std::string stage_word(std::size_t stage) { return "stage " + std::to_string(stage); }

}  // namespace

void DeepSpeed::judge_precision() {
  Description& d = to.strategy;
  std::array<bool, 2> enabled{};
  const std::array names{"fp16", "bf16"};
  for (std::size_t i = 0; i < 2; ++i) {
    const std::string name = names[i], key = name + ".enabled";
    if (keys.is_auto(key)) {
      enabled[i] = settings.mixed_precision == name;
      to.rule("\"auto\" of fp16.enabled and bf16.enabled is what --mixed-precision says: " +
              (settings.mixed_precision.empty() ? "not given, so no" : settings.mixed_precision));
      say(key, enabled[i] ? taken : standard,
          enabled[i] ? "auto: --mixed-precision " + name : "auto: off");
    } else {
      enabled[i] = keys.flag(key).value_or(false);
    }
  }
  if (enabled[0] && enabled[1]) {
    say("bf16.enabled", unsupported, "fp16 is enabled, too, which DeepSpeed refuses; keep one");
    enabled[1] = false;
  }
  const std::string block = enabled[0] ? "fp16" : enabled[1] ? "bf16" : "";
  const Dtype dtype = enabled[0] ? Dtype::fp16 : enabled[1] ? Dtype::bf16 : Dtype::fp32;
  if (!block.empty()) {
    d.precision.compute = d.precision.reduce = dtype;
    say(block + ".enabled", taken,
        "parameters and moments in fp32, whatever was loaded; computes and reduces in " + block);
  }
  for (const std::string name : names) {
    if (name == block) continue;
    say(name + ".enabled", standard, "off");
    if (keys.has_below(name)) keys.say_below(name, ignored, name + " is not enabled");
  }

  if (enabled[0]) {
    take_fp16(to);
    Values& v = to.values;
    const auto scale = keys.number("fp16.loss_scale");
    if (scale && *scale > 0) {
      d.loss_scale = LossScale::fixed;
      v.scale = *scale;
      v.initial_scale.reset(), v.growth_interval.reset(), v.hysteresis.reset(),
          v.least_scale.reset();
      say("fp16.loss_scale", taken, "StaticLossScale");
    } else {
      say("fp16.loss_scale", taken, "DynamicLossScale");
    }
    const bool is_dynamic = d.loss_scale == LossScale::dynamic;
    const auto dynamic = [&](const char* name, auto value, auto set, const char* text) {
      const std::string key = std::string{"fp16."} + name;
      if (value && is_dynamic) set(*value);
      say(key, is_dynamic ? Verdict::value : ignored,
          is_dynamic ? text : "the loss scale is fixed");
    };
    dynamic(
        "initial_scale_power", keys.count("fp16.initial_scale_power"),
        [&](std::size_t power) {
          if (power > 127)
            keys.refuse_at("fp16.initial_scale_power",
                           "a scale of more than "
                           "2^127; give less");
          v.initial_scale = std::exp2(static_cast<double>(power));
        },
        "loss_scale.initial_scale, 2 to this");
    dynamic(
        "loss_scale_window", keys.count("fp16.loss_scale_window"),
        [&](std::size_t steps) {
          if (steps == 0)
            keys.refuse_at("fp16.loss_scale_window", "a window of no step; give at least 1");
          v.growth_interval = steps;
        },
        "loss_scale.growth_interval");
    dynamic(
        "hysteresis", keys.count("fp16.hysteresis"),
        [&](std::size_t n) { v.hysteresis = std::max<std::size_t>(n, 1); },
        "loss_scale.hysteresis");
    dynamic(
        "min_loss_scale", keys.number("fp16.min_loss_scale"),
        [&](double least) {
          if (least == 0)
            keys.refuse_at("fp16.min_loss_scale", "a scale of 0 loses all; give more");
          v.least_scale = least;
        },
        "loss_scale.least_scale");
    if (v.initial_scale && *v.initial_scale < *v.least_scale)
      keys.refuse_at("fp16.initial_scale_power", "the first scale is below min_loss_scale");
    say("fp16.consecutive_hysteresis",
        keys.flag("fp16.consecutive_hysteresis").value_or(false) ? unsupported : standard,
        "hysteresis is restored where the scale grows");
    (void)keys.flag("fp16.auto_cast");
    say("fp16.auto_cast", aside, "casts a model's inputs; units are given the compute dtype");
    if (keys.flag("fp16.fp16_master_weights_and_grads").value_or(false)) {
      d.precision.storage = d.precision.buffers = Dtype::fp16;
      say("fp16.fp16_master_weights_and_grads", taken, "parameters are kept in fp16");
    }
    say("fp16.fp16_master_weights_and_grads", standard, "parameters are kept in fp32");
  }
  if (enabled[1]) {
    if (keys.flag("bf16.bf16_master_weights_and_grads").value_or(false)) {
      d.precision.storage = d.precision.buffers = Dtype::bf16;
      say("bf16.bf16_master_weights_and_grads", taken, "parameters are kept in bf16");
    }
    say("bf16.bf16_master_weights_and_grads", standard, "parameters are kept in fp32");
    if (keys.flag("bf16.bf16_optimizer_states").value_or(false)) {
      if (d.precision.storage == Dtype::bf16) {
        d.precision.optimizer = Dtype::bf16;
        say("bf16.bf16_optimizer_states", taken, "moments are kept in bf16");
      } else {
        say("bf16.bf16_optimizer_states", unsupported,
            "DeepSpeed has it with bf16_master_weights_and_grads alone");
      }
    }
    say("bf16.bf16_optimizer_states", standard, "moments are kept in fp32");
    (void)keys.flag("bf16.immediate_grad_update");
    say("bf16.immediate_grad_update", standard, "gradients are added as they are reduced");
    (void)keys.flag("bf16.check_grad_overflow");
    say("bf16.check_grad_overflow", standard,
        "gradients that are not finite end the step with an error");
  }

  for (const char* key : {"data_types.param_dtype", "data_types.buffer_dtype"})
    if (!keys.is_null(key)) say(key, unsupported, "dtypes are those of the 16-bit block");
  if (keys.has_below("amp") && keys.flag("amp.enabled").value_or(false))
    say("amp.enabled", unsupported, "Apex's amp casts operation by operation; enable bf16 or fp16");
  keys.say_below("amp", keys.flag("amp.enabled").value_or(false) ? unsupported : ignored,
                 "of Apex's amp");
  const bool autocasts = keys.flag("torch_autocast.enabled").value_or(false);
  if (autocasts)
    say("torch_autocast.enabled", unsupported,
        "autocast casts operation by operation; enable bf16 or fp16");
  else
    say("torch_autocast.enabled", standard, "off");
  keys.say_below("torch_autocast", autocasts ? unsupported : ignored, "of torch_autocast");
}

void DeepSpeed::judge_communication() {
  Description& d = to.strategy;
  const std::string key = "communication_data_type";
  if (const auto dtype = keys.choice(key, {"fp32", "bf16", "fp16", "fp64"})) {
    const Dtype reduce = static_cast<Dtype>(*dtype);
    const Dtype compute = d.precision.compute;
    if (*dtype == 3) {
      say(key, unsupported, "gradients are reduced in 16 or 32 bits");
    } else if (reduce != Dtype::fp32 && compute != Dtype::fp32 && reduce != compute) {
      say(key, unsupported,
          "bf16 and fp16 in one precision, what one holds overflows or vanishes in the other "
          "(SX119)");
    } else if (reduce == Dtype::fp16 && d.loss_scale == LossScale::none) {
      say(key, unsupported, "fp16 without a loss scale, small gradients vanish (SX120)");
    } else {
      d.precision.reduce = reduce;
      say(key, taken, std::string{"gradients are reduced in "} + dtype_names[*dtype]);
    }
  }
  // What is kept of reduced gradients is in the wider of storage and reduce (policy/precision.hpp).
  const bool keeps_fp32 = d.precision.storage == Dtype::fp32 || d.precision.reduce == Dtype::fp32;
  const std::string kept_key = "data_types.grad_accum_dtype";
  if (!keys.is_auto(kept_key))
    if (const auto kept = keys.choice(kept_key, {"fp32", "bf16", "fp16"})) {
      if (*kept == 0 && !keeps_fp32)
        say(kept_key, unsupported,
            "gradients of parameters that are kept and reduced in 16 bits are, too");
      if (*kept != 0 && keeps_fp32)
        warn(kept_key + ": reduced gradients are added up in fp32 here, which holds more");
    }
  say(kept_key, standard,
      keeps_fp32 ? "reduced gradients are added up in fp32"
                 : "reduced gradients are added up in the dtype of the parameters");
}

void DeepSpeed::judge_clipping() {
  const std::string key = "gradient_clipping";
  const auto norm = keys.number(key);
  if (norm && *norm == 0) return say(key, standard, "0: no clipping");
  to.strategy.clipping = Clipping::norm;
  to.values.clip = norm.value_or(1);
  if (keys.is_auto(key))
    to.rule("\"auto\" of gradient_clipping is 1, what transformers and Accelerate fill in");
  else if (!norm)
    to.rule("gradient_clipping left out is 1, as since DeepSpeed 0.19; 0 is no clipping");
  if (norm || keys.is_auto(key))
    say(key, taken,
        norm ? "ClipNorm; the value is clipping.max_norm" : "ClipNorm; auto: max_norm is 1");
}

void DeepSpeed::judge_batches() {
  Values& v = to.values;
  const std::string total_key = "train_batch_size", micro_key = "train_micro_batch_size_per_gpu",
                    steps_key = "gradient_accumulation_steps";
  auto total = keys.count(total_key), micro = keys.count(micro_key), steps = keys.count(steps_key);
  for (const auto& [key, count] :
       {std::pair{&total_key, &total}, {&micro_key, &micro}, {&steps_key, &steps}}) {
    if (*count && **count == 0) keys.refuse_at(*key, "0 of them; give at least 1");
    if (keys.is_auto(*key)) say(*key, value, "auto: the program's");
  }
  if (!steps && settings.micro_batches) steps = settings.micro_batches;
  if (keys.is_auto(steps_key) && !steps) {
    steps = 1;
    to.rule("\"auto\" of gradient_accumulation_steps is what --accumulate says: not given, so 1");
  }
  const auto refused = [&](const std::string& why) {
    say(total_key, unsupported, why + ", which DeepSpeed refuses");
  };
  const auto words = [](std::size_t a, std::size_t b) {
    return std::to_string(a) + " x " + std::to_string(b);
  };
  if (total && micro) {
    if (!steps) {
      steps = 1;
      if (settings.ranks) {
        if (*total % *micro != 0 || (*total / *micro) % *settings.ranks != 0 ||
            *total / *micro < *settings.ranks)
          refused(std::to_string(*total) + " is no multiple of " + words(*micro, *settings.ranks));
        else
          steps = *total / *micro / *settings.ranks;
      } else {
        to.rule(
            "without --ranks, accumulation that is left out is 1, and the ranks follow from "
            "the batch sizes");
      }
    }
    // Sizes are below 2^53: a product may not be.
    const double each = static_cast<double>(*micro) * static_cast<double>(*steps);
    const double world = static_cast<double>(*total) / each;
    if (world != std::floor(world) || world < 1)
      refused(std::to_string(*total) + " is no multiple of " + words(*micro, *steps));
    else if (settings.ranks && static_cast<double>(*settings.ranks) != world)
      refused(std::to_string(*total) + " is not " + words(*micro, *steps) + " x " +
              std::to_string(*settings.ranks) + " ranks");
    else
      v.ranks = static_cast<std::size_t>(world);
  } else if (total && settings.ranks) {
    const std::size_t parts = steps.value_or(1);
    const double each = static_cast<double>(*total) / static_cast<double>(parts) /
                        static_cast<double>(*settings.ranks);
    if (each != std::floor(each) || each < 1)
      refused(std::to_string(*total) + " is no multiple of " + words(parts, *settings.ranks));
    else
      micro = static_cast<std::size_t>(each);
  }
  v.micro_batches = steps.value_or(1);
  if (micro) v.micro_batch_size = micro;
  if (settings.ranks) v.ranks = settings.ranks;
  ranks = v.ranks;
  say(total_key, value, "ranks x micro-batches x sequences of one");
  say(micro_key, value, "sequences of a micro-batch");
  // Stages 0 and 1 reduce at the boundary, 2 and 3 in each micro-batch.
  settle_accumulation(to, stage >= 2);
  say(steps_key, to.strategy.reduces_at_end ? taken : value,
      to.strategy.reduces_at_end ? "micro_batches; ReduceAtEnd, as " + stage_word(stage) + " does"
                                 : "micro_batches");
  if (v.micro_batches > 1 && stage >= 2 && to.strategy.precision.compute != Dtype::fp32 &&
      !keys.has("data_types.grad_accum_dtype"))
    warn(
        "gradient_accumulation_steps: DeepSpeed adds up micro-batches in 16 bits unless "
        "data_types.grad_accum_dtype says fp32; here it is fp32");
}

void DeepSpeed::judge_rest() {
  const auto enabled = [&](const char* block) {
    return keys.flag(std::string{block} + ".enabled").value_or(false);
  };
  if (enabled("autotuning"))
    keys.say_below("autotuning", unsupported,
                   "searches for settings; let it, and give the file that it writes");
  keys.say_below("autotuning", aside, "off");
  if (enabled("elasticity"))
    keys.say_below("elasticity", unsupported, "ranks that come and go in a run");
  keys.say_below("elasticity", aside, "off");
  if (enabled("hybrid_engine"))
    keys.say_below("hybrid_engine", unsupported, "an engine that also generates");
  keys.say_below("hybrid_engine", aside, "off");
  keys.say_below("pipeline", unsupported, "there is no pipeline parallelism");

  for (const char* key : {"tensor_parallel.autotp_size", "tensor_parallel.tp_size"}) {
    const bool splits = keys.count(key).value_or(0) > 1;
    say(key, splits ? unsupported : standard, splits ? "there is no tensor parallelism" : "off");
  }
  keys.say_below("tensor_parallel", unsupported, "there is no tensor parallelism");
  const bool splits = keys.count("sequence_parallel_size").value_or(1) > 1;
  say("sequence_parallel_size", splits ? unsupported : standard,
      splits ? "there is no sequence parallelism" : "off");
  say("seq_parallel_communication_data_type", splits ? unsupported : ignored,
      "of sequence parallelism");

  if (keys.has_below("compile")) {
    const Node* const passes = keys.node("compile.passes");
    if (passes != nullptr && !passes->list.empty())
      say("compile.passes", unsupported, "passes of DeepCompile change what is sharded");
    keys.say_below("compile", aside, "compiles the graph; here all of a step is compiled");
  }
  if (keys.flag("aio.use_gds").value_or(false) &&
      (to.strategy.parameters.kind == PlaceOf::Kind::nvme))
    say("aio.use_gds", unsupported, "parameters go to the GPU by way of the host");

  // It prepares what a model's own code calls; by itself it turns nothing on.
  const std::string block = "activation_checkpointing.";
  const bool keeps_on_host = keys.flag(block + "cpu_checkpointing").value_or(false);
  say(block + "cpu_checkpointing", keeps_on_host ? unsupported : standard,
      keeps_on_host ? "activations stay on the device; Recompute rebuilds them" : "off");
  (void)keys.flag(block + "partition_activations");
  say(block + "partition_activations", ignored, "of model parallelism");
  (void)keys.flag(block + "contiguous_memory_optimization");
  say(block + "contiguous_memory_optimization", standard, "activations lie in one arena");
  for (const char* name : {"number_checkpoints", "synchronize_checkpoint_boundary", "profile"})
    say(block + name, aside, "of checkpointing that the model's code calls");

  say("zero_allow_untested_optimizer", standard, "each optimizer is served and tested");
  say("zero_force_ds_cpu_optimizer", standard, "the host's update is the library's");
  say("disable_allgather", standard, "chooses another collective for the same values");
  const bool is_sparse = keys.flag("sparse_gradients").value_or(false);
  say("sparse_gradients", is_sparse ? unsupported : standard,
      is_sparse ? "gradients are dense" : "off");
  const bool sums = keys.choice("gradient_allreduce_op", {"mean", "sum"}).value_or(0) == 1;
  say("gradient_allreduce_op", sums ? unsupported : standard,
      sums ? "gradients are averaged over ranks" : "gradients are averaged");
  const auto divided_first = [&](const char* key, bool is_set) {
    const bool scatters = keys.flag("zero_optimization.reduce_scatter").value_or(true);
    if (!is_set) return say(key, standard, "off");
    if (stage >= 2 && scatters)
      return say(key, unsupported,
                 "DeepSpeed refuses it at " + stage_word(stage) + " with reduce_scatter");
    if (stage == 1 && scatters) return say(key, ignored, "at stage 1 with reduce_scatter");
    say(key, standard, "means are formed in fp32 and rounded once");
  };
  divided_first("prescale_gradients", keys.flag("prescale_gradients").value_or(false));
  divided_first("gradient_predivide_factor",
                keys.number("gradient_predivide_factor").value_or(1) != 1);
  (void)keys.flag("managed_gradient_accumulation");
  if (!keys.flag("managed_gradient_accumulation").value_or(true))
    say("managed_gradient_accumulation", standard, "or a loop of one's own: open_gradients, apply");
  say("managed_gradient_accumulation", standard, "step takes all micro-batches");

  const std::string saved = "checkpoint.";
  (void)keys.flag(saved + "load_universal");
  say(saved + "load_universal", standard, "each checkpoint loads at any number of ranks");
  const bool is_local = keys.flag(saved + "use_node_local_storage").value_or(false);
  say(saved + "use_node_local_storage", is_local ? unsupported : standard,
      is_local ? "a checkpoint is one folder that all ranks see" : "off");
  keys.say_below("checkpoint", aside, "how checkpoints are written");

  for (const auto& [key, text] : asides) keys.say_below(key, aside, text);
}

}  // namespace detail

void judge_deepspeed(const Document& document, const Settings& settings, Judgement& to) {
  Keys keys{document};
  detail::DeepSpeed judge{keys, settings, to, settings.ranks, 0};
  judge.judge_stage();
  judge.judge_precision();
  judge.judge_communication();
  judge.judge_batches();  // before what depends on the number of ranks
  judge.judge_zero();
  judge.judge_offload();
  judge.judge_optimizer();
  judge.judge_scheduler();
  judge.judge_clipping();
  judge.judge_rest();
  keys.finish(to, [&](const std::string& key) -> std::string {
    if (keys.is_auto(key)) return "\"auto\" has no rule here; give a value";
    for (const char* block : {"zero_optimization.", "fp16.", "bf16."})
      if (key.starts_with(block)) return "DeepSpeed refuses a key of this name; misspelt?";
    if (key == "optimizer.params.max_grad_norm")
      return "DeepSpeed refuses it here; the key is gradient_clipping";
    if (key.starts_with("optimizer.params.")) return "the optimizer has no option of this name";
    if (key.starts_with("scheduler.params.")) return "the schedule has no option of this name";
    return "DeepSpeed has no key of this name and would ignore it; misspelt?";
  });
}

Judgement judge_deepspeed(const Document& document, const Settings& settings) {
  Judgement to;
  judge_deepspeed(document, settings, to);
  return to;
}

}  // namespace from_config
