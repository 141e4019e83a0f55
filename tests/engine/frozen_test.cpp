// SPDX-License-Identifier: Apache-2.0
// Frozen parameters keep their bits, and cost no gradient, no moments and no backward below the
// first unit that trains, under every strategy.
#include <shardexpr/comm/solo.hpp>

#include <cmath>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "../support/by_hand.hpp"
#include "../support/check_plan.hpp"
#include "../support/frozen_toy.hpp"
#include "../support/observed.hpp"
#include "../support/train.hpp"
#include <doctest/doctest.h>

namespace {

using namespace frozen_toy;

template <class... Ps>
using Toy = sx::Sharded<Model, Ps...>;
using Weights = std::map<std::string, std::vector<float>>;

constexpr std::size_t steps = 6;

struct Run {
  Weights weights;
  std::vector<double> losses, norms;
  friend bool operator==(const Run&, const Run&) = default;
};

template <class Trainer>
void read(Trainer& trainer, Weights& weights) {
  trainer.summon([&](const std::string& name, sx::Tensor<const float> value) {
    weights[name].assign(value.data, value.data + value.count());
  });
}

template <class Trainer>
Run train(std::size_t world, std::size_t micro_batches = 1) {
  Run run;
  Weights before;
  const Config config;
  sx::launch(world, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, {.optimizer = {}, .micro_batches = micro_batches}};
    Weights mine;
    read(trainer, mine);
    const sx::Traffic start = trainer.traffic();
    std::vector<float> x(micro_batches * config.rows * config.inputs);
    std::vector<toy::Batch> batches;
    for (std::size_t m = 0; m < micro_batches; ++m)
      batches.push_back({x.data() + m * config.rows * config.inputs});
    for (std::size_t s = 0; s < steps; ++s) {
      toy::fill(x, s, comm.rank());
      const sx::StepResult result = trainer.step(batches);
      if (comm.rank() != 0) continue;
      run.losses.push_back(result.loss);
      run.norms.push_back(result.gradient_norm);
    }
    sx::Traffic sent = trainer.traffic();
    sent.all_gather_bytes -= start.all_gather_bytes;
    check_plan(sx::plan<Trainer>(config, world, micro_batches), device.account(), sent, steps);
    Weights after;
    read(trainer, after);
    if (comm.rank() == 0) before = mine, run.weights = after;
  });
  for (const auto& weight : run.weights) {
    const std::string& name = weight.first;
    CAPTURE(name);
    CHECK((weight.second == before[name]) == !is_trained(name));
  }
  return run;
}

/// One rank, the toy's own units with every gradient computed, and an update of what trains.
Run train_by_hand() {
  Run run;
  const Config config;
  const std::size_t units = config.depth + 5;
  const auto name = [&](std::size_t u) -> std::string {
    if (u == 0) return "encoder.";
    if (u <= config.depth) return "mixer." + std::to_string(u - 1) + ".";
    const char* const others[]{"bias_mixer.", "passing_mixer.", "weight_mixer.", "decoder."};
    return others[u - config.depth - 1];
  };
  Weights gradients, first, second;
  const auto make = [&](const std::string& of, const sx::Spec& spec) {
    std::vector<float>& value = run.weights[of];
    for (std::size_t i = 0; i < spec.shape.count(); ++i)
      value.push_back(sx::initial_value(1, sx::hash_of(of), i, spec.init));
    gradients[of] = first[of] = second[of] = std::vector<float>(value.size());
  };
  make("encoder.weight", toy::Encoder::describe(config).weight);
  make("encoder.bias", toy::Encoder::describe(config).bias);
  for (std::size_t u = 1; u + 1 < units; ++u) {
    make(name(u) + "weight", toy::Mixer::describe(config).weight);
    make(name(u) + "bias", toy::Mixer::describe(config).bias);
  }
  make("decoder.bias", toy::Decoder::describe(config).bias);
  const auto bind = [&]<class T>(Weights& from, std::size_t u, T weight_and_bias) {
    const std::string owner = u + 1 == units ? "encoder." : name(u);
    weight_and_bias.weight.data = from[owner + "weight"].data();
    weight_and_bias.bias.data = from[name(u) + "bias"].data();
    return weight_and_bias;
  };
  using sx::Tensor;

  sx::Cpu device;
  sx::Cpu::Stream stream;
  const sx::Context<sx::Cpu> on{device, stream};
  ByHand pass{config, units};
  std::vector<float> x(config.rows * config.inputs);
  for (std::size_t s = 0; s < steps; ++s) {
    toy::fill(x, s, 0);
    const toy::Batch batch{x.data()};
    for (auto& [of, g] : gradients) g.assign(g.size(), 0);
    const auto forward = [&]<class U>(std::size_t u, U) {
      using W = typename U::template Params<Tensor<const float>>;
      pass.forward<U>(on, batch, u, bind(run.weights, u, W{}));
    };
    const auto backward = [&]<class U>(std::size_t u, U) {
      using W = typename U::template Params<Tensor<const float>>;
      using G = typename U::template Params<Tensor<float>>;
      pass.backward<U>(on, batch, u, bind(run.weights, u, W{}), bind(gradients, u, G{}));
    };
    forward(0, toy::Encoder{});
    for (std::size_t u = 1; u + 1 < units; ++u) forward(u, toy::Mixer{});
    forward(units - 1, toy::Decoder{});
    backward(units - 1, toy::Decoder{});
    for (std::size_t u = units - 2; u > 0; --u) backward(u, toy::Mixer{});
    backward(0, toy::Encoder{});

    sx::ExactSum squares;
    const sx::AdamWUpdate update{sx::AdamW::Options{}, s + 1};
    for (auto& [of, g] : gradients) {
      if (!is_trained(of)) continue;
      device.sum_squares(stream, std::span<const float>{g}, &squares);
      for (std::size_t i = 0; i < g.size(); ++i) {
        float moments[2]{first[of][i], second[of][i]};
        update(run.weights[of][i], g[i], moments);
        first[of][i] = moments[0], second[of][i] = moments[1];
      }
    }
    run.losses.push_back(static_cast<double>(pass.loss));
    run.norms.push_back(std::sqrt(squares.value()));
  }
  return run;
}

TEST_CASE("one rank trains what a loop by hand trains") {
  const Run run = train<Toy<sx::NoShard>>(1);
  CHECK(run == train_by_hand());
  CHECK(run.losses.back() < run.losses.front());
}

TEST_CASE("a partly frozen model gets the same bits under every strategy") {
  for (std::size_t world = 1; world <= 4; ++world) {
    CAPTURE(world);
    const Run reference = train<Toy<sx::NoShard>>(world);
    CHECK(train<Toy<sx::FullShard>>(world) == reference);
    CHECK(train<Toy<sx::ShardGradOp>>(world) == reference);
    CHECK(train<Toy<sx::ShardOptimizer>>(world) == reference);
    CHECK(train<Toy<sx::PersistBelow<8>>>(world) == reference);  // the biases
    CHECK(train<Toy<sx::WrapWhole>>(world) == reference);
    CHECK(train<Toy<sx::WrapEach<FrozenMixer>>>(world) == reference);
    CHECK(train<Toy<sx::WrapBySize<100>>>(world) == reference);
    CHECK(train<Toy<sx::Recompute<>>>(world) == reference);
    // Two micro-batches, reduced twice or once.
    const Run twice = train<Toy<sx::NoShard>>(world, 2);
    CHECK(twice.weights != reference.weights);
    CHECK(train<Toy<sx::FullShard>>(world, 2) == twice);
    const Run at_end = train<Toy<sx::NoShard, sx::ReduceAtEnd>>(world, 2);
    CHECK(train<Toy<sx::FullShard, sx::ReduceAtEnd>>(world, 2) == at_end);
    CHECK(at_end.losses.back() == doctest::Approx(twice.losses.back()));
  }
  CHECK(train<Toy<sx::ReshardTo<2>>>(4) == train<Toy<sx::NoShard>>(4));
  const Run hybrid = train<Toy<sx::HybridShard<2>>>(4);
  CHECK(train<Toy<sx::HybridShardGradOp<2>>>(4) == hybrid);
  CHECK(train<Toy<sx::HybridShard<2>, sx::WrapWhole>>(4) == hybrid);
}

TEST_CASE("a plan counts gradients and moments of what trains alone") {
  // Three parameters train, each a flat of one block of 64 elements of 4 bytes a rank.
  const sx::Plan alone = sx::plan<Toy<sx::NoShard>>({}, 1);
  CHECK(alone.gradients_bytes == 3 * 256);
  CHECK(alone.optimizer_bytes == 2 * 3 * 256);
  const sx::Plan three = sx::plan<Toy<sx::NoShard>>({}, 3);
  CHECK(three.gradients_bytes == 3 * 3 * 256);
  CHECK(three.all_reduce_sent_bytes == 2 * 2 * 3 * 256);
  const sx::Plan sharded = sx::plan<Toy<sx::FullShard>>({}, 3);
  CHECK(sharded.gradients_bytes == 3 * 256);
  CHECK(sharded.optimizer_bytes == 2 * 3 * 256);
  CHECK(sharded.reduce_scatter_sent_bytes == 2 * 3 * 256);
  CHECK(sx::plan<Toy<sx::ShardGradOp>>({}, 3).all_gather_sent_bytes ==
        2 * 3 * 256 + 2 * sizeof(sx::StepSummary));  // what trains is published, no more
}

TEST_CASE("frozen units are gathered, and have a backward only above the first that trains") {
  using Trainer = Toy<sx::Over<Observed>>;
  const Config config;
  for (auto* count : {&FrozenEncoder::backwards, &FrozenMixer::backwards, &FrozenMixer::forwards,
                      &BiasMixer::backwards, &PassingMixer::backwards})
    *count = 0;
  std::size_t gathers = 0, reductions = 0;
  sx::launch(2, [&](sx::Threads& threads) {
    const bool counts = threads.rank() == 0;
    Observed comm{std::move(threads), [&](const std::string& call) {
                    if (!counts) return;
                    gathers += call == "gather";
                    reductions += call == "reduce_scatter";
                  }};
    sx::Cpu device;
    Trainer trainer{device, comm, config};
    std::vector<float> x(config.rows * config.inputs);
    (void)trainer.step({x.data()});
  });
  CHECK(FrozenMixer::forwards == 2 * config.depth);
  CHECK(FrozenMixer::backwards == 0);
  CHECK(FrozenEncoder::backwards == 0);
  CHECK(BiasMixer::backwards == 2);
  CHECK(PassingMixer::backwards == 2);
  // Forward: encoder, three mixers, two of two flats and one of one, decoder, and the encoder's
  // again for its tie. Backward: the mixers above the first that trains, the last stands.
  CHECK(gathers == (1 + 3 + 2 + 1 + 2 + 1 + 1) + (2 + 1 + 2));
  CHECK(reductions == 3);
}

struct FrozenDecoder : Variant<FrozenDecoder, toy::Decoder> {
  [[maybe_unused]] static constexpr bool trains_weight = false, trains_bias = false;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {sx::frozen(toy::Decoder::describe(c).bias), sx::tied<FrozenEncoder>("weight")};
  }
};
struct AllFrozen {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<FrozenEncoder, FrozenMixer, FrozenDecoder>;
};
struct FreezingDecoder : Variant<FreezingDecoder, toy::Decoder> {
  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {toy::Decoder::describe(c).bias, sx::frozen(sx::tied<toy::Encoder>("weight"))};
  }
};
struct FrozenByTie {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<toy::Encoder, FreezingDecoder>;
};

TEST_CASE("a model that has nothing to train is refused") {
  const char* const line = "every parameter of the model is frozen: there is nothing to train";
  CHECK_THROWS_WITH_AS((sx::plan<sx::Sharded<AllFrozen>>({}, 2)), line, sx::ConfigError);
  sx::Cpu device;
  sx::Solo comm;
  using Trainer = sx::Sharded<AllFrozen, sx::NoShard, sx::Over<sx::Solo>>;
  CHECK_THROWS_WITH_AS((Trainer{device, comm, Config{}}), line, sx::ConfigError);
}

TEST_CASE("a tie cannot freeze what its owner trains") {
  CHECK_THROWS_WITH_AS((sx::plan<sx::Sharded<FrozenByTie>>({}, 2)),
                       "parameter weight is frozen where it is tied, and trained by its owner: "
                       "freeze it there",
                       sx::ConfigError);
}

}  // namespace
