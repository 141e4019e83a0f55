// SPDX-License-Identifier: Apache-2.0
#include "write.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

namespace from_config {
namespace {

using detail::short_number;

const PlaceOf on_host{PlaceOf::Kind::host};

/// Ranks are the file's, where values say them.
Settings settings_for(const Values& values, Settings settings) {
  if (values.ranks) settings.ranks = values.ranks;
  return settings;
}

/// Where a policy accumulates, at least two: with one it would change nothing.
std::size_t micro_batches_of(const Description& d, const Values& values) {
  return std::max<std::size_t>(values.micro_batches, d.reduces_at_end ? 2 : 1);
}

/// The name of a layer's class for a unit's type, `Block` for `gpt::Block`.
std::string class_of(const std::string& unit, Settings& settings) {
  for (const auto& [name, type] : settings.units)
    if (type == unit) return name;
  const std::size_t colon = unit.rfind(':');
  const std::string name = colon == unit.npos ? unit : unit.substr(colon + 1);
  settings.units.emplace(name, unit);
  return name;
}

/// FSDP without mixed precision computes as a model was loaded, in 16 bits, too.
std::string mixed_word(const PrecisionOf& p, bool is_fsdp) {
  const bool is_none = p.compute == Dtype::fp32 || (is_fsdp && p.compute == p.storage);
  return is_none ? "no" : dtype_names[static_cast<int>(p.compute)];
}

Written read_again(const Description& d, std::string text, bool is_json, const Settings& settings) {
  const Judgement read = judge_bytes("written", text, is_json, settings);
  return {std::move(text), differences(d, read.strategy)};
}

/// Shard groups of hybrid strategies lie in a machine; without ranks the least mesh there is.
std::size_t ranks_for(const Description& d, const Settings& settings) {
  return settings.ranks.value_or(d.is_hybrid() ? 2 * d.group : 0);
}

std::string head(const char* type, const Description& d, std::size_t ranks, std::size_t machines) {
  std::string text = std::string{"compute_environment: LOCAL_MACHINE\ndistributed_type: "} + type +
                     "\nmixed_precision: '" + mixed_word(d.precision, type == std::string{"FSDP"}) +
                     "'\n";
  text += "num_machines: " + std::to_string(machines) + "\n";
  if (ranks != 0) text += "num_processes: " + std::to_string(ranks) + "\n";
  return text;
}

const char* yes(bool value) { return value ? "true" : "false"; }

Written fsdp(const Description& d, const Values& values, Settings settings, int version) {
  settings = settings_for(values, settings);
  const std::size_t ranks = ranks_for(d, settings);
  const bool is_split = version == 1 && d.is_hybrid() && d.group != 0 && ranks % d.group == 0;
  const bool keeps_whole = d.reuse_within == unlimited && d.parameters == on_host;
  const bool is_grad_op = d.sharding == Sharding::grad_op ||
                          d.sharding == Sharding::hybrid_grad_op ||
                          d.sharding == Sharding::optimizer || keeps_whole;
  std::string text = head("FSDP", d, ranks, is_split ? ranks / d.group : 1) + "fsdp_config:\n";
  const auto put = [&](const char* key, const std::string& value) {
    text += std::string{"  fsdp_"} + key + ": " + value + "\n";
  };
  put("version", std::to_string(version));
  if (version == 2)
    put("reshard_after_forward", yes(!is_grad_op));
  else
    put("sharding_strategy", d.sharding == Sharding::none ? "NO_SHARD"
                             : d.is_hybrid() ? (is_grad_op ? "HYBRID_SHARD_ZERO2" : "HYBRID_SHARD")
                                             : (is_grad_op ? "SHARD_GRAD_OP" : "FULL_SHARD"));
  put("offload_params", yes(d.optimizer_state == on_host && d.parameters == on_host));
  if (d.wrap == Wrap::whole) {
    put("auto_wrap_policy", "NO_WRAP");
  } else if (d.wrap == Wrap::by_size || d.wrapped.empty()) {
    put("auto_wrap_policy", "SIZE_BASED_WRAP");
    put("min_num_params", std::to_string(d.wrap == Wrap::by_size ? d.wrap_least : 1));
  } else {
    put("auto_wrap_policy", "TRANSFORMER_BASED_WRAP");
    if (d.wrapped != std::vector{settings.block}) {
      std::string names;
      for (const std::string& unit : d.wrapped)
        names += (names.empty() ? "" : ",") + class_of(unit, settings);
      put("transformer_layer_cls_to_wrap", names);
    }
  }
  if (version == 1) {
    put("backward_prefetch", d.backward == GatherAhead::before  ? "BACKWARD_PRE"
                             : d.backward == GatherAhead::after ? "BACKWARD_POST"
                                                                : "NO_PREFETCH");
    put("forward_prefetch", yes(d.forward != 0));
  }
  put("activation_checkpointing", yes(d.recomputes));
  put("cpu_ram_efficient_loading", "true");
  if (version == 1) put("sync_module_states", "true");
  if (version == 1) put("use_orig_params", "true");
  const std::string form = values.checkpoint.empty() ? "sharded" : values.checkpoint;
  put("state_dict_type", form == "full"                    ? "FULL_STATE_DICT"
                         : form == "local" && version == 1 ? "LOCAL_STATE_DICT"
                                                           : "SHARDED_STATE_DICT");
  if (version == 2 && d.is_hybrid() && ranks % d.group == 0)
    text += "parallelism_config:\n  parallelism_config_dp_replicate_size: " +
            std::to_string(ranks / d.group) +
            "\n  parallelism_config_dp_shard_size: " + std::to_string(d.group) + "\n";
  return read_again(d, std::move(text), false, settings);
}

const char* device_word(const PlaceOf& place) {
  switch (place.kind) {
    case PlaceOf::Kind::device:
      return "none";
    case PlaceOf::Kind::host:
    case PlaceOf::Kind::partly:
      return "cpu";
    default:
      return "nvme";
  }
}

std::size_t stage_of(const Description& d) {
  switch (d.sharding) {
    case Sharding::none:
      return 0;
    case Sharding::optimizer:
      return 1;
    case Sharding::grad_op:
    case Sharding::hybrid_grad_op:
      return 2;
    default:
      return 3;
  }
}

Written deepspeed_block(const Description& d, const Values& values, Settings settings) {
  settings = settings_for(values, settings);
  std::string text = head("DEEPSPEED", d, settings.ranks.value_or(0), 1) + "deepspeed_config:\n";
  const auto put = [&](const char* key, const std::string& value) {
    text += std::string{"  "} + key + ": " + value + "\n";
  };
  const std::string folder = values.nvme_directory.empty() ? "nvme" : values.nvme_directory;
  put("zero_stage", std::to_string(stage_of(d)));
  for (const auto& [name, place] :
       {std::pair{"optimizer", &d.optimizer_state}, std::pair{"param", &d.parameters}}) {
    const std::string key = std::string{"offload_"} + name;
    put((key + "_device").c_str(), device_word(*place));
    if (std::string{device_word(*place)} == "nvme")
      put((key + "_nvme_path").c_str(), "'" + folder + "'");
  }
  if (stage_of(d) == 3) {
    put("zero3_init_flag", "true");
    put("zero3_save_16bit_model", yes(values.checkpoint == "full"));
  }
  put("gradient_accumulation_steps", std::to_string(micro_batches_of(d, values)));
  if (d.clipping != Clipping::none) {
    std::string norm = short_number(values.clip.value_or(1));
    if (norm.find('.') == norm.npos && norm.find('e') == norm.npos) norm += ".0";
    put("gradient_clipping", norm);
  }
  return read_again(d, std::move(text), false, settings);
}

Written ddp(const Description& d, const Values& values, Settings settings) {
  settings = settings_for(values, settings);
  return read_again(d, head("MULTI_GPU", d, settings.ranks.value_or(0), 1), false, settings);
}

/// Writes JSON with members one below the other.
class Json {
 public:
  void open(const std::string& key) {
    line(key, "{");
    is_first_ = true;
    indent_ += "  ";
  }
  void close() {
    indent_.resize(indent_.size() - 2);
    text_ += "\n" + indent_ + "}";
    is_first_ = false;
  }
  void put(const std::string& key, const std::string& value) { line(key, value); }
  void put(const std::string& key, bool value) { line(key, value ? "true" : "false"); }
  void put(const std::string& key, std::size_t value) { line(key, std::to_string(value)); }
  void put(const std::string& key, double value) { line(key, short_number(value)); }
  void word(const std::string& key, const std::string& value) {
    std::string escaped;
    for (char c : value) escaped += (c == '"' || c == '\\') ? std::string{'\\', c} : std::string{c};
    line(key, "\"" + escaped + "\"");
  }
  std::string text() const { return "{" + text_ + "\n}\n"; }

 private:
  void line(const std::string& key, const std::string& value) {
    text_ += std::string{is_first_ ? "" : ","} + "\n" + indent_ + "\"" + key + "\": " + value;
    is_first_ = false;
  }
  std::string text_, indent_ = "  ";
  bool is_first_ = true;
};

void put_precision(Json& json, const Description& d, const Values& values) {
  const PrecisionOf& p = d.precision;
  if (p.compute != Dtype::fp32) {
    json.open(dtype_names[static_cast<int>(p.compute)]);
    json.put("enabled", true);
    if (p.compute == Dtype::fp16) {
      if (p.storage == Dtype::fp16) json.put("fp16_master_weights_and_grads", true);
      if (d.loss_scale == LossScale::fixed)
        json.put("loss_scale", values.scale.value_or(65536));
      else if (values.initial_scale) {
        const double power = std::ceil(std::log2(*values.initial_scale));
        json.put("initial_scale_power", static_cast<std::size_t>(std::max(power, 0.0)));
      }
      if (d.loss_scale != LossScale::fixed && values.growth_interval)
        json.put("loss_scale_window", *values.growth_interval);
      if (d.loss_scale != LossScale::fixed && values.hysteresis)
        json.put("hysteresis", *values.hysteresis);
      if (d.loss_scale != LossScale::fixed && values.least_scale)
        json.put("min_loss_scale", *values.least_scale);
    } else if (p.storage == Dtype::bf16) {
      json.put("bf16_master_weights_and_grads", true);
      if (p.optimizer == Dtype::bf16) json.put("bf16_optimizer_states", true);
    }
    json.close();
  }
  // DeepSpeed's own default is 16 bits.
  if (p.compute != Dtype::fp32 && (p.storage == Dtype::fp32 || p.reduce == Dtype::fp32)) {
    json.open("data_types");
    json.word("grad_accum_dtype", "fp32");
    json.close();
  }
  if (p.reduce != p.compute)
    json.word("communication_data_type", dtype_names[static_cast<int>(p.reduce)]);
}

void put_offload(Json& json, const char* block, const PlaceOf& place, const Values& values) {
  if (place.kind == PlaceOf::Kind::device) return;
  json.open(block);
  json.word("device", device_word(place));
  if (std::string{device_word(place)} == "nvme")
    json.word("nvme_path", values.nvme_directory.empty() ? "nvme" : values.nvme_directory);
  if (place.kind == PlaceOf::Kind::partly)
    json.put("ratio", static_cast<double>(place.count) / static_cast<double>(place.of));
  json.close();
}

void put_zero(Json& json, const Description& d, const Values& values) {
  json.open("zero_optimization");
  json.put("stage", stage_of(d));
  if (values.overlaps) json.put("overlap_comm", true);
  put_offload(json, "offload_optimizer", d.optimizer_state, values);
  if (stage_of(d) == 3) {
    put_offload(json, "offload_param", d.parameters, values);
    if (d.optimizer_state.kind == PlaceOf::Kind::nvme_by)
      json.put("sub_group_size", d.optimizer_state.count);
    if (d.is_hybrid()) json.put("mics_shard_size", d.group);
    if (d.reshard != 0) json.put("zero_hpz_partition_size", d.reshard);
    if (d.quantizes_weights) json.put("zero_quantized_weights", true);
    if (d.quantizes_gradients) json.put("zero_quantized_gradients", true);
    // A count of JSON is a double to others: beyond 2^53 there is no such model anyway.
    const auto put = [&](const char* key, std::size_t n) {
      json.put(key, std::min(n, std::size_t{1} << 53));
    };
    if (d.persist_below != 0) put("stage3_param_persistence_threshold", d.persist_below);
    if (d.max_live != unlimited) put("stage3_max_live_parameters", d.max_live);
    if (d.backward == GatherAhead::never && d.forward == 0)
      put("stage3_prefetch_bucket_size", 0);
    else if (d.prefetch_bucket != unlimited)
      put("stage3_prefetch_bucket_size", d.prefetch_bucket);
    if (d.reuse_within != 0) put("stage3_max_reuse_distance", d.reuse_within);
    if (values.checkpoint == "full") json.put("stage3_gather_16bit_weights_on_model_save", true);
  }
  json.close();
}

void put_optimizer(Json& json, const Description& d, const Values& values) {
  static constexpr const char* names[] = {"AdamW", "Adam", "SGD", "SGD", "Lion", "Adagrad"};
  json.open("optimizer");
  json.word("type", names[static_cast<int>(d.optimizer)]);
  json.open("params");
  const auto put = [&](const char* key, const std::optional<double>& value) {
    if (value) json.put(key, *value);
  };
  if (values.learning_rate)
    json.put("lr", *values.learning_rate);
  else
    json.word("lr", "auto");
  put("weight_decay", values.weight_decay);
  if (d.optimizer == Optimizer::adam) json.put("adam_w_mode", false);
  if (d.optimizer == Optimizer::sgd_momentum) {
    json.put("momentum", values.momentum.value_or(0.9));
    put("dampening", values.dampening);
    if (values.nesterov) json.put("nesterov", *values.nesterov);
  }
  if (values.beta1 && values.beta2)
    json.put("betas", "[" + short_number(*values.beta1) + ", " + short_number(*values.beta2) + "]");
  put("eps", values.epsilon);
  put("lr_decay", values.learning_rate_decay);
  json.close();
  json.close();
}

}  // namespace

Written write_deepspeed(const Description& d, const Values& values, const Settings& given) {
  const Settings settings = settings_for(values, given);
  Json json;
  if (values.micro_batch_size)
    json.put("train_micro_batch_size_per_gpu", *values.micro_batch_size);
  else
    json.word("train_micro_batch_size_per_gpu", "auto");
  json.put("gradient_accumulation_steps", micro_batches_of(d, values));
  // 0 is said: what it is when left out depends on DeepSpeed's version.
  json.put("gradient_clipping", d.clipping == Clipping::none ? 0 : values.clip.value_or(1));
  const bool is_sgd = d.optimizer == Optimizer::sgd || d.optimizer == Optimizer::sgd_momentum;
  if (is_sgd && stage_of(d) != 0) json.put("zero_allow_untested_optimizer", true);
  put_precision(json, d, values);
  put_zero(json, d, values);
  put_optimizer(json, d, values);
  return read_again(d, json.text(), true, settings);
}

Written write_fsdp(const Description& d, const Values& values, const Settings& settings) {
  Written first = fsdp(d, values, settings, 1), second = fsdp(d, values, settings, 2);
  return second.unsaid.size() < first.unsaid.size() ? second : first;
}

Written write_accelerate(const Description& d, const Values& values, const Settings& settings) {
  std::vector<Written> all;
  // Of two that say as much the first is taken.
  if (d.sharding == Sharding::none) all.push_back(ddp(d, values, settings));
  all.push_back(write_fsdp(d, values, settings));
  all.push_back(deepspeed_block(d, values, settings));
  return *std::min_element(all.begin(), all.end(), [](const Written& a, const Written& b) {
    return a.unsaid.size() < b.unsaid.size();
  });
}

}  // namespace from_config
