// SPDX-License-Identifier: Apache-2.0
// The forms of a checkpoint, and who reads it, under strategies that keep state in every place.
#include <shardexpr/checkpoint/consolidate.hpp>
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/checkpoint/verify.hpp>

#include <cstddef>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../support/apart.hpp"
#include "../support/drift_toy.hpp"
#include "../support/error_of.hpp"
#include "runs.hpp"
#include <doctest/doctest.h>

namespace {

using runs::Run;
using sx::FullShard;
using sx::Offload;
using sx::OnDevice;
using sx::OnHost;
using sx::OnNvme;

template <class... Ps>
using Drifting = sx::Sharded<drift_toy::Model, Ps...>;
using Mixed = sx::MixedPrecision<sx::bf16, sx::fp32>;

/// Every rank's buffers, by name.
using Buffers = std::vector<std::map<std::string, std::vector<float>>>;

struct State {
  Run run;
  Buffers buffers;
};

template <class Trainer>
void look(sx::Threads& comm, Trainer& trainer, State& state) {
  runs::look(comm, trainer, state.run);
  trainer.for_each_buffer([&](const std::string& name, auto values) {
    for (std::size_t i = 0; i < values.count(); ++i)
      state.buffers[comm.rank()][name].push_back(static_cast<float>(values[i]));
  });
}

struct Folders {
  Scratch sharded{Scratch::in_memory()}, full{Scratch::in_memory()}, narrow{Scratch::in_memory()},
      local{Scratch::in_memory()};
};

/// One training, saved in every form at the same step.
template <class Trainer>
State save(std::size_t world, const Folders& to) {
  State state;
  state.buffers.resize(world);
  runs::with_trainers<Trainer>(world, [&](sx::Threads& comm, Trainer& trainer) {
    runs::train(comm, trainer, runs::saved_at);
    const sx::SaveOptions options{.cursor = "page 7", .texts = {{"config.json", "{\"a\": 1}"}}};
    sx::save_checkpoint(trainer, to.sharded.path(), sx::ShardedState{}, options);
    sx::save_checkpoint(trainer, to.full.path(), sx::FullState{}, options);
    sx::save_checkpoint(trainer, to.narrow.path(),
                        sx::FullState{.dtype = "BF16", .most_file_bytes = 60}, options);
    sx::save_checkpoint(trainer, to.local.path(), sx::LocalState{}, options);
    look(comm, trainer, state);
    runs::go_on(comm, trainer, state.run);
  });
  return state;
}
template <class Trainer, class From>
State load(std::size_t world, const std::string& directory, From from) {
  State state;
  state.buffers.resize(world);
  runs::with_trainers<Trainer>(world, [&](sx::Threads& comm, Trainer& trainer) {
    runs::train(comm, trainer, 1);
    const bool sees = std::is_same_v<From, sx::LoadOnEachRank> || comm.rank() == 0;
    const sx::Restored restored =
        sx::load_checkpoint(trainer, sees ? directory : "a directory that only rank 0 sees", from);
    if (comm.rank() + 1 == world) state.run.restored = restored;
    look(comm, trainer, state);
    runs::go_on(comm, trainer, state.run);
  });
  return state;
}

void check_equal(const State& loaded, const State& saved, std::string form) {
  CAPTURE(form);
  CHECK(loaded.run.kept == saved.run.kept);
  CHECK(loaded.run.weights == saved.run.weights);
  CHECK(loaded.buffers == saved.buffers);
  CHECK(loaded.run.losses == saved.run.losses);
  CHECK(loaded.run.last == saved.run.last);
  CHECK(loaded.run.restored.form == form);
  CHECK(loaded.run.restored.cursor == "page 7");
  CHECK(loaded.run.restored.step == runs::saved_at);
}

std::string text_of(const std::string& path) {
  std::ifstream file{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{file}, {}};
}

template <class Trainer>
void check_forms(const std::string& name, std::size_t world) {
  CAPTURE(name);
  const Folders folders;
  const State saved = save<Trainer>(world, folders);
  REQUIRE(runs::is_whole(saved.run.kept));
  REQUIRE(saved.buffers[0].size() == 6);
  for (const Scratch* folder : {&folders.sharded, &folders.full, &folders.narrow, &folders.local}) {
    sx::verify_checkpoint(folder->path());
    const std::string step = folder->path() + "/" + sx::detail::step_folder(runs::saved_at);
    CHECK(text_of(step + "/config.json") == "{\"a\": 1}");
    // Nothing else is left beside it.
    CHECK(sx::detail::names_in(folder->path()).size() == 2);
  }
  const sx::LoadOnEachRank each;
  const sx::LoadOnRank0 first;
  check_equal(load<Trainer>(world, folders.sharded.path(), each), saved, "sharded");
  check_equal(load<Trainer>(world, folders.local.path(), each), saved, "local");
  check_equal(load<Trainer>(world, folders.sharded.path(), first), saved, "sharded");
  // A full checkpoint holds one rank's buffers.
  State same = saved;
  same.buffers.assign(world, saved.buffers[0]);
  const State full = load<Trainer>(world, folders.full.path(), each);
  CHECK(full.run.kept == saved.run.kept);
  CHECK(full.buffers == same.buffers);
  CHECK(full.run.restored.form == "full");
  const State narrow = load<Trainer>(world, folders.narrow.path(), first);
  CHECK(narrow.run.kept == saved.run.kept);
  CHECK(narrow.run.weights == saved.run.weights);
  CHECK(narrow.buffers == same.buffers);

  // The model's files are what others read, whole parameters by name.
  const sx::SafetensorsSet set{folders.narrow.path() + "/" +
                               sx::detail::step_folder(runs::saved_at)};
  CHECK(set.files().size() > 1);
  for (const auto& [key, values] : saved.run.kept)
    if (key.second == 0) {
      const auto tensor = set.find(key.first);
      REQUIRE(tensor);
      std::vector<sx::bf16> read(values.size());
      set.read(*tensor, 0, std::as_writable_bytes(std::span{read}));
      for (std::size_t i = 0; i < values.size(); ++i)
        CHECK(read[i].bits == sx::bf16{values[i]}.bits);
    }
}

TEST_CASE(
    "every form of a checkpoint gives back what was saved, read by each rank or by the first") {
  check_forms<Drifting<FullShard>>("full shard", 3);
  check_forms<Drifting<sx::HybridShard<2>>>("hybrid", 4);
  check_forms<Drifting<FullShard, Mixed, Offload<OnHost, OnNvme>>>("host and disk", 2);
  check_forms<Drifting<sx::ShardGradOp, Offload<OnDevice, sx::Partly<1, 3>>>>("partly", 2);
  check_forms<Drifting<FullShard, Mixed, sx::OffloadAll, sx::On<Apart>>>("apart", 1);
}

template <class Trainer, class Saver, class From = sx::LoadOnEachRank>
std::string refusal(std::size_t saved_on, std::size_t world, From from = {}) {
  const Scratch scratch;
  runs::with_trainers<Saver>(saved_on, [&](sx::Threads&, Saver& trainer) {
    sx::save_checkpoint(trainer, scratch.path(), sx::LocalState{});
  });
  std::vector<std::string> said(world);
  runs::with_trainers<Trainer>(world, [&](sx::Threads& comm, Trainer& trainer) {
    said[comm.rank()] = error_of([&] { sx::load_checkpoint(trainer, scratch.path(), from); });
  });
  for (const std::string& other : said) CHECK(other == said[0]);
  return said[0];
}

TEST_CASE("a LocalState goes on in its own layout alone, and says so") {
  using Whole = Drifting<FullShard, sx::WrapWhole>;
  using Each = Drifting<FullShard>;
  CHECK(refusal<Each, Each>(2, 2).empty());
  const std::string other_wrap = refusal<Whole, Each>(2, 2);
  CHECK(other_wrap.find("is a LocalState of 'Sharded<") != std::string::npos);
  CHECK(other_wrap.find("over 2 ranks, whose layout is not the trainer's") != std::string::npos);
  CHECK(refusal<Each, Each>(2, 3).find("over 2 ranks") != std::string::npos);
  CHECK(refusal<Each, Each>(2, 2, sx::LoadOnRank0{}).find("load it with LoadOnEachRank") !=
        std::string::npos);
  const Scratch scratch, to;
  runs::with_trainers<Each>(1, [&](sx::Threads&, Each& trainer) {
    sx::save_checkpoint(trainer, scratch.path(), sx::LocalState{});
  });
  CHECK(error_of([&] {
          sx::rewrite_checkpoint(scratch.path(), to.path(), sx::FullState{});
        }).find("which only the layout that saved it can read") != std::string::npos);
}

TEST_CASE("what cannot be saved is refused before anything is written") {
  using Trainer = Drifting<FullShard>;
  const Scratch scratch;
  runs::with_trainers<Trainer>(1, [&](sx::Threads&, Trainer& trainer) {
    const auto refused = [&](auto form, sx::SaveOptions options = {}) {
      return error_of([&] { sx::save_checkpoint(trainer, scratch.path(), form, options); });
    };
    CHECK(refused(sx::ShardedState{.parts = 2}).find("a trainer saves one part a rank") !=
          std::string::npos);
    CHECK(refused(sx::FullState{.dtype = "F64"}).find("give F32, BF16 or F16") !=
          std::string::npos);
    for (const char* name : {"", "../x", ".x", "manifest.json", "model.safetensors",
                             "model.safetensors.index.json", "x.sums"})
      CHECK(refused(sx::ShardedState{}, {.texts = {{name, ""}}}).find("SaveOptions::texts") !=
            std::string::npos);
  });
  CHECK(scratch.is_empty());
}

TEST_CASE("the loss scale's state and, where asked for, options are those that were saved") {
  using Half = sx::MixedPrecision<sx::fp16, sx::fp32>;
  using Scaled = Drifting<FullShard, Half, sx::DynamicLossScale>;
  using Fixed = Drifting<FullShard, Half, sx::StaticLossScale>;
  const Scratch scratch{Scratch::in_memory()};
  Scaled::Options chosen;
  chosen.optimizer.learning_rate = 0.02f;
  chosen.schedule = sx::LearningRateSchedule::warmup_cosine(2, 20, 0.1);
  chosen.loss_scale.initial_scale = 256;
  chosen.loss_scale.growth_interval = 2;
  chosen.groups[0].learning_rate_factor = 0.5f;
  using Steps = std::vector<std::pair<double, float>>;  // loss and scale
  const auto goes_on = [](auto& comm, auto& trainer) {
    Steps steps;
    for (int s = 0; s < 5; ++s) {
      std::vector<float> x(20);
      toy::fill(x, trainer.steps(), comm.rank());
      const sx::StepResult result = trainer.step({x.data()});
      steps.emplace_back(result.loss, result.loss_scale);
    }
    return steps;
  };
  Steps saved;
  float rate = 0;
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Scaled trainer{device, comm, toy::Config{}, chosen};
    runs::train(comm, trainer, 3);
    CHECK(trainer.loss_scale() == 512);
    sx::save_checkpoint(trainer, scratch.path());
    const Steps steps = goes_on(comm, trainer);
    if (comm.rank() == 0) saved = steps;
  });
  CHECK(saved[0].second == 512);
  CHECK(saved[1].second == 1024);  // it was half way to the next
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Scaled::Options others;
    others.loss_scale.growth_interval = 2;
    Scaled trainer{device, comm, toy::Config{}, others};
    const sx::Restored kept = sx::load_checkpoint(trainer, scratch.path());
    CHECK(kept.has_loss_scale);
    CHECK(trainer.loss_scale() == 512);
    CHECK(trainer.options().optimizer.learning_rate == others.optimizer.learning_rate);
    sx::load_checkpoint(trainer, scratch.path(), {.restore_options = true});
    CHECK(trainer.options().optimizer.learning_rate == 0.02f);
    CHECK(trainer.options().groups == chosen.groups);
    if (comm.rank() == 0) rate = trainer.learning_rate();
    CHECK(goes_on(comm, trainer) == saved);
  });
  CHECK(rate == doctest::Approx(0.5 * 0.02 * chosen.schedule.factor(4)));
  sx::launch(1, [&](sx::Threads& comm) {
    sx::Cpu device;
    Fixed trainer{device, comm, toy::Config{}};
    CHECK_FALSE(sx::load_checkpoint(trainer, scratch.path()).has_loss_scale);
    CHECK(trainer.loss_scale() == Fixed::Options{}.loss_scale.scale);
  });
}

}  // namespace
