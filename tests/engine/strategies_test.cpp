// SPDX-License-Identifier: Apache-2.0
// The strongest test of the library: strategies move state, they do not change arithmetic. And the
// plan tells, to the byte, what a run allocates and sends.
#include <shardexpr/comm/solo.hpp>

#include <cstddef>
#include <type_traits>

#include "../support/check_plan.hpp"
#include "../support/train.hpp"
#include <doctest/doctest.h>

namespace {

template <class... Ps>
using Toy = sx::Sharded<toy::Autoencoder, Ps...>;

template <class Trainer>
Outcome run(std::size_t world, std::size_t steps, const toy::Config& config) {
  return train_toy<Trainer>(world, steps, config, [&](auto&, auto& device, auto& trainer) {
    check_plan(sx::plan<Trainer>(config, world), device.account(), trainer.traffic(), steps);
  });
}

TEST_CASE_TEMPLATE("weights, losses and norms are the same bits under every sharding", Optimizer,
                   sx::AdamW, sx::Sgd) {
  // Sizes that no world divides, one unit smaller than a block a rank, and one larger than many.
  for (const toy::Config& config :
       {toy::Config{}, toy::Config{.inputs = 13, .width = 37, .depth = 2, .rows = 3},
        toy::Config{.inputs = 1, .width = 1, .depth = 1, .rows = 1}})
    for (std::size_t world = 1; world <= 4; ++world) {
      CAPTURE(world);
      CAPTURE(config.width);
      const Outcome reference = run<Toy<sx::NoShard, Optimizer>>(world, 20, config);
      CHECK(reference.losses.back() < reference.losses.front());
      CHECK(run<Toy<sx::ShardOptimizer, Optimizer>>(world, 20, config) == reference);
      CHECK(run<Toy<sx::ShardGradOp, Optimizer>>(world, 20, config) == reference);
      CHECK(run<Toy<sx::FullShard, Optimizer>>(world, 20, config) == reference);
    }
}

TEST_CASE_TEMPLATE("one rank over Solo equals one rank over Threads", Sharding, sx::FullShard,
                   sx::ShardGradOp, sx::ShardOptimizer, sx::NoShard) {
  using OverSolo = Toy<Sharding, sx::Over<sx::Solo>>;
  const Outcome reference = train_toy<Toy<sx::NoShard>>(1, 10);
  sx::Cpu device;
  sx::Solo comm;
  OverSolo trainer{device, comm, toy::Config{}};
  Outcome outcome;
  std::vector<float> x(20);
  for (std::size_t s = 0; s < 10; ++s) {
    toy::fill(x, s, 0);
    const sx::StepResult result = trainer.step({x.data()});
    outcome.losses.push_back(result.loss);
    outcome.norms.push_back(result.gradient_norm);
  }
  check_plan(sx::plan<OverSolo>({}, 1), device.account(), comm.traffic(), 10);
  trainer.summon([&](const std::string&, sx::Tensor<const float> value) {
    outcome.weights.insert(outcome.weights.end(), value.data, value.data + value.count());
  });
  CHECK(outcome == reference);
}

TEST_CASE("W ranks on one batch each train as one rank on the mean") {
  // Equal batches: the mean over ranks is each rank's own gradient, so the weights agree to
  // rounding with one rank's. A sum in place of the mean, or a lost contribution, shows at once.
  const auto same = [](std::size_t world) {
    std::vector<float> weights;
    sx::launch(world, [&](sx::Threads& comm) {
      sx::Cpu device;
      Toy<sx::FullShard, sx::Sgd> trainer{device, comm, toy::Config{}};
      std::vector<float> x(20);
      for (std::size_t s = 0; s < 5; ++s) {
        toy::fill(x, s, 0);
        (void)trainer.step({x.data()});
      }
      trainer.summon([&](const std::string&, sx::Tensor<const float> value) {
        if (comm.rank() == 0) weights.insert(weights.end(), value.data, value.data + value.count());
      });
    });
    return weights;
  };
  const std::vector<float> one = same(1), three = same(3);
  REQUIRE(one.size() == three.size());
  for (std::size_t i = 0; i < one.size(); ++i)
    CHECK(one[i] == doctest::Approx(three[i]).epsilon(1e-5));
}

TEST_CASE("evaluate gives the loss of the next step and changes nothing") {
  sx::launch(2, [](sx::Threads& comm) {
    sx::Cpu device;
    Toy<sx::FullShard> trainer{device, comm, toy::Config{}};
    std::vector<float> x(20);
    toy::fill(x, 0, comm.rank());
    const double before = trainer.evaluate({x.data()});
    CHECK(trainer.evaluate({x.data()}) == before);
    CHECK(trainer.step({x.data()}).loss == before);
    CHECK(trainer.evaluate({x.data()}) < before);
    CHECK(trainer.steps() == 1);
  });
}

TEST_CASE("the loss is the mean over the ranks' batches") {
  double of_batch[2];
  for (std::size_t rank = 0; rank < 2; ++rank) {
    sx::Cpu device;
    sx::Solo comm;
    Toy<sx::NoShard, sx::Over<sx::Solo>> alone{device, comm, toy::Config{}};
    std::vector<float> x(20);
    toy::fill(x, 0, rank);
    of_batch[rank] = alone.evaluate({x.data()});
  }
  CHECK(of_batch[0] != of_batch[1]);
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Toy<sx::FullShard> trainer{device, comm, toy::Config{}};
    std::vector<float> x(20);
    toy::fill(x, 0, comm.rank());
    CHECK(trainer.evaluate({x.data()}) == (of_batch[0] + of_batch[1]) / 2);
  });
}

TEST_CASE("options reach the optimizer and the initial weights") {
  const auto last_loss = [](auto&& change) {
    sx::Cpu device;
    sx::Solo comm;
    using Trainer = Toy<sx::NoShard, sx::Sgd, sx::Over<sx::Solo>>;
    typename Trainer::Options options;
    change(options);
    Trainer trainer{device, comm, toy::Config{}, options};
    std::vector<float> x(20);
    toy::fill(x, 0, 0);
    (void)trainer.step({x.data()});
    return trainer.evaluate({x.data()});
  };
  const double standard = last_loss([](auto&) {});
  CHECK(last_loss([](auto& o) { o.optimizer.learning_rate = 0.1f; }) != standard);
  CHECK(last_loss([](auto& o) { o.optimizer.weight_decay = 0.5f; }) != standard);
  CHECK(last_loss([](auto& o) { o.seed = 2; }) != standard);
  CHECK(last_loss([](auto& o) { o.seed = 1; }) == standard);
}

// A user's own policies, judged and served as ours are.
struct MySharding {
  using axis = sx::axis::Sharding;
  static constexpr bool parameters = true, gradients = true, optimizer = true;
};
struct Momentum {
  using axis = sx::axis::Optimizer;
  static constexpr std::size_t moments = 1;
  struct Options {
    float learning_rate = 0.05f, momentum = 0.9f;
  };
  struct Update {
    Options options;
    Update(const Options& o, std::size_t) : options{o} {}
    void operator()(float& p, float g, float* m) const {
      m[0] = sx::multiply_add(options.momentum, m[0], g);
      p = sx::multiply_add(-options.learning_rate, m[0], p);
    }
  };
};

TEST_CASE("a user's sharding and optimizer train like ours") {
  const Outcome reference = train_toy<Toy<sx::FullShard>>(3, 10);
  CHECK(run<Toy<MySharding>>(3, 10, toy::Config{}) == reference);
  const Outcome momentum = run<Toy<MySharding, Momentum>>(3, 10, toy::Config{});
  CHECK(momentum == run<Toy<sx::NoShard, Momentum>>(3, 10, toy::Config{}));
  CHECK(momentum.losses.back() < momentum.losses.front());
  CHECK(momentum.weights != reference.weights);
}

TEST_CASE("a trainer's type does not depend on the order of its policies") {
  CHECK(std::is_same_v<Toy<sx::NoShard, sx::Sgd>, Toy<sx::Sgd, sx::NoShard>>);
  CHECK(std::is_same_v<Toy<>, Toy<sx::AdamW, sx::FullShard>>);
}

}  // namespace
