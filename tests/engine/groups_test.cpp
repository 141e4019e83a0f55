// SPDX-License-Identifier: Apache-2.0
// Parameter groups: each has its factors, and no strategy changes what they do.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include <cmath>
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include "../support/check_plan.hpp"
#include "../support/grouped_toy.hpp"
#include "../support/weights.hpp"
#include <doctest/doctest.h>

namespace {

template <class... Ps>
using Toy = sx::Sharded<grouped_toy::Autoencoder, Ps...>;

// Sizes that no world divides, parameters of many blocks: parts are cut within groups.
constexpr toy::Config config{.inputs = 13, .width = 37, .depth = 2, .rows = 3};

template <class Trainer>
Weights train(std::size_t world, std::size_t steps, const typename Trainer::Options& options) {
  Weights weights;
  sx::launch(world, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};
    std::vector<float> x(config.rows * config.inputs);
    for (std::size_t s = 0; s < steps; ++s) {
      toy::fill(x, s, comm.rank());
      (void)trainer.step({x.data()});
    }
    check_plan(sx::plan<Trainer>(config, world), device.account(), trainer.traffic(), steps);
    const Weights mine = weights_of(trainer);
    if (comm.rank() == 0) weights = mine;
  });
  return weights;
}

using Descent = Toy<sx::NoShard, sx::Sgd>;
Weights one_step(float weight_decay, auto&& change) {
  typename Descent::Options options;
  options.optimizer = {.learning_rate = 0.1f, .weight_decay = weight_decay};
  change(options.groups);
  return train<Descent>(1, 1, options);
}
const auto as_they_are = [](auto&) {};
const Weights& at_start() {
  static const Weights start = train<Descent>(1, 0, {});
  return start;
}
bool is_bias(const std::string& name) { return name.ends_with("bias"); }
bool is_table(const std::string& name) { return name == "encoder.weight"; }

TEST_CASE("weight decay reaches the groups whose factor lets it, and no other") {
  // A step of gradient descent from one start: what decay adds is -lr wd factor p. Each of the two
  // runs rounds twice, values below 4: by 4 x 2^-23 in all, and 0.1f is not 0.1.
  const Weights without = one_step(0, as_they_are);
  const auto check = [&](const Weights& with, auto factor) {
    for (const auto& [key, start] : at_start())
      for (std::size_t i = 0; i < start.size(); ++i) {
        const std::string& name = key;  // clang 14 captures no structured binding
        CAPTURE(name);
        const double wanted = -0.1 * 0.5 * factor(name) * static_cast<double>(start[i]);
        CHECK(std::abs(static_cast<double>(with.at(name)[i]) -
                       static_cast<double>(without.at(name)[i]) - wanted) <= 0x1p-20);
      }
  };
  check(one_step(0.5f, as_they_are), [](auto& name) { return is_bias(name) ? 0.0 : 1.0; });
  check(one_step(0.5f, [](auto& groups) { groups[1].weight_decay_factor = 1; }),
        [](auto&) { return 1.0; });
  check(one_step(0.5f,
                 [](auto& groups) {
                   groups[0].weight_decay_factor = 0.25f;
                   groups[2].weight_decay_factor = 2;
                 }),
        [](auto& name) { return is_bias(name)    ? 0.0
                                : is_table(name) ? 2.0
                                                 : 0.25; });
  // And what does not decay is not touched by the rate of decay at all.
  const Weights with = one_step(0.5f, as_they_are);
  for (const auto& [name, values] : without) CHECK((with.at(name) == values) == is_bias(name));
}

TEST_CASE("a learning rate factor scales its group's step; with 0 nothing moves") {
  for (std::size_t k = 0; k < 3; ++k) {
    CAPTURE(k);
    const auto is_in = [&](const std::string& name) {
      return k == (is_bias(name) ? 1 : is_table(name) ? 2 : 0);
    };
    const Weights standard = one_step(0.5f, as_they_are);
    const Weights still = one_step(0.5f, [&](auto& g) { g[k].learning_rate_factor = 0; });
    const Weights twice = one_step(0.5f, [&](auto& g) { g[k].learning_rate_factor = 2; });
    for (const auto& [key, start] : at_start()) {
      const std::string& name = key;
      CAPTURE(name);
      CHECK((still.at(name) == start) == is_in(name));
      CHECK((still.at(name) == standard.at(name)) != is_in(name));
      CHECK((twice.at(name) == standard.at(name)) != is_in(name));
      for (std::size_t i = 0; i < start.size() && is_in(name); ++i)
        CHECK(twice.at(name)[i] - start[i] ==
              doctest::Approx(2 * (standard.at(name)[i] - start[i])).epsilon(1e-5).scale(4));
    }
  }
}

TEST_CASE("groups with factors of their own give the same bits under every strategy") {
  const auto options = [](auto trainer_options) {
    trainer_options.groups[0].weight_decay_factor = 0.5f;
    trainer_options.groups[1] = {.learning_rate_factor = 0.25f, .weight_decay_factor = 0.125f};
    trainer_options.groups[2].learning_rate_factor = 3;
    return trainer_options;
  };
  const auto run = [&]<class Trainer>(std::type_identity<Trainer>, std::size_t world) {
    return train<Trainer>(world, 10, options(typename Trainer::Options{}));
  };
  for (std::size_t world = 1; world <= 4; ++world) {
    CAPTURE(world);
    const Weights reference = run(std::type_identity<Toy<sx::NoShard>>{}, world);
    CHECK(reference.size() == 7);
    CHECK(run(std::type_identity<Toy<sx::ShardGradOp>>{}, world) == reference);
    CHECK(run(std::type_identity<Toy<sx::FullShard>>{}, world) == reference);
    // One flat, of three runs; and groups in both flats of one unit.
    CHECK(run(std::type_identity<Toy<sx::WrapWhole>>{}, world) == reference);
    CHECK(run(std::type_identity<Toy<sx::PersistBelow<30>>>{}, world) == reference);
  }
}

TEST_CASE("factors that make no sense, or that nothing would feel, are refused") {
  sx::Cpu device;
  sx::Solo comm;
  using Trainer = Toy<sx::NoShard, sx::Over<sx::Solo>>;
  const auto refuse = [&](std::size_t k, sx::GroupOptions factors, const char* line) {
    Trainer::Options options;
    options.groups[k] = factors;
    CHECK_THROWS_WITH_AS((Trainer{device, comm, config, options}), line, sx::ConfigError);
  };
  refuse(2, {.learning_rate_factor = -1},
         "Options::groups[2]: learning_rate_factor is -1; give a finite one, at least 0");
  refuse(0, {.weight_decay_factor = -0.5f},
         "Options::groups[0]: weight_decay_factor is -0.5; give a finite one, at least 0");
  refuse(3, {.learning_rate_factor = 2},
         "Options::groups[3]: no parameter that is trained is in that group");

  struct Plain {  // an optimizer without weight decay
    struct Options {
      float learning_rate = 1;
    };
  };
  auto groups = sx::standard_groups;
  sx::detail::check_groups<Plain::Options>(groups);
  CHECK(sx::detail::options_of_group(Plain::Options{}, {0.5f, 1}, 1).learning_rate == 0.5f);
  groups[0].weight_decay_factor = 0.5f;
  CHECK_THROWS_WITH_AS(sx::detail::check_groups<Plain::Options>(groups),
                       "Options::groups[0]: weight_decay_factor is 0.5; give none: the optimizer "
                       "has no weight_decay",
                       sx::ConfigError);
}

}  // namespace
