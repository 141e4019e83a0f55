// SPDX-License-Identifier: Apache-2.0
// How each strategy begins from what was saved, and saves: a file of its own, which compiles beside
// main.cpp.
#include "checkpoints.hpp"

#include <shardexpr/checkpoint/info.hpp>
#include <shardexpr/checkpoint/load.hpp>
#include <shardexpr/checkpoint/load_model.hpp>
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/nn/gpt_huggingface.hpp>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include "machine.hpp"
#include "options.hpp"
#include "text.hpp"
#include "train_gpt_strategies.hpp"  // made by CMake from TRAIN_GPT_STRATEGIES

namespace {

/// How far a run is, as a checkpoint's cursor keeps it: "step 12 batches 24 seed 1".
std::string cursor_of(const Position& position) {
  return "step " + std::to_string(position.step) + " batches " + std::to_string(position.batches) +
         " seed " + std::to_string(position.seed);
}
/// Errors:  BadInput for a checkpoint that this program did not save.
Position position_of(const shardexpr::CheckpointInfo& saved) {
  Position position;
  std::string_view rest = saved.cursor;
  const auto number = [&](std::string_view name, auto& to) {
    if (!rest.starts_with(name)) return false;
    rest.remove_prefix(name.size());
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), to);
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    return error == std::errc{};
  };
  if (!number("step ", position.step) || !number(" batches ", position.batches) ||
      !number(" seed ", position.seed) || !rest.empty())
    throw BadInput("--resume: " + saved.folder +
                   " does not say where in its data it is; train_gpt did not save it");
  return position;
}

/// The model's sizes from where its parameters come from; options may say the same, nothing else.
/// Errors:  BadInput for options that say otherwise.
void take_sizes(Options& o, const shardexpr::GptConfig& config, const std::string& source) {
  const auto take = [&](const char* option, std::size_t& to, std::size_t value) {
    if (o.is_given(option) && to != value)
      throw BadInput(std::string{option} + " " + std::to_string(to) + ": " + source + " has " +
                     std::to_string(value) + "; leave it out");
    to = value;
  };
  take("--layers", o.layers, config.layers);
  take("--heads", o.heads, config.heads);
  take("--embed", o.embed, config.embed);
  take("--context", o.context, config.context);
  if (config.vocabulary < Text::least_vocabulary)
    throw BadInput(source + " has a vocabulary of " + std::to_string(config.vocabulary) +
                   ", a text's bytes need " + std::to_string(Text::least_vocabulary));
  o.vocabulary = config.vocabulary;
}

/// The folder of a path, "." for a bare name.
std::string folder_of(const std::string& path) {
  const auto parent = std::filesystem::path{path}.parent_path();
  return parent.empty() ? "." : parent.string();
}

/// Refuses a folder that cannot be saved to, before there is anything to save; and one that another
/// run saved to.
void check_checkpoint_folder(const Options& o) {
  namespace fs = std::filesystem;
  std::error_code error;
  const auto refuse = [&](const std::string& why) {
    throw BadInput("--checkpoint " + o.checkpoint + " " + why);
  };
  const fs::file_status status = fs::status(o.checkpoint, error);
  if (fs::exists(status) && !fs::is_directory(status)) refuse("is not a folder; name another");
  const std::string to_write = fs::exists(status) ? o.checkpoint : folder_of(o.checkpoint);
  if (!fs::is_directory(to_write, error))
    refuse("cannot be made: " + to_write + " is not a folder; make it first");
  if (access(to_write.c_str(), W_OK | X_OK) != 0)
    refuse(std::string{"cannot be written to: "} + std::strerror(errno) + "; name another folder");
  if (!o.resume && fs::exists(o.checkpoint + "/latest", error))
    refuse(
        "holds checkpoints of another run; give --resume to go on from them, or name another "
        "folder");
}

}  // namespace

void prepare_begin(Options& o) {
  if (!o.checkpoint.empty()) check_checkpoint_folder(o);
  o.position.seed = o.seed;
  std::error_code error;
  if (o.resume) {
    const shardexpr::CheckpointInfo saved = shardexpr::checkpoint_info(o.checkpoint);
    o.position = position_of(saved);
    if (o.is_given("--seed") && o.seed != o.position.seed)
      throw BadInput("--seed " + std::to_string(o.seed) + ": the run in " + saved.folder + " has " +
                     std::to_string(o.position.seed) + "; leave it out");
    o.seed = o.position.seed;
    if (o.position.step >= o.steps)
      throw BadInput("--resume: " + saved.folder + " is at step " +
                     std::to_string(o.position.step) + ", and --steps is " +
                     std::to_string(o.steps) + ", counted from the start; give more");
    const std::string config = saved.folder + "/config.json";
    take_sizes(o, shardexpr::read_gpt2_config(config), config);
  }
  if (!o.init.empty()) {
    try {
      (void)shardexpr::SafetensorsSet<>{o.init};
    } catch (const shardexpr::FormatError& broken) {
      throw BadInput(std::string{"--init "} + broken.what());
    }
    const bool is_folder = std::filesystem::is_directory(o.init, error);
    const std::string config = (is_folder ? o.init : folder_of(o.init)) + "/config.json";
    if (std::filesystem::exists(config, error))
      take_sizes(o, shardexpr::read_gpt2_config(config), config);
  }
}

/// A strategy that makes no sense is no trainer; main.cpp has the compiler say why, once.
template <class Trainer>
constexpr bool is_trainer = false;
template <class M, class S>
constexpr bool is_trainer<sx::sharded<M, S>> = true;

template <class Trainer>
void load_parameters(Trainer& trainer, const Options& o) {
  if constexpr (is_trainer<Trainer>)
    sx::load_model(trainer, o.init, sx::LoadOnEachRank{}, sx::Gpt2Names{});
}

template <class Trainer>
void restore(Trainer& trainer, const Options& o) {
  if constexpr (is_trainer<Trainer>) (void)sx::load_checkpoint(trainer, o.checkpoint);
}

template <class Trainer>
void save_trained(Trainer& trainer, const Options& o, const Position& position) {
  using Storage = typename Trainer::Storage;
  const char* const dtype = std::is_same_v<Storage, sx::bf16>   ? "bfloat16"
                            : std::is_same_v<Storage, sx::fp16> ? "float16"
                                                                : "float32";
  const sx::SaveOptions options{
      .cursor = cursor_of(position),
      .keep = o.keep,
      .texts = {{"config.json", sx::gpt2_config_text(trainer.config(), dtype)}}};
  if (o.state == "full")
    sx::save_checkpoint(trainer, o.checkpoint, sx::FullState{}, options);
  else if (o.state == "local")
    sx::save_checkpoint(trainer, o.checkpoint, sx::LocalState{}, options);
  else
    sx::save_checkpoint(trainer, o.checkpoint, sx::ShardedState{}, options);
}

template <class Trainer>
void save(Trainer& trainer, const Options& o, const Position& position) {
  if constexpr (is_trainer<Trainer>) save_trained(trainer, o, position);
}

#define TRAIN_GPT_ENTRY(name)                                                  \
  template void load_parameters(strategies::strategy_##name&, const Options&); \
  template void restore(strategies::strategy_##name&, const Options&);         \
  template void save(strategies::strategy_##name&, const Options&, const Position&);
TRAIN_GPT_EACH_STRATEGY(TRAIN_GPT_ENTRY)
#undef TRAIN_GPT_ENTRY
