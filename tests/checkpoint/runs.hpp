// SPDX-License-Identifier: Apache-2.0
#pragma once
// Training that is saved and goes on elsewhere, whatever the strategy.
#include <shardexpr/checkpoint/load.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/comm/threads.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../support/frozen_toy.hpp"
#include "../support/scratch.hpp"
#include "../support/toy.hpp"

namespace runs {

/// Everything that is kept: by name and kind, elements in order.
using Kept = std::map<std::pair<std::string, std::size_t>, std::vector<float>>;

struct Run {
  Kept kept;                   // when it was saved, or right behind the load
  std::vector<float> weights;  // the same, as the trainer shows them
  std::vector<double> losses;  // of the steps behind
  std::vector<float> last;     // weights behind those
  sx::Restored restored;
};

inline constexpr std::size_t saved_at = 3, goes_on_for = 5;

template <class Trainer>
typename Trainer::Options options_of(const Scratch& scratch) {
  typename Trainer::Options options;
  if constexpr (requires { options.nvme.directory; }) {
    options.nvme.directory = scratch.path();
    options.nvme.notice = [](const std::string&) {};
  }
  return options;
}

template <class Trainer, class Body>
void with_trainers(std::size_t world, Body body) {
  const Scratch scratch;
  sx::launch(world, [&](sx::Threads& comm) {
    typename Trainer::Device device;
    Trainer trainer{device, comm, toy::Config{}, options_of<Trainer>(scratch)};
    body(comm, trainer);
  });
}
template <class Trainer>
void train(sx::Threads& comm, Trainer& trainer, std::size_t steps,
           std::vector<double>* losses = nullptr) {
  const toy::Config config;
  std::vector<float> x(config.rows * config.inputs);
  for (std::size_t s = 0; s < steps; ++s) {
    toy::fill(x, trainer.steps(), comm.rank());
    const double loss = trainer.step({x.data()}).loss;
    if (losses != nullptr && comm.rank() == 0) losses->push_back(loss);
  }
}
template <class Trainer>
std::vector<float> weights_of(Trainer& trainer) {
  std::vector<float> weights;
  trainer.summon([&](const std::string&, auto value) {
    for (std::size_t i = 0; i < value.count(); ++i) weights.push_back(static_cast<float>(value[i]));
  });
  return weights;
}
/// Adds what this rank answers for. An element that two ranks answer for, or none, is not finite.
template <class Trainer>
void collect(Trainer& trainer, Kept& to) {
  using namespace sx::detail;
  static std::mutex mutex;
  KeptState<SwapAccess::reads, typename Trainer::Model, typename Trainer::Strategy> state{
      TrainerAccess::core(trainer)};
  state.visit(StateShare::own, [&](const StateStretch& stretch, auto values) {
    const std::scoped_lock lock{mutex};
    auto& all = to[{*stretch.name, stretch.kind}];
    const float unseen = std::numeric_limits<float>::quiet_NaN();
    all.resize(stretch.shape->count(), unseen);
    for (std::size_t i = 0; i < values.size(); ++i) {
      float& element = all[stretch.first + i];
      element = std::isnan(element) ? static_cast<float>(values[i])
                                    : std::numeric_limits<float>::infinity();
    }
  });
}
inline bool is_whole(const Kept& kept) {
  for (const auto& [key, values] : kept)
    for (const float value : values)
      if (!std::isfinite(value)) return false;
  return !kept.empty();
}

template <class Trainer>
void look(sx::Threads& comm, Trainer& trainer, Run& run) {
  collect(trainer, run.kept);
  auto weights = weights_of(trainer);
  if (comm.rank() == 0) run.weights = std::move(weights);
}
template <class Trainer>
void go_on(sx::Threads& comm, Trainer& trainer, Run& run) {
  std::vector<double> losses;
  train(comm, trainer, goes_on_for, &losses);
  auto last = weights_of(trainer);
  if (comm.rank() == 0) {
    run.losses = std::move(losses);
    run.last = std::move(last);
  }
}

/// Trains, saves, and trains on.
template <class Trainer>
Run save(std::size_t world, const std::string& directory) {
  Run run;
  with_trainers<Trainer>(world, [&](sx::Threads& comm, Trainer& trainer) {
    train(comm, trainer, saved_at);
    sx::save_checkpoint(trainer, directory, {.cursor = "page 7"});
    look(comm, trainer, run);
    go_on(comm, trainer, run);
  });
  return run;
}
/// Trains something else, loads, and may train on.
template <class Trainer>
Run load(std::size_t world, const std::string& directory, bool goes_on) {
  Run run;
  with_trainers<Trainer>(world, [&](sx::Threads& comm, Trainer& trainer) {
    train(comm, trainer, 1);
    const sx::Restored restored = sx::load_checkpoint(trainer, directory);
    if (comm.rank() == 0) run.restored = restored;
    look(comm, trainer, run);
    if (goes_on) go_on(comm, trainer, run);
  });
  return run;
}

/// A strategy, compiled once.
struct Strategy {
  std::string name;
  std::size_t sums;  // strategies of one number give each other's bits
  std::size_t least_world, world_step;
  Run (*save)(std::size_t, const std::string&);
  Run (*load)(std::size_t, const std::string&, bool goes_on);

  bool runs_on(std::size_t world) const { return world >= least_world && world % world_step == 0; }
};
template <class Trainer>
Strategy strategy(const char* name, std::size_t sums = 0, std::size_t least_world = 1,
                  std::size_t world_step = 1) {
  return {name, sums, least_world, world_step, &save<Trainer>, &load<Trainer>};
}

}  // namespace runs
