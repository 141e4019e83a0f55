// SPDX-License-Identifier: Apache-2.0
// What each dtype of a strategy is for, and what clipping and loss scales do to a step. That
// strategies agree to the bit in 16 bits too, and plans to the byte, is in legal/mixed.cpp.
#include <shardexpr/policy/deepspeed.hpp>
#include <shardexpr/policy/fsdp.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "../support/check_plan.hpp"
#include "../support/train.hpp"
#include <doctest/doctest.h>

namespace {

namespace fsdp = shardexpr::fsdp;
namespace ds = shardexpr::deepspeed;
using sx::bf16;
using sx::fp16;
using sx::fp32;

template <class... Ps>
using Toy = sx::Sharded<toy::Autoencoder, Ps...>;

// Rows of the guide's table and the modes around them ---------------------------------------------

/// A mode: its precision, and the bytes of an element of each thing by the frameworks' own account.
template <class Precision, class Scale = sx::LossScaleNone>
struct Mode {
  std::string name;
  std::size_t master, compute, reduce, kept_gradient, moment;
};

/// Compares plan and run of `Mode` with the bytes of a hand-written account.
template <class Precision, class Scale>
void check_bytes(const Mode<Precision, Scale>& mode) {
  CAPTURE(mode.name);
  using Trainer = Toy<sx::FullShard, Precision, Scale>;
  constexpr std::size_t world = 2;
  const toy::Config config;
  const sx::Plan plan = sx::plan<Trainer>(config, world);
  const sx::Layout<toy::Autoencoder> layout{config, world};
  std::size_t part = 0, padded = 0;
  for (std::size_t f = 0; f < layout.flat_count(); ++f) {
    part += layout.flat(f).part;
    padded += layout.flat(f).padded;
  }
  // Where units compute in the storage dtype, master and compute are one and the same.
  const bool one = std::is_same_v<typename Precision::storage, typename Precision::compute>;
  CHECK(sizeof(typename Precision::storage) == mode.master);
  CHECK(plan.parameters_bytes == part * (mode.compute + (one ? 0 : mode.master)));
  CHECK(plan.gradients_bytes == part * mode.kept_gradient);
  CHECK(plan.optimizer_bytes == part * 2 * mode.moment);
  // On the wire: units are gathered for forward and for backward; the decoder, with which backward
  // begins, stays between, and the encoder is gathered once more for it, since it shares a weight.
  const std::size_t encoder = layout.group(0).gathered,
                    decoder = layout.group(layout.group_count() - 1).gathered;
  CHECK(plan.all_gather_sent_bytes - (world - 1) * sizeof(sx::StepSummary) ==
        (2 * padded + encoder - decoder) / world * mode.compute);
  CHECK(plan.reduce_scatter_sent_bytes == padded / world * mode.reduce);
  (void)train_toy<Trainer>(world, 2, config, [&](auto&, auto& device, auto& trainer) {
    check_plan(plan, device.account(), trainer.traffic(), 2);
  });
}

TEST_CASE("storage, wire, reduction, moments: each mode of the frameworks, in bytes") {
  using Dynamic = sx::DynamicLossScale;
  // The guide's three rows.
  check_bytes(Mode<fsdp::precision<bf16>>{"FSDP, bf16, none", 2, 2, 2, 2, 2});
  check_bytes(Mode<fsdp::precision<bf16, bf16>>{"FSDP, bf16, bf16", 4, 2, 2, 4, 4});
  check_bytes(Mode<ds::precision<bf16, bf16>>{"DeepSpeed, bf16, bf16", 4, 2, 2, 4, 4});
  // The others.
  check_bytes(Mode<fsdp::precision<fp32>>{"FSDP, fp32, none", 4, 4, 4, 4, 4});
  check_bytes(Mode<ds::precision<bf16>>{"DeepSpeed, bf16, none", 4, 4, 4, 4, 4});
  check_bytes(Mode<fsdp::precision<fp32, fp16>, Dynamic>{"FSDP, fp32, fp16", 4, 2, 2, 4, 4});
  check_bytes(Mode<ds::precision<fp32, fp16>, Dynamic>{"DeepSpeed, fp32, fp16", 4, 2, 2, 4, 4});
  check_bytes(Mode<fsdp::mixed_precision<fp32, bf16, fp32>>{"torchtitan", 4, 2, 4, 4, 4});
  check_bytes(Mode<fsdp::mixed_precision<bf16, bf16, fp32>>{"bf16, reduce fp32", 2, 2, 4, 4, 2});
  check_bytes(Mode<fsdp::mixed_precision<bf16, fp32>>{"bf16 kept, fp32 computed", 2, 4, 4, 4, 2});
  check_bytes(Mode<ds::precision<bf16, bf16, fp32>>{"communication_data_type", 4, 2, 4, 4, 4});
  check_bytes(Mode<ds::master_weights_and_grads<bf16>>{"bf16 master weights", 2, 2, 2, 2, 4});
  check_bytes(Mode<ds::master_weights_and_grads<bf16, bf16>>{"and states", 2, 2, 2, 2, 2});
  check_bytes(
      Mode<ds::master_weights_and_grads<fp16>, Dynamic>{"fp16 master weights", 2, 2, 2, 2, 4});
}

// What a trainer shows is what it keeps: storage.
template <class Trainer, class Expected>
inline constexpr bool shows = std::is_same_v<typename Trainer::Storage, Expected>;
static_assert(shows<Toy<fsdp::precision<bf16>>, bf16>);
static_assert(shows<Toy<fsdp::precision<bf16, bf16>>, fp32>);
static_assert(std::is_same_v<Toy<fsdp::precision<bf16, bf16>>::Compute, bf16>);
static_assert(std::is_same_v<Toy<fsdp::precision<bf16, bf16>>::Gradient, bf16>);

TEST_CASE("masters keep what the compute dtype would lose") {
  // AdamW moves each weight by about the rate: below half a place of bf16, so that a weight that
  // is kept in it stays where it is, and one that is only computed with in it moves.
  const auto moved = [](auto trainer_type) {
    using Trainer = typename decltype(trainer_type)::type;
    std::size_t count = 0, all = 0;
    sx::launch(2, [&](sx::Threads& comm) {
      sx::Cpu device;
      typename Trainer::Options options;
      options.optimizer = {.learning_rate = 1e-5f, .weight_decay = 0};
      Trainer trainer{device, comm, toy::Config{}, options};
      std::vector<float> before, after, x(20);
      const auto read = [&](std::vector<float>& to) {
        trainer.summon([&](const std::string& name, auto value) {
          if (name.find("weight") != std::string::npos)
            to.insert(to.end(), value.data, value.data + value.count());
        });
      };
      read(before);
      toy::fill(x, 0, comm.rank());
      (void)trainer.step({x.data()});
      read(after);
      if (comm.rank() != 0) return;
      all = before.size();
      for (std::size_t i = 0; i < all; ++i)
        count += std::abs(before[i]) > 0.02f && before[i] != after[i];
    });
    return count;
  };
  CHECK(moved(std::type_identity<Toy<fsdp::precision<bf16>>>{}) == 0);
  CHECK(moved(std::type_identity<Toy<fsdp::precision<bf16, bf16>>>{}) > 100);
}

template <class Trainer>
void set_all(Trainer& trainer, float value) {
  trainer.summon(sx::WriteFrom{0}, [&](const std::string&, auto parameter) {
    std::fill_n(parameter.data, parameter.count(), typename Trainer::Storage{value});
  });
}
TEST_CASE_TEMPLATE("what summon writes reaches masters and copies on every rank", Sharding,
                   sx::FullShard, sx::ShardOptimizer, sx::NoShard, sx::PersistBelow<8>) {
  using Trainer = Toy<Sharding, sx::MixedPrecision<bf16, fp32>, sx::Sgd>;
  sx::launch(3, [](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, toy::Config{}};
    const float value = 0.1f;  // no bf16
    set_all(trainer, comm.rank() == 0 ? value : 7);
    std::size_t wrong = 0;
    trainer.summon([&](const std::string&, sx::Tensor<const float> parameter) {
      for (std::size_t i = 0; i < parameter.count(); ++i) wrong += parameter[i] != value;
    });
    CHECK(wrong == 0);
    const auto w = trainer.template gather<toy::Mixer>(1);
    for (std::size_t i = 0; i < w->weight.count(); ++i)
      wrong += w->weight[i].bits != bf16{value}.bits;
    CHECK(wrong == 0);
  });
}

TEST_CASE("a frozen parameter is kept in the compute dtype alone") {
  // In toy all train; frozen_test.cpp has the rest. The plan of a part without gradients: 2 bytes.
  const sx::FlatLayout frozen{.is_trainable = false, .part = 64, .padded = 128};
  CHECK(sx::detail::kept_for_update<sx::FullShard>(frozen) == 0);
  CHECK(sx::detail::kept_parameters<sx::FullShard>(frozen) == 64);
}

// Clipping ----------------------------------------------------------------------------------------

/// All weights after one step of plain gradient descent, minus those before, from rank 0.
template <class... Ps, class Change>
std::vector<double> one_move(Change change, double* norm = nullptr) {
  using Trainer = Toy<sx::Sgd, Ps...>;
  std::vector<double> moves;
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    typename Trainer::Options options;
    options.optimizer = {.learning_rate = 0.5f};
    change(options);
    Trainer trainer{device, comm, toy::Config{}, options};
    std::vector<float> x(20);
    toy::fill(x, 0, comm.rank());
    std::vector<double> at;
    const auto read = [&](double sign) {
      std::size_t i = 0;
      trainer.summon([&](const std::string&, auto value) {
        for (std::size_t k = 0; k < value.count(); ++k, ++i) {
          if (sign < 0) at.push_back(0);
          at[i] += sign * static_cast<double>(static_cast<float>(value[k]));
        }
      });
    };
    read(-1);
    const sx::StepResult result = trainer.step({x.data()});
    read(1);
    if (comm.rank() != 0) return;
    moves = at;
    if (norm != nullptr) *norm = result.gradient_norm;
  });
  return moves;
}
// A weight of at most 1 is known to half a place of fp32 after its move.
constexpr double place = 6e-8;

TEST_CASE("ClipNorm scales all gradients to the norm; the result tells the norm before") {
  double norm = 0, clipped_norm = 0;
  const auto plain = one_move<>([](auto&) {}, &norm);
  for (const float limit : {0.01f, 0.1f, 1e6f}) {
    CAPTURE(limit);
    const auto clipped = one_move<sx::ClipNorm>(
        [&](auto& options) { options.clipping.max_norm = limit; }, &clipped_norm);
    CHECK(clipped_norm == norm);
    const double factor = std::min(1.0, static_cast<double>(limit) / (norm + 1e-6));
    REQUIRE(clipped.size() == plain.size());
    double squares = 0;
    for (std::size_t i = 0; i < plain.size(); ++i) {
      CHECK(std::abs(clipped[i] - factor * plain[i]) <= 2 * place);
      squares += clipped[i] * clipped[i];
    }
    CHECK(std::sqrt(squares) / 0.5 ==
          doctest::Approx(std::min(norm, static_cast<double>(limit))).epsilon(1e-4));
  }
}
TEST_CASE("ClipValue holds each gradient") {
  const auto plain = one_move<>([](auto&) {});
  const double limit = 0.01;
  const auto clipped = one_move<sx::ClipValue>(
      [&](auto& options) { options.clipping.max_value = static_cast<float>(limit); });
  std::size_t held = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    CHECK(std::abs(clipped[i] - std::clamp(plain[i], -0.5 * limit, 0.5 * limit)) <= 2 * place);
    held += std::abs(plain[i]) > 0.5 * limit;
  }
  CHECK(held > 10);
}
TEST_CASE("clips and scales out of range are refused when the trainer is made") {
  CHECK_THROWS_WITH_AS(one_move<sx::ClipNorm>([](auto& options) { options.clipping.max_norm = 0; }),
                       doctest::Contains("ClipNorm: max_norm is 0; give one above 0"),
                       sx::RankError);
  CHECK_THROWS_AS(one_move<sx::StaticLossScale>([](auto& o) { o.loss_scale.scale = -1; }),
                  sx::RankError);
}

// Loss scale --------------------------------------------------------------------------------------

/// The toy in fp32, where a scale by a power of two changes nothing at all.
struct Run {
  std::vector<sx::StepResult> results;  // rank 0's; the others are compared with them
  std::vector<float> weights;
};
template <class... Ps>
Run run(std::size_t world, std::size_t steps, auto change, auto before_step) {
  using Trainer = Toy<Ps...>;
  Run run;
  std::vector<std::vector<sx::StepResult>> all(world);
  sx::launch(world, [&](sx::Threads& comm) {
    sx::Cpu device;
    typename Trainer::Options options;
    change(options);
    Trainer trainer{device, comm, toy::Config{}, options};
    std::vector<float> x(20);
    for (std::size_t s = 0, batch = 0; s < steps; ++s) {
      toy::fill(x, batch, comm.rank());
      before_step(s, comm.rank());
      const sx::StepResult result = trainer.step({x.data()});
      batch += !result.is_skipped;  // a batch that was skipped is tried again
      all[comm.rank()].push_back(result);
      toy::poison = {};
    }
    trainer.summon([&](const std::string&, auto value) {
      if (comm.rank() == 0)
        run.weights.insert(run.weights.end(), value.data, value.data + value.count());
    });
  });
  run.results = all[0];
  for (const auto& other : all)
    for (std::size_t s = 0; s < steps; ++s) {
      CHECK(other[s].is_skipped == run.results[s].is_skipped);
      CHECK(other[s].loss_scale == run.results[s].loss_scale);
    }
  return run;
}
constexpr auto no_change = [](auto&) {};
constexpr auto nothing = [](std::size_t, std::size_t) {};

TEST_CASE_TEMPLATE("unscaling uses the scale that was applied, also when it grows", Clip,
                   sx::ClipNone, sx::ClipNorm, sx::ClipValue) {
  const auto limit = [](auto& options) {
    if constexpr (requires { options.clipping.max_norm; }) options.clipping.max_norm = 0.1f;
    if constexpr (requires { options.clipping.max_value; }) options.clipping.max_value = 0.01f;
  };
  const Run plain = run<Clip>(2, 12, limit, nothing);
  const Run scaled = run<Clip, sx::DynamicLossScale>(
      2, 12,
      [&](auto& options) {
        limit(options);
        options.loss_scale.initial_scale = 8;
        options.loss_scale.growth_interval = 3;
      },
      nothing);
  CHECK(scaled.weights == plain.weights);
  for (std::size_t s = 0; s < 12; ++s) {
    CHECK(scaled.results[s].loss_scale == static_cast<float>(8 << (s / 3)));
    CHECK(scaled.results[s].gradient_norm == plain.results[s].gradient_norm);
    CHECK(scaled.results[s].loss == plain.results[s].loss);
    CHECK(!scaled.results[s].is_skipped);
  }
}

TEST_CASE_TEMPLATE(
    "a gradient that is not finite, in any unit of any rank: every rank skips that step", Policy,
    sx::FullShard, sx::QuantizedGradients) {
  const Run plain = run<Policy>(2, 4, no_change, nothing);
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
    for (std::size_t rank = 0; rank < 2; ++rank)
      for (int unit = 0; unit < 5; ++unit) {
        CAPTURE(unit);
        const Run spoiled = run<Policy, sx::DynamicLossScale>(2, 5, no_change,
                                                              [&](std::size_t step, std::size_t r) {
                                                                if (step == 2 && r == rank)
                                                                  toy::poison = {4 - unit, value};
                                                              });
        for (std::size_t s = 0; s < 5; ++s) {
          CHECK(spoiled.results[s].is_skipped == (s == 2));
          CHECK(spoiled.results[s].loss_scale == (s < 3 ? 65536 : 32768));
        }
        // Moments and the count of steps are as before, too: the run goes on to the same bits.
        CHECK(spoiled.weights == plain.weights);
      }
}

TEST_CASE_TEMPLATE("without a loss scale it is an error that names the unit, and nothing moves",
                   Sharding, sx::FullShard, sx::NoShard, sx::QuantizedGradients) {
  const Run plain = run<Sharding>(2, 4, no_change, nothing);
  const char* const names[] = {
      "encoder.bias of unit toy::Encoder", "mixer.0.bias of unit toy::Mixer 0",
      "mixer.1.bias of unit toy::Mixer 1", "mixer.2.bias of unit toy::Mixer 2",
      "decoder.bias of unit toy::Decoder"};
  for (std::size_t rank = 0; rank < 2; ++rank)
    for (int unit = 0; unit < 5; ++unit) {
      CAPTURE(unit);
      std::vector<std::string> errors(2);
      std::vector<float> weights;
      sx::launch(2, [&](sx::Threads& comm) {
        sx::Cpu device;
        Toy<Sharding> trainer{device, comm, toy::Config{}};
        std::vector<float> x(20);
        for (std::size_t s = 0; s < 4; ++s) {
          toy::fill(x, s, comm.rank());
          if (s == 2) {
            if (comm.rank() == rank)
              toy::poison = {4 - unit, std::numeric_limits<float>::infinity()};
            try {
              (void)trainer.step({x.data()});
            } catch (const sx::NotFiniteError& error) {
              errors[comm.rank()] = error.what();
            }
            toy::poison = {};
          }
          (void)trainer.step({x.data()});
        }
        CHECK(trainer.steps() == 4);
        trainer.summon([&](const std::string&, auto value) {
          if (comm.rank() == 0)
            weights.insert(weights.end(), value.data, value.data + value.count());
        });
      });
      CHECK(errors[0] == "step 3: the gradient of " + std::string{names[unit]} +
                             " is not finite; nothing was updated: leave the batch out, or add a "
                             "loss scale, which skips such steps");
      CHECK(errors[1] == errors[0]);
      CHECK(weights == plain.weights);
    }
}

TEST_CASE("fp16 overflows at a scale that is too large, and finds one that fits") {
  const Run half = run<sx::MixedPrecision<fp16, fp16>, sx::DynamicLossScale>(
      2, 30, [](auto& options) { options.loss_scale.initial_scale = 0x1p24f; }, nothing);
  CHECK(half.results.front().is_skipped);
  CHECK(!half.results.back().is_skipped);
  CHECK(half.results.back().loss_scale < 0x1p24f);
  const Run full = run<sx::FullPrecision>(2, 20, no_change, nothing);
  std::size_t steps = 0;
  for (const sx::StepResult& result : half.results) {
    if (result.is_skipped) continue;
    if (steps < 20) CHECK(result.loss == doctest::Approx(full.results[steps].loss).epsilon(0.01));
    ++steps;
  }
  CHECK(steps > 10);
}

}  // namespace
