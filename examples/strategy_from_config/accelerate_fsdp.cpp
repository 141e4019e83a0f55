// SPDX-License-Identifier: Apache-2.0
// Accelerate's block fsdp_config, of FSDP 1 and 2.
#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "accelerate.hpp"

namespace from_config::detail {
namespace {

using enum Verdict;

const std::string block = "fsdp_config.";
const std::string mesh = "parallelism_config.parallelism_config_";

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> all;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    const std::size_t first = std::min(text.find_first_not_of(' ', at), end);
    std::string word = text.substr(first, end - first);
    word.erase(word.find_last_not_of(' ') + 1);
    if (!word.empty()) all.push_back(word);
    at = end + 1;
  }
  return all;
}

}  // namespace

void Accelerate::judge_fsdp() {
  const auto given = keys.count(block + "fsdp_version");
  if (given && *given != 1 && *given != 2)
    keys.refuse_at(block + "fsdp_version", "there are versions 1 and 2");
  if (!given) to.rule("fsdp_version left out is 1");
  const std::size_t version = given.value_or(1);
  say(block + "fsdp_version", taken, version == 1 ? "FSDP 1" : "FSDP 2, fully_shard");
  judge_wrap(version);
  judge_sharding(version);
  judge_fsdp_precision();
  judge_loading(version);
  to.values.micro_batches = settings.micro_batches.value_or(1);
  // Accelerate accumulates under no_sync.
  settle_accumulation(to, false);
}

void Accelerate::judge_sharding(std::size_t version) {
  Description& d = to.strategy;
  const std::string key = block + "fsdp_sharding_strategy",
                    reshard = block + "fsdp_reshard_after_forward";
  static constexpr const char* names[] = {"FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD",
                                          "HYBRID_SHARD_ZERO2"};
  static constexpr Sharding shardings[] = {Sharding::full, Sharding::grad_op, Sharding::none,
                                           Sharding::hybrid, Sharding::hybrid_grad_op};
  std::size_t chosen = 0;
  if (version == 1) {
    const Node* const node = keys.node(key);
    if (node != nullptr && node->kind == Node::Kind::number) {
      const std::size_t number = *keys.count(key);
      if (number < 1 || number > 5)
        keys.refuse_at(key,
                       "there are 1 to 5: FULL_SHARD, SHARD_GRAD_OP, NO_SHARD, HYBRID_SHARD, "
                       "HYBRID_SHARD_ZERO2");
      chosen = number - 1;
    } else {
      chosen = keys.choice(key, {names[0], names[1], names[2], names[3], names[4]}).value_or(0);
    }
    if (!keys.has(key)) to.rule("fsdp_sharding_strategy left out is FULL_SHARD");
    const Node* const after = keys.node(reshard);
    if (after != nullptr && after->kind == Node::Kind::boolean) {
      say(reshard, unsupported, "a truth value is of fsdp_version 2, which the file does not say");
    } else if (const auto word =
                   keys.choice(reshard, {names[0], names[1], names[2], names[3], names[4]})) {
      const bool differs = *word != chosen;
      say(reshard, differs ? ignored : standard,
          differs ? "of fsdp_version 2; version 1 reads fsdp_sharding_strategy"
                  : "what fsdp_sharding_strategy says");
      if (differs)
        warn(reshard + ": Accelerate ignores it, fsdp_sharding_strategy is " + names[chosen]);
    }
  } else {
    say(key, ignored, "of fsdp_version 1");
    if (keys.has(key)) warn(key + ": without effect in fsdp_version 2");
    const Node* const after = keys.node(reshard);
    if (after != nullptr && after->kind == Node::Kind::text)
      keys.refuse_at(reshard, shown(after->text) +
                                  " is a text; in fsdp_version 2 give true or "
                                  "false");
    if (!keys.flag(reshard).value_or(true)) chosen = 1;
    if (!keys.has(reshard)) to.rule("fsdp_reshard_after_forward left out is true");
  }

  // The mesh: over how many ranks a copy is shared.
  const std::size_t replicas = keys.count(mesh + "dp_replicate_size").value_or(1),
                    shards = keys.count(mesh + "dp_shard_size").value_or(1);
  const bool has_mesh = replicas > 1 || shards > 1;
  std::string why;  // the sharding was changed
  if (has_mesh && version == 1) {
    for (const char* name : {"dp_replicate_size", "dp_shard_size"})
      say(mesh + name, unsupported, "Accelerate's parallelism_config is of fsdp_version 2");
  } else if (has_mesh) {
    if (settings.ranks && replicas * shards != *settings.ranks)
      say(mesh + "dp_shard_size", unsupported,
          std::to_string(replicas) + " x " + std::to_string(shards) +
              " is not num_processes, which Accelerate refuses");
    if (shards == 1) {
      chosen = 2;
      why = "copies alone: NoShard";
    } else if (replicas > 1) {
      chosen += 3;
      d.group = shards;
    }
    say(mesh + "dp_replicate_size", replicas > 1 ? taken : standard,
        replicas > 1 ? "copies" : "one copy");
    say(mesh + "dp_shard_size", taken, "ranks that share a copy");
  }
  say(mesh + "dp_replicate_size", standard, "one copy");
  say(mesh + "dp_shard_size", standard, "all ranks share a copy");
  if (version == 1 && (chosen == 3 || chosen == 4)) {
    // Shards within a machine, copies over machines.
    if (!settings.ranks) {
      say(key, unsupported,
          "shards within a machine: how many ranks it has is not said; give "
          "num_processes, or --ranks");
    } else if (machines == 1) {
      warn(key + ": one machine is one group, as " + names[chosen - 3]);
      chosen -= 3;
      why = "one machine is one group";
    } else if (*settings.ranks == machines) {
      say(key, unsupported, "a machine with one rank is a group that shards nothing (SX105)");
    } else {
      d.group = *settings.ranks / machines;
    }
    if (keys.is_judged(key)) chosen -= 3;
  }
  d.sharding = shardings[chosen];
  if (version == 1 && settings.ranks == std::size_t{1} && d.sharding != Sharding::none)
    warn(std::string{"num_processes: FSDP 1 makes NO_SHARD of "} + names[chosen] +
         " with one process; one rank trains to the same bits here");

  // Offload is of all state, or none.
  const std::string offload = block + "fsdp_offload_params";
  if (keys.flag(offload).value_or(false)) {
    const PlaceOf host{PlaceOf::Kind::host};
    d.optimizer_state = host;
    if (d.sharding == Sharding::grad_op || d.sharding == Sharding::hybrid_grad_op) {
      // Between steps FSDP keeps a part here, too, on the host; ShardGradOp keeps all, to compute
      // with.
      d.sharding = d.sharding == Sharding::grad_op ? Sharding::full : Sharding::hybrid;
      if (d.wrap != Wrap::whole) d.reuse_within = unlimited;
      why = "on the host between steps, whole from forward to backward";
    }
    if (d.shards_parameters()) {
      d.parameters = host;
      say(offload, taken, "OffloadAll");
    } else {
      say(offload, unsupported,
          "NoShard keeps all parameters to compute with; Offload<OnDevice, OnHost> offloads the "
          "rest");
    }
  }
  say(offload, standard, "all on the device");
  if (d.sharding == Sharding::grad_op)
    to.rule(
        "SHARD_GRAD_OP is ShardGradOp, which keeps parameters whole between steps, too; FullShard, "
        "ReuseWithin<unlimited> splits them there");
  static constexpr const char* types[] = {"FullShard", "ShardGradOp", "NoShard", "HybridShard",
                                          "HybridShardGradOp"};
  static constexpr Sharding order[] = {Sharding::full, Sharding::grad_op, Sharding::none,
                                       Sharding::hybrid, Sharding::hybrid_grad_op};
  std::string type = types[std::find(std::begin(order), std::end(order), d.sharding) - order];
  if (d.reuse_within == unlimited) type += ", ReuseWithin<unlimited>";
  if (!why.empty()) type += ": " + why;
  say(key, taken, type);
  say(reshard, taken, type);

  // Prefetch.
  const std::string backward = block + "fsdp_backward_prefetch",
                    forward = block + "fsdp_forward_prefetch";
  const auto ahead = keys.choice(backward, {"BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH"});
  const bool prefetches_forward = keys.flag(forward).value_or(false);
  if (version == 2) {
    d.backward = d.standard_backward();
    if (ahead && *ahead != 0) warn(backward + ": without effect, FSDP 2 always gathers ahead");
    say(backward, ahead.value_or(0) == 0 ? standard : ignored, "FSDP 2 always gathers ahead");
    say(forward, prefetches_forward ? unsupported : standard,
        prefetches_forward ? "Accelerate refuses it in fsdp_version 2" : "off");
  } else if (!d.gathers_in_turn()) {
    d.backward = GatherAhead::never;
    say(backward, standard, "nothing is gathered in turn");
    say(forward, standard, "nothing is gathered in turn");
  } else {
    static constexpr GatherAhead aheads[] = {GatherAhead::before, GatherAhead::after,
                                             GatherAhead::never};
    if (!ahead)
      to.rule("fsdp_backward_prefetch left out is none: so Accelerate gives it to FSDP 1");
    d.backward = aheads[ahead.value_or(2)];
    static constexpr const char* policies[] = {"BackwardPre", "BackwardPost", "BackwardNone"};
    if (ahead) say(backward, taken, policies[*ahead]);
    if (prefetches_forward) d.forward = 1;
    say(forward, prefetches_forward ? taken : standard,
        prefetches_forward ? "ForwardPrefetch<1>" : "off");
  }
  const std::string misnamed = block + "fsdp_backward_prefetch_policy";
  if (keys.has(misnamed)) {
    say(misnamed, ignored, "the key is fsdp_backward_prefetch");
    warn(misnamed + ": Accelerate ignores it; the key is fsdp_backward_prefetch");
  }
}

void Accelerate::judge_wrap(std::size_t version) {
  Description& d = to.strategy;
  const std::string key = block + "fsdp_auto_wrap_policy",
                    layers = block + "fsdp_transformer_layer_cls_to_wrap",
                    least = block + "fsdp_min_num_params";
  const auto policy = keys.choice(key, {"TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"});
  const auto size = keys.count(least);
  const auto names = keys.word(layers);
  if (policy == std::size_t{0}) {
    for (const std::string& name : split(names.value_or(""))) {
      const auto unit = settings.units.find(name);
      const std::string type = unit == settings.units.end() ? settings.block : unit->second;
      if (unit == settings.units.end())
        to.rule("the layer " + shown(name) + " is the unit " + settings.block +
                "; --unit names another");
      if (std::find(d.wrapped.begin(), d.wrapped.end(), type) == d.wrapped.end())
        d.wrapped.push_back(type);
    }
    if (d.wrapped.empty()) {
      d.wrapped.push_back(settings.block);
      to.rule("the layer of a transformer is the unit " + settings.block +
              "; --block names another");
    }
    say(key, taken, "WrapEach");
    say(layers, taken, "the units of WrapEach");
  } else if (policy == std::size_t{1}) {
    const std::size_t elements = size.value_or(version == 1 ? 100'000'000 : 0);
    if (!size) to.rule("fsdp_min_num_params left out is 100000000");
    if (elements == 0) {
      d.wrap = Wrap::whole;
      say(key, taken, "WrapWhole: no size wraps nothing");
      warn(least + ": 0 wraps nothing, the whole model is one group");
    } else if (elements == 1) {
      say(key, taken, "WrapEach<>: each unit has that size");
    } else {
      d.wrap = Wrap::by_size;
      d.wrap_least = elements;
      say(key, taken, "WrapBySize");
    }
    say(least, taken, "elements of a group");
  } else {
    d.wrap = Wrap::whole;
    if (!policy) to.rule("fsdp_auto_wrap_policy left out is NO_WRAP");
    say(key, taken, "WrapWhole: one group");
  }
  const bool wraps_by_name = policy == std::size_t{0};
  say(least, ignored, "of SIZE_BASED_WRAP");
  say(layers, ignored, "of TRANSFORMER_BASED_WRAP");
  if (names && !wraps_by_name) warn(layers + ": without effect, the wrap is not by layer");

  const std::string checkpointing = block + "fsdp_activation_checkpointing";
  if (keys.flag(checkpointing).value_or(false)) {
    if (d.wrap == Wrap::whole && version == 2) {
      say(checkpointing, unsupported, "without a wrap policy Accelerate fails in fsdp_version 2");
    } else {
      d.recomputes = true;
      if (wraps_by_name) d.recomputed = d.wrapped;
      say(checkpointing, taken,
          wraps_by_name ? "Recompute of the units that are wrapped" : "Recompute of every unit");
    }
  }
  say(checkpointing, standard, "off");
  const std::string inputs = block + "fsdp_activation_checkpointing_offload";
  const bool moves_inputs = keys.flag(inputs).value_or(false);
  say(inputs, moves_inputs ? unsupported : standard,
      moves_inputs ? "what a recomputed unit is given stays on the device" : "off");
}

void Accelerate::judge_fsdp_precision() {
  Description& d = to.strategy;
  const Dtype loaded = settings.loaded;
  const std::string name = dtype_names[static_cast<int>(loaded)];
  if (mixed == "no") {
    d.precision = {loaded, loaded, loaded, loaded, loaded};
    to.rule("without mixed_precision all is in the dtype that a model was loaded in: --loaded, " +
            name);
    if (loaded == Dtype::fp16) {
      say("mixed_precision", unsupported, "fp16 without a loss scale (SX120)");
      d.precision = {};
    }
    say("mixed_precision", loaded == Dtype::fp32 ? standard : taken,
        "all in the dtype that was loaded, " + name);
    return;
  }
  if (mixed == "fp16") {
    take_fp16(to);
    // ShardedGradScaler's values.
    to.values.growth_interval = 2000;
    to.values.hysteresis = 1;
  } else {
    d.precision.compute = d.precision.reduce = Dtype::bf16;
  }
  say("mixed_precision", taken, "parameters are upcast to fp32; computes and reduces in " + mixed);
}

void Accelerate::judge_loading(std::size_t version) {
  const std::string state = block + "fsdp_state_dict_type";
  if (const auto form =
          keys.choice(state, {"FULL_STATE_DICT", "SHARDED_STATE_DICT", "LOCAL_STATE_DICT"})) {
    static constexpr const char* forms[] = {"full", "sharded", "local"};
    to.values.checkpoint = forms[*form];
    const bool is_refused = version == 2 && *form == 2;
    say(state, is_refused ? unsupported : value,
        is_refused ? "Accelerate refuses it in fsdp_version 2"
                   : std::string{"a checkpoint's form: "} + forms[*form]);
  }
  const std::string efficient = block + "fsdp_cpu_ram_efficient_loading",
                    sync = block + "fsdp_sync_module_states",
                    names = block + "fsdp_use_orig_params";
  const bool loads_once = keys.flag(efficient).value_or(false);
  const auto synchronizes = keys.flag(sync);
  if (version == 1 && loads_once && synchronizes && !*synchronizes)
    say(efficient, unsupported, "Accelerate refuses it without fsdp_sync_module_states");
  say(efficient, standard, "each rank reads its own part of a file");
  say(sync, standard, "ranks begin alike: from one seed, or one file");
  if (version == 2) {
    if (keys.flag(names).has_value()) warn(names + ": without effect in fsdp_version 2");
    if (synchronizes && *synchronizes) warn(sync + ": without effect in fsdp_version 2");
  }
  (void)keys.flag(names);
  say(names, version == 2 ? ignored : standard, "parameters keep their names and shapes");
  const std::string ignored_modules = block + "fsdp_ignored_modules";
  if (!keys.is_null(ignored_modules))
    say(ignored_modules, unsupported, "each unit is sharded; a small one persists, PersistBelow");
}

}  // namespace from_config::detail
