// SPDX-License-Identifier: Apache-2.0
// DeepSpeed's block zero_optimization.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "deepspeed.hpp"

namespace from_config::detail {
namespace {

using enum Verdict;

const std::string zero = "zero_optimization.";

/// Chunks of an optimizer on a disk are multiples of this (policy/offload.hpp).
constexpr std::size_t chunk_step = 32768;

}  // namespace

std::optional<std::size_t> DeepSpeed::threshold(const std::string& name, const std::string& alias) {
  // Pydantic takes the field's own name, too.
  std::string key = zero + name;
  if (!keys.has(key)) key = zero + alias;
  if (!keys.has(key)) return {};
  const auto given = keys.count(key);
  if (stage != 3) {
    if (!keys.is_judged(key)) {
      say(key, ignored, "of stage 3, this is stage " + std::to_string(stage));
      warn(key + ": without effect below stage 3");
    }
    return {};
  }
  if (given || !keys.is_auto(key)) return given;
  const bool is_persistence = name == "stage3_param_persistence_threshold";
  if (is_persistence) {
    to.rule(
        "\"auto\" of stage3_param_persistence_threshold is 10 h, transformers' rule, h given by "
        "--hidden-size; without it, it is as if left out");
    if (settings.hidden_size) return 10 * *settings.hidden_size;
  } else {
    to.rule(
        "\"auto\" of another threshold is as if left out: transformers makes 0.9 h^2 of "
        "stage3_prefetch_bucket_size, which holds no layer of 12 h^2, and groups are gathered "
        "whole here");
  }
  say(key, standard, "auto: as if left out");
  return given;
}

void DeepSpeed::judge_stage() {
  Description& d = to.strategy;
  if (const Node* const block = keys.node("zero_optimization");
      block != nullptr && block->kind == Node::Kind::boolean)
    say("zero_optimization", unsupported, "the form of old: give {\"stage\": 1} for true");
  const std::string stage_key = zero + "stage";
  if (const Node* const given = keys.node(stage_key);
      given != nullptr && given->kind == Node::Kind::list) {
    say(stage_key, unsupported, "a list is for autotuning to choose from; choose one");
  } else {
    const auto number = keys.count(stage_key);
    if (number && *number > 3) keys.refuse_at(stage_key, "there are stages 0 to 3");
    stage = number.value_or(0);
    if (!number && !keys.has(stage_key)) to.rule("zero_optimization.stage left out is 0");
  }
  static constexpr Sharding by_stage[] = {Sharding::none, Sharding::optimizer, Sharding::grad_op,
                                          Sharding::full};
  static constexpr const char* names[] = {"NoShard", "ShardOptimizer", "ShardGradOp", "FullShard"};
  d.sharding = by_stage[stage];
  say(stage_key, taken, names[stage]);
}

void DeepSpeed::judge_zero() {
  Description& d = to.strategy;
  // MiCS: shards in groups.
  const std::string mics = zero + "mics_shard_size";
  const double group = keys.any_number(mics).value_or(-1);
  if (group != std::floor(group) || std::abs(group) > 0x1p31)
    keys.refuse_at(mics, "no number of ranks; give a whole one, or -1");
  if (group > 0 && stage != 3) {
    say(mics, ignored, "of stage 3");
    warn(mics + ": without effect below stage 3");
  } else if (group > 1 && ranks && static_cast<double>(*ranks) == group) {
    say(mics, standard, "all ranks: FullShard");
  } else if (group > 1 && ranks && *ranks % static_cast<std::size_t>(group) != 0) {
    say(mics, unsupported, "does not divide the ranks, which DeepSpeed refuses");
  } else if (group > 1) {
    d.sharding = Sharding::hybrid;
    d.group = static_cast<std::size_t>(group);
    say(mics, taken, "HybridShard");
  } else if (group == 1) {
    say(mics, unsupported, "groups of one rank shard nothing (SX105); stage 0 says so");
  }
  say(mics, standard, "off");
  const std::string hierarchical = zero + "mics_hierarchical_params_gather";
  const bool is_hierarchical = keys.flag(hierarchical).value_or(false) && d.is_hybrid();
  say(hierarchical, is_hierarchical ? unsupported : standard,
      is_hierarchical ? "a group gathers in one step" : "off");

  // hpZ: backward gathers from near.
  const std::string hpz = zero + "zero_hpz_partition_size";
  const std::size_t near = keys.count(hpz).value_or(1);
  if (near > 1 && stage != 3) {
    say(hpz, ignored, "of stage 3");
    warn(hpz + ": without effect below stage 3");
  } else if (near > 1 && ranks && *ranks % near != 0) {
    say(hpz, unsupported, "does not divide the ranks, which DeepSpeed refuses");
  } else if (near > 1 && ranks && *ranks == near) {
    say(hpz, standard, "all ranks: backward gathers what forward did");
  } else if (near > 1 && d.is_hybrid() && (near >= d.group || d.group % near != 0)) {
    say(hpz, unsupported, "does not divide mics_shard_size (SX109)");
  } else if (near > 1) {
    d.reshard = near;
    say(hpz, taken, "ReshardTo");
  }
  say(hpz, standard, "off");

  // ZeRO++'s codes.
  const bool scatters = keys.flag(zero + "reduce_scatter").value_or(true);
  const auto quantized = [&](const std::string& name, bool& policy, const char* text) {
    const std::string key = zero + name;
    const bool is_on = keys.flag(key).value_or(false);
    if (is_on && stage != 3) {
      say(key, ignored, "of stage 3");
      warn(key + ": without effect below stage 3");
    } else if (is_on && name == "zero_quantized_gradients" && !scatters) {
      say(key, unsupported, "DeepSpeed refuses it without reduce_scatter");
    } else if (is_on) {
      policy = true;
      say(key, taken, text);
    }
    say(key, standard, "off");
  };
  quantized("zero_quantized_weights", d.quantizes_weights, "QuantizedWeights");
  quantized("zero_quantized_gradients", d.quantizes_gradients, "QuantizedGradients");
  const std::string frozen = zero + "zero_quantized_nontrainable_weights";
  const bool stores_codes = keys.flag(frozen).value_or(false) && stage == 3;
  say(frozen, stores_codes ? unsupported : standard,
      stores_codes ? "frozen parameters are kept in the compute dtype" : "off");
  if (!keys.is_null(zero + "zeropp_loco_param"))
    keys.say_below(zero + "zeropp_loco_param", unsupported,
                   "errors of quantized gradients are not carried over");

  // Thresholds of stage 3.
  if (const auto n =
          threshold("stage3_param_persistence_threshold", "param_persistence_threshold")) {
    const std::string name = zero + "stage3_param_persistence_threshold";
    const std::string key = keys.has(name) ? name : zero + "param_persistence_threshold";
    if (*n > 1) d.persist_below = *n;
    say(key, *n > 1 ? taken : standard, *n > 1 ? "PersistBelow" : "no parameter is that small");
  }
  const std::string cap = zero + "stage3_model_persistence_threshold";
  if (threshold("stage3_model_persistence_threshold", "model_persistence_threshold")) {
    const std::string key = keys.has(cap) ? cap : zero + "model_persistence_threshold";
    if (*keys.count(key) == 0) {
      d.persist_below = 0;
      say(key, taken, "0: no parameter persists");
    } else if (d.persist_below == 0) {
      say(key, standard, "no parameter persists");
    } else {
      say(key, unsupported, "what persists has no bound of its own; PersistBelow says it");
    }
  }
  if (const auto n = threshold("stage3_max_reuse_distance", "max_reuse_distance")) {
    const std::string name = zero + "stage3_max_reuse_distance";
    const std::string key = keys.has(name) ? name : zero + "max_reuse_distance";
    if (*n != 0) d.reuse_within = *n;
    say(key, *n != 0 ? taken : standard, *n != 0 ? "ReuseWithin" : "0: released after use");
  }
  const auto bucket = threshold("stage3_prefetch_bucket_size", "prefetch_bucket_size");
  const auto live = threshold("stage3_max_live_parameters", "max_live_parameters");
  const std::string sequential = zero + "stage3_allgather_sequential";
  const bool is_sequential = keys.flag(sequential).value_or(false) && stage == 3;
  // A bucket, or a limit, of nothing: a group is gathered when it is needed.
  const bool prefetches = !(bucket && *bucket == 0) && !(live && *live == 0) && !is_sequential;
  if (bucket && *bucket != 0 && prefetches) d.prefetch_bucket = *bucket;
  if (live && *live != 0 && (prefetches || d.reuse_within != 0)) d.max_live = *live;
  d.backward = prefetches ? d.standard_backward() : GatherAhead::never;
  d.forward = prefetches ? d.standard_forward() : 0;
  say(sequential, is_sequential ? taken : standard,
      is_sequential ? "BackwardNone: nothing is gathered ahead" : "off");
  for (const char* name : {"stage3_prefetch_bucket_size", "prefetch_bucket_size"})
    say(zero + name, d.prefetch_bucket != unlimited || !prefetches ? taken : standard,
        prefetches ? "PrefetchBucket" : "BackwardNone: nothing is gathered ahead");
  for (const char* name : {"stage3_max_live_parameters", "max_live_parameters"})
    say(zero + name, d.max_live != unlimited || !prefetches ? taken : standard,
        d.max_live != unlimited ? "MaxLive" : "BackwardNone: nothing is gathered ahead");
  if (stage == 3)
    to.rule(
        "a threshold of stage 3 that is left out is this library's default, not DeepSpeed's: "
        "no bit of the weights depends on it");

  // What chooses another way to the same values.
  (void)keys.count(zero + "reduce_bucket_size");
  (void)keys.count(zero + "allgather_bucket_size");
  say(zero + "reduce_bucket_size", standard, "gradients are reduced group by group: see the wrap");
  say(zero + "allgather_bucket_size", standard, "updates are published group by group");
  for (const char* name :
       {"allgather_partitions", "contiguous_gradients", "use_multi_rank_bucket_allreduce",
        "round_robin_gradients", "load_from_fp32_weights", "elastic_checkpoint",
        "ignore_unused_parameters", "stage3_use_all_reduce_for_fetch_params", "reduce_scatter"})
    (void)keys.flag(zero + name);
  say(zero + "allgather_partitions", standard, "updates are published by an all-gather");
  say(zero + "contiguous_gradients", standard, "gradients of a group lie together");
  say(zero + "use_multi_rank_bucket_allreduce", standard, "a reduce-scatter averages gradients");
  say(zero + "round_robin_gradients", standard, "gradients come down as they are reduced");
  say(zero + "load_from_fp32_weights", standard, "checkpoints hold what is updated");
  say(zero + "elastic_checkpoint", standard, "each checkpoint loads at any number of ranks");
  say(zero + "ignore_unused_parameters", standard, "a gradient nobody adds to is zero");
  say(zero + "stage3_use_all_reduce_for_fetch_params", standard, "parameters are all-gathered");
  say(zero + "reduce_scatter", standard,
      scatters ? "gradients are averaged by a reduce-scatter"
               : "gradients are averaged by a reduce-scatter all the same: fewer bytes");
  if (keys.flag(zero + "overlap_comm").value_or(false)) to.values.overlaps = true;
  say(zero + "overlap_comm", value, "the device's: Cpu{Execution::asynchronous}");

  for (const std::string& name : {std::string{"stage3_gather_16bit_weights_on_model_save"},
                                  std::string{"gather_16bit_weights_on_model_save"},
                                  std::string{"stage3_gather_fp16_weights_on_model_save"}}) {
    const std::string key = zero + name;
    const bool is_on = keys.flag(key).value_or(false);
    if (is_on && stage == 3) to.values.checkpoint = "full";
    say(key, stage == 3 ? value : ignored,
        stage == 3 ? "a checkpoint's form: full, in the storage dtype" : "of stage 3");
  }

  if (keys.flag(zero + "legacy_stage1").value_or(false))
    say(zero + "legacy_stage1", unsupported, "DeepSpeed refuses it");
  say(zero + "legacy_stage1", standard, "off");
  const std::string leaves = zero + "stage3_module_granularity_threshold";
  const bool joins = keys.count(leaves).value_or(0) != 0 && stage == 3;
  say(leaves, joins ? unsupported : standard, joins ? "WrapBySize joins units by size" : "off");
  keys.say_below(zero + "leaf_module", stage == 3 ? unsupported : ignored,
                 "units are what is gathered together; WrapEach names them");
  keys.say_below(zero + "zenflow", unsupported, "gradients are not split by importance");
  for (const char* name :
       {"memory_efficient_linear", "override_module_apply", "pipeline_loading_checkpoint",
        "log_trace_cache_warnings", "enable_sanity_checks", "save_muon_momentum_buffer_in_memory"})
    say(zero + name, aside, "how DeepSpeed works on a Python model");
}

void DeepSpeed::judge_offload() {
  Description& d = to.strategy;
  const std::string for_optimizer = zero + "offload_optimizer", for_params = zero + "offload_param";
  // The form of old.
  for (const auto& [key, block, place] :
       {std::tuple{zero + "cpu_offload", for_optimizer, &d.optimizer_state},
        std::tuple{zero + "cpu_offload_params", for_params, &d.parameters},
        std::tuple{zero + "cpu_offload_param", for_params, &d.parameters}}) {
    const bool is_on = keys.flag(key).value_or(false);
    const bool serves = is_on && (block == for_optimizer ? stage >= 1 : stage == 3);
    if (serves && !keys.has_below(block)) {
      *place = {PlaceOf::Kind::host};
      say(key, taken, "an old name of " + block.substr(zero.size()) + ".device");
      warn(key + ": an old name; write " + block + " with \"device\": \"cpu\"");
    }
    say(key, is_on ? ignored : standard, is_on ? "nothing to offload at this stage" : "off");
  }
  say(zero + "cpu_offload_use_pin_memory", standard, "memory on the host is the trainer's");

  const auto place_of = [&](const std::string& block, bool serves, const char* below) {
    const std::string key = block + ".device";
    const auto device = keys.choice(key, {"none", "cpu", "nvme", "auto"});
    if (!device || *device == 0 || *device == 3) {
      say(key, standard, "on the device");
      if (keys.has_below(block)) keys.say_below(block, ignored, "nothing is offloaded");
      return PlaceOf{};
    }
    if (!serves) {
      keys.say_below(block, ignored, below);
      warn(key + ": without effect, " + below);
      return PlaceOf{};
    }
    if (*device == 1) {
      say(key, taken, "OnHost");
      say(block + ".nvme_path", ignored, "nothing is on a disk");
      return PlaceOf{PlaceOf::Kind::host};
    }
    say(key, taken, "OnNvme");
    const std::string path = block + ".nvme_path";
    if (const auto folder = keys.word(path)) {
      if (!to.values.nvme_directory.empty() && to.values.nvme_directory != *folder)
        say(path, unsupported, "a rank's state is in one file; name one folder");
      to.values.nvme_directory = *folder;
    } else {
      warn(key + ": without nvme_path DeepSpeed fails; name the folder when the program runs");
    }
    say(path, value, "nvme.directory");
    return PlaceOf{PlaceOf::Kind::nvme};
  };
  const auto say_tuning = [&](const std::string& block) {
    for (const char* name :
         {"pin_memory", "pipeline_read", "pipeline_write", "pipeline", "fast_init"})
      (void)keys.flag(block + "." + name);
    for (const char* name : {"buffer_count", "buffer_size", "max_in_cpu"})
      (void)keys.count(block + "." + name);
    for (const char* name : {"pin_memory", "buffer_count", "buffer_size", "max_in_cpu"})
      say(block + "." + name, standard, "buffers are planned from the model's sizes");
    for (const char* name : {"pipeline_read", "pipeline_write", "pipeline", "fast_init"})
      say(block + "." + name, standard, "read ahead and written behind, always");
  };

  if (keys.has_below(for_params)) {
    const PlaceOf place =
        place_of(for_params, stage == 3, "parameters are offloaded at stage 3 alone");
    if (stage == 3) d.parameters = place;
    say_tuning(for_params);
  }

  const std::string tile = zero + "sub_group_size";
  const auto tile_elements = keys.count(tile);
  if (keys.has_below(for_optimizer)) {
    const PlaceOf place = place_of(for_optimizer, stage >= 1, "stage 0 shards no optimizer");
    if (place.kind != PlaceOf::Kind::device) d.optimizer_state = place;
    if (place.kind == PlaceOf::Kind::nvme && stage < 3)
      warn(for_optimizer +
           ".device: below stage 3 DeepSpeed takes the host's memory for nvme; here "
           "it is the disk");
    const std::string key = for_optimizer + ".ratio";
    const double ratio = keys.number(key).value_or(1);
    if (ratio > 1) keys.refuse_at(key, "above 1; give a fraction");
    if (ratio == 1) {
      say(key, standard, "all of it");
    } else if (stage != 3) {
      say(key, ignored, "of stage 3");
      warn(key + ": without effect below stage 3");
    } else if (place.kind != PlaceOf::Kind::host) {
      say(key, unsupported, "a fraction is of an optimizer on the host");
    } else {
      // As written, 0.3 is 3/10; six digits are one element in a million.
      auto count = static_cast<std::size_t>(std::llround(ratio * 1e6));
      const std::size_t of = std::gcd(count, std::size_t{1'000'000});
      if (count == 0) {
        d.optimizer_state = {};
        say(key, taken, "0: the device updates all");
      } else if (count == 1'000'000) {
        say(key, standard, "all of it");
      } else {
        d.optimizer_state = {PlaceOf::Kind::partly, count / of, 1'000'000 / of};
        say(key, taken, "Partly; by elements, where DeepSpeed's is by sub-groups");
      }
    }
    const bool is_super = keys.flag(for_optimizer + ".super_offload").value_or(false);
    say(for_optimizer + ".super_offload", is_super ? unsupported : standard,
        is_super ? "the host's update is not speculative" : "off");
    say(for_optimizer + ".cpuadam_cores_perc", aside, "threads of the host's update");
    say_tuning(for_optimizer);
  }
  const bool is_offloaded = d.optimizer_state != PlaceOf{} || d.parameters != PlaceOf{};
  if (d.is_hybrid() && is_offloaded)
    warn(zero +
         "mics_shard_size: DeepSpeed's MiCS fails in the first step where state is offloaded; "
         "it works here");
  // Parameters kept in 16 bits: DeepSpeed has them with its CPU optimizer, or with moments in bf16.
  if (d.precision.storage != Dtype::fp32 && d.precision.optimizer == Dtype::fp32 &&
      (stage == 0 || d.optimizer_state == PlaceOf{}))
    warn(std::string{dtype_names[static_cast<int>(d.precision.storage)]} +
         "_master_weights_and_grads: DeepSpeed refuses it unless ZeRO's optimizer is on the host; "
         "it "
         "works here");
  if (tile_elements && stage == 3 && d.optimizer_state.kind == PlaceOf::Kind::nvme) {
    const std::size_t chunk = std::max(*tile_elements / chunk_step * chunk_step, chunk_step);
    d.optimizer_state = {PlaceOf::Kind::nvme_by, chunk, 0};
    say(tile, taken, chunk == *tile_elements ? "OnNvmeBy" : "OnNvmeBy, of whole blocks of 32768");
  }
  say(tile, stage == 3 ? standard : ignored,
      stage == 3 ? "an update runs over a group at a time" : "of stage 3");
}

}  // namespace from_config::detail
