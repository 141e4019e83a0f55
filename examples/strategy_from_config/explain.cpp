// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "write.hpp"

namespace from_config {
namespace {

/// The lines of a text that begin with one of some keys, `key: value`, joined.
std::string lines_with(const std::string& text, std::initializer_list<const char*> keys) {
  std::string all;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    line.erase(0, std::min(line.find_first_not_of(' '), line.size()));
    if (line.ends_with(",")) line.pop_back();
    line.erase(std::remove(line.begin(), line.end(), '"'), line.end());
    for (const char* key : keys)
      if (line.starts_with(std::string{key} + ":")) all += (all.empty() ? "`" : ", `") + line + "`";
    at = end + 1;
  }
  return all;
}

class Table {
 public:
  Table(const Description& d, const Written& fsdp, const Written& deepspeed)
      : policies_{policies_of(d)}, fsdp_{fsdp}, deepspeed_{deepspeed} {}

  /// A row; `axes`: those that it is about.
  void row(const char* group, std::string fsdp, std::string deepspeed,
           std::initializer_list<const char*> axes, const std::string& otherwise = "") {
    std::string here;
    for (const char* axis : axes) {
      for (const PolicyText& each : policies_)
        if (each.axis == axis && !each.policy.empty())
          here += (here.empty() ? "`" : ", `") + each.policy + "`";
      mark(fsdp, fsdp_, axis);
      mark(deepspeed, deepspeed_, axis);
    }
    if (here.empty()) here = otherwise;
    text_ += std::string{"| "} + group + " | " + fsdp + " | " + deepspeed + " | " + here + " |\n";
  }
  const std::string& text() const { return text_; }

 private:
  static void mark(std::string& cell, const Written& written, std::string_view axis) {
    for (const Difference& each : written.unsaid)
      if (each.axis == axis)
        cell += (cell.empty() ? "" : "; ") + std::string{"cannot say "} + "`" +
                (each.wanted == "none" ? "none" : each.wanted) + "`";
  }

  std::vector<PolicyText> policies_;
  const Written &fsdp_, &deepspeed_;
  std::string text_ = "| group | FSDP | DeepSpeed | here |\n|---|---|---|---|\n";
};

}  // namespace

std::string explain(const Description& d, const Values& values, const Settings& settings) {
  const Written fsdp = write_fsdp(d, values, settings),
                deepspeed = write_deepspeed(d, values, settings);
  const std::string& f = fsdp.text;
  const std::string& z = deepspeed.text;
  const bool is_third = lines_with(z, {"stage"}) == "`stage: 3`";
  Table table{d, fsdp, deepspeed};
  table.row("sharding",
            lines_with(f, {"fsdp_sharding_strategy", "fsdp_reshard_after_forward",
                           "parallelism_config_dp_shard_size"}),
            lines_with(z, {"stage", "mics_shard_size", "zero_hpz_partition_size"}),
            {"sharding", "reshard"});
  const std::string devices = lines_with(z, {"device", "ratio", "sub_group_size"});
  table.row("offload", lines_with(f, {"fsdp_offload_params"}),
            devices.empty() ? "`device: none`" : devices, {"offload"}, "none");
  table.row("model loading", lines_with(f, {"fsdp_cpu_ram_efficient_loading"}),
            is_third ? "`zero3_init_flag: true`" : "of stage 3 alone", {},
            "each rank makes, or reads, its own part");
  table.row("checkpointing", lines_with(f, {"fsdp_state_dict_type"}),
            is_third ? (values.checkpoint == "full" ? "`zero3_save_16bit_model: true`"
                                                    : "`zero3_save_16bit_model: false`")
                     : "whole parameters in one file",
            {}, values.checkpoint.empty() ? "sharded, full or local" : values.checkpoint);
  const std::string bounds =
      lines_with(z, {"stage3_prefetch_bucket_size", "stage3_max_live_parameters",
                     "stage3_max_reuse_distance", "stage3_param_persistence_threshold"});
  table.row("prefetching", lines_with(f, {"fsdp_forward_prefetch", "fsdp_backward_prefetch"}),
            bounds.empty() ? "by its thresholds" : bounds,
            {"backward prefetch", "forward prefetch", "persistence", "live limit", "prefetch limit",
             "reuse", "gather limit"},
            d.gathers_in_turn() ? "`BackwardPre`" : "nothing is gathered in turn");
  table.row("model",
            lines_with(f, {"fsdp_auto_wrap_policy", "fsdp_transformer_layer_cls_to_wrap",
                           "fsdp_min_num_params", "fsdp_activation_checkpointing"}),
            "transparent", {"wrap", "recompute"}, "`WrapEach<>`");
  table.row("parameters summoning", lines_with(f, {"fsdp_use_orig_params"}), "transparent", {},
            "`trainer.summon`, `trainer.gather<Unit>`; names always");
  table.row("parameters syncing", lines_with(f, {"fsdp_sync_module_states"}), "transparent", {},
            "one seed, or one file");
  table.row("training", "the script's",
            lines_with(z, {"gradient_accumulation_steps", "gradient_clipping", "type"}),
            {"accumulation", "clipping", "optimizer"});
  std::string block;
  if (d.precision.compute != Dtype::fp32)
    block = std::string{"block `"} + dtype_names[static_cast<int>(d.precision.compute)] + "`";
  const std::string more =
      lines_with(z, {"communication_data_type", "bf16_master_weights_and_grads",
                     "fp16_master_weights_and_grads", "bf16_optimizer_states", "loss_scale"});
  if (!more.empty()) block += (block.empty() ? "" : ", ") + more;
  table.row("precision", lines_with(f, {"mixed_precision"}), block.empty() ? "no block" : block,
            {"precision", "loss scale", "rounding"});
  table.row("compression", "",
            lines_with(z, {"zero_quantized_weights", "zero_quantized_gradients"}),
            {"weight compression", "gradient compression"}, "none");
  return table.text();
}

}  // namespace from_config
