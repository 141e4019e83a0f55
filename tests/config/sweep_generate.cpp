// SPDX-License-Identifier: Apache-2.0
// sweep_generate FILE: judges many made-up files whose keys contradict, repeat and undo each other,
// and writes a line LEGAL(policies) for each strategy that comes out as carried over. Fails if one,
// written in its file's own format, does not come back.
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <initializer_list>
#include <random>
#include <set>
#include <string>

#include "../../examples/strategy_from_config/write.hpp"

using namespace from_config;

namespace {

std::mt19937 random_bits{1};

bool one_in(std::size_t n) { return random_bits() % n == 0; }
std::string pick(std::initializer_list<const char*> words) {
  return words.begin()[random_bits() % words.size()];
}
/// Members of JSON, some of those that are offered.
class Members {
 public:
  void always(const std::string& key, const std::string& value) {
    text_ += (text_.empty() ? "\"" : ", \"") + key + "\": " + value;
  }
  void maybe(const char* key, std::initializer_list<const char*> values) {
    if (one_in(3)) always(key, pick(values));
  }
  std::string text() const { return "{" + text_ + "}"; }

 private:
  std::string text_;
};

std::string deepspeed() {
  Members zero, all;
  zero.always("stage", pick({"0", "1", "2", "3", "3", "3"}));
  zero.maybe("stage3_param_persistence_threshold", {"0", "1", "2", "1e5"});
  zero.maybe("stage3_model_persistence_threshold", {"0", "100"});
  zero.maybe("stage3_max_live_parameters", {"0", "1", "1e9"});
  zero.maybe("stage3_prefetch_bucket_size", {"0", "1", "5e7", "\"auto\""});
  zero.maybe("stage3_max_reuse_distance", {"0", "1", "1e9"});
  zero.maybe("stage3_allgather_sequential", {"true", "false"});
  zero.maybe("zero_hpz_partition_size", {"0", "1", "2", "4", "8"});
  zero.maybe("mics_shard_size", {"-1", "0", "1", "2", "4", "8", "16"});
  zero.maybe("zero_quantized_weights", {"true", "false"});
  zero.maybe("zero_quantized_gradients", {"true", "false"});
  zero.maybe("reduce_scatter", {"true", "false"});
  zero.maybe("sub_group_size", {"0", "1", "32768", "1e9"});
  zero.maybe("cpu_offload", {"true", "false"});
  for (const char* block : {"offload_optimizer", "offload_param"}) {
    Members offload;
    offload.always("device", pick({"\"none\"", "\"cpu\"", "\"nvme\""}));
    offload.always("nvme_path", "\"swap\"");
    if (block == std::string{"offload_optimizer"})
      offload.maybe("ratio", {"0", "1e-7", "0.3", "0.5", "0.9999999", "1"});
    if (one_in(2)) zero.always(block, offload.text());
  }
  all.always("zero_optimization", zero.text());
  for (const char* block : {"bf16", "fp16"}) {
    Members precision;
    precision.always("enabled", pick({"true", "\"auto\""}));
    precision.maybe((std::string{block} + "_master_weights_and_grads").c_str(), {"true"});
    if (block == std::string{"bf16"}) precision.maybe("bf16_optimizer_states", {"true"});
    if (block == std::string{"fp16"}) precision.maybe("loss_scale", {"0", "128"});
    if (one_in(3)) all.always(block, precision.text());
  }
  all.maybe("communication_data_type", {"\"fp32\"", "\"fp16\"", "\"bf16\""});
  all.maybe("gradient_clipping", {"0", "1", "\"auto\""});
  all.maybe("gradient_accumulation_steps", {"1", "2", "\"auto\""});
  if (one_in(2))
    all.always("optimizer", "{\"type\": \"" + pick({"Adam", "AdamW", "SGD", "Lion", "Adagrad"}) +
                                "\", \"params\": {\"lr\": 0.001}}");
  return all.text();
}

std::string accelerate() {
  const std::string type = pick({"FSDP", "FSDP", "FSDP", "DEEPSPEED", "MULTI_GPU"});
  std::string text = "distributed_type: " + type + "\n";
  const auto maybe = [&](const std::string& key, std::initializer_list<const char*> values) {
    if (!one_in(3)) text += key + ": " + pick(values) + "\n";
  };
  maybe("mixed_precision", {"'no'", "bf16", "fp16"});
  if (one_in(2)) text += "num_processes: 8\nnum_machines: " + pick({"1", "2", "8"}) + "\n";
  if (type == "FSDP") {
    text += "fsdp_config:\n";
    const std::string version = pick({"1", "2"});
    text += "  fsdp_version: " + version + "\n";
    maybe("  fsdp_sharding_strategy",
          {"FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2"});
    maybe("  fsdp_offload_params", {"true", "false"});
    maybe("  fsdp_auto_wrap_policy", {"TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"});
    maybe("  fsdp_min_num_params", {"0", "1", "2", "1000"});
    maybe("  fsdp_backward_prefetch", {"BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH"});
    maybe("  fsdp_forward_prefetch", {"true", "false"});
    maybe("  fsdp_activation_checkpointing", {"true", "false"});
    if (version == "2") maybe("  fsdp_reshard_after_forward", {"true", "false"});
    if (one_in(3))
      text +=
          "parallelism_config:\n  parallelism_config_dp_replicate_size: " + pick({"1", "2", "4"}) +
          "\n  parallelism_config_dp_shard_size: " + pick({"1", "2", "4"}) + "\n";
  } else if (type == "DEEPSPEED") {
    text += "deepspeed_config:\n  zero_stage: " + pick({"0", "1", "2", "3"}) + "\n";
    maybe("  offload_optimizer_device", {"none", "cpu", "nvme"});
    maybe("  offload_param_device", {"none", "cpu", "nvme"});
    maybe("  gradient_accumulation_steps", {"1", "2", "auto"});
    maybe("  gradient_clipping", {"0.0", "1.0", "auto"});
  }
  return text;
}

}  // namespace

int main(int, char** argv) {
  std::set<std::string> packs;
  std::size_t supported = 0;
  for (std::size_t i = 0; i < 2000 && packs.size() < 400; ++i) {
    Settings settings;
    settings.mixed_precision = pick({"no", "bf16", "fp16"});
    settings.loaded = static_cast<Dtype>(random_bits() % 3);
    if (one_in(2)) settings.micro_batches = 3;
    if (one_in(2)) settings.ranks = std::size_t{1} << random_bits() % 5;
    const bool is_json = i % 2 == 0;
    const std::string text = is_json ? deepspeed() : accelerate();
    try {
      const Judgement judged = judge_bytes("made", text, is_json, settings);
      if (!judged.is_supported()) continue;
      ++supported;
      packs.insert(pack_of(judged.strategy));
      // What a format said, it can say.
      const Written written = is_json ? write_deepspeed(judged.strategy, judged.values, settings)
                                      : write_accelerate(judged.strategy, judged.values, settings);
      for (const Difference& each : written.unsaid) {
        std::fprintf(stderr, "%s\nbecame %s, was %s, in\n%s", text.c_str(), each.got.c_str(),
                     each.wanted.c_str(), written.text.c_str());
        return 1;
      }
    } catch (const BadFile&) {
      // Ranks and machines that do not fit.
    }
  }
  std::ofstream file{argv[1]};
  for (const std::string& pack : packs) file << "LEGAL(" << pack << ")\n";
  if (!file.flush() || packs.size() < 300) {
    std::fprintf(stderr, "%zu strategies of %zu files\n", packs.size(), supported);
    return 1;
  }
  return 0;
}
