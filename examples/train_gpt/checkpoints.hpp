// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where a run begins and what it leaves: --init, --checkpoint, --resume.
#include <shardexpr/checkpoint/info.hpp>
#include <shardexpr/checkpoint/safetensors_set.hpp>
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
#include <utility>

#include "options.hpp"
#include "text.hpp"
#include <unistd.h>

/// How far a run is, as a checkpoint's cursor keeps it: "step 12 batches 24 seed 1".
inline std::string cursor_of(const Position& position) {
  return "step " + std::to_string(position.step) + " batches " + std::to_string(position.batches) +
         " seed " + std::to_string(position.seed);
}
/// Errors:  BadInput for a checkpoint that this program did not save.
inline Position position_of(const shardexpr::CheckpointInfo& saved) {
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
inline void take_sizes(Options& o, const shardexpr::GptConfig& config, const std::string& source) {
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
inline std::string folder_of(const std::string& path) {
  const auto parent = std::filesystem::path{path}.parent_path();
  return parent.empty() ? "." : parent.string();
}

/// Refuses a folder that cannot be saved to, before there is anything to save; and one that another
/// run saved to.
inline void check_checkpoint_folder(const Options& o) {
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

/// Takes from --init or from the checkpoint of --resume what the run begins with: the model's
/// sizes, and how far it is. Errors:  BadInput, ConfigError, IoError for what cannot be begun with.
inline void prepare_begin(Options& o) {
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

// The rest is compiled apart, for each strategy (checkpoints.cpp).

/// --init: collective.
template <class Trainer>
void load_parameters(Trainer& trainer, const Options& o);
/// --resume: collective.
template <class Trainer>
void restore(Trainer& trainer, const Options& o);
/// --checkpoint: collective.
template <class Trainer>
void save(Trainer& trainer, const Options& o, const Position& position);
