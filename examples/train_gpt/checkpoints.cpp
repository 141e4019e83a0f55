// SPDX-License-Identifier: Apache-2.0
// How each strategy begins from what was saved, and saves: a file of its own, which compiles beside
// main.cpp.
#include "checkpoints.hpp"

#include <shardexpr/checkpoint/load.hpp>
#include <shardexpr/checkpoint/load_model.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/nn/gpt_huggingface.hpp>

#include <string>
#include <type_traits>

#include "machine.hpp"
#include "options.hpp"
#include "train_gpt_strategies.hpp"  // made by CMake from TRAIN_GPT_STRATEGIES

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
