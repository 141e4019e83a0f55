// SPDX-License-Identifier: Apache-2.0
// State on the host, in models large enough that blocks and flats are cut, and outside of plain
// steps. That every legal strategy is right on a small one is in legal/offloaded.cpp.
#include <shardexpr/plan/places.hpp>

#include <cstddef>
#include <string>
#include <vector>

#include "../support/frozen_toy.hpp"
#include "../support/grouped_toy.hpp"
#include "../support/offloaded.hpp"
#include <doctest/doctest.h>

namespace {

// Flats of 7000 elements and more, that neither worlds nor fractions divide.
constexpr toy::Config wide{.inputs = 61, .width = 83, .depth = 2, .rows = 3};

// Fractions ---------------------------------------------------------------------------------------

template <class Sharding, std::size_t Numerator, std::size_t Denominator>
void check_fraction() {
  using S = sx::StrategyOf<Sharding, In<OnDevice, sx::Partly<Numerator, Denominator>>>;
  for (const toy::Config& config : {toy::Config{}, wide, toy::Config{3, 129, 7, 1}})
    for (std::size_t world : {1, 2, 3, 5, 8}) {
      CAPTURE(Numerator);
      CAPTURE(Denominator);
      CAPTURE(world);
      const sx::Layout<toy::Autoencoder> layout{config, sx::mesh_shape<S>(world).shards,
                                                sx::detail::grouping_of<S, toy::Autoencoder>()};
      std::size_t all = 0, away = 0, off_by_more = 0, not_whole = 0;
      for (const sx::detail::KeptFlat& kept : sx::detail::kept_flats<S>(layout, false)) {
        all += kept.updated;
        away += kept.away;
        const std::size_t share = kept.updated * Numerator, given = kept.away * Denominator;
        off_by_more += (share > given ? share - given : given - share) >= Denominator;
        not_whole += kept.away > kept.updated || kept.device_gradients_from > kept.away ||
                     kept.device_gradients_from + sx::block_elements <= kept.away ||
                     kept.device_gradients + kept.device_gradients_from != kept.updated;
      }
      CHECK(away == all * Numerator / Denominator);
      CHECK(off_by_more == 0);
      CHECK(not_whole == 0);
    }
}
TEST_CASE("Partly gives the host its fraction to the element, and of each flat a fair share") {
  check_fraction<sx::FullShard, 1, 2>();
  check_fraction<sx::FullShard, 1, 3>();
  check_fraction<sx::FullShard, 7, 10>();
  check_fraction<sx::FullShard, 1, 1000>();
  check_fraction<sx::ShardOptimizer, 999, 1000>();
  check_fraction<sx::ShardGradOp, 5, 7>();
  check_fraction<sx::NoShard, 2, 3>();
  check_fraction<sx::NoShard, 1, 1000003>();  // less than an element of a flat
}

// A control flow of one's own ---------------------------------------------------------------------

template <class Trainer>
void check_story(const Story& plain, const Job& job) {
  CAPTURE(job.world);
  CAPTURE(job.micro_batches);
  check_same(tell_story<Trainer>(job), plain);
}
template <class F>
void for_each_job(const toy::Config& config, F f) {
  for (const std::size_t world : {1, 2, 3})
    for (const std::size_t micro_batches : {1, 2})
      f(Job{.world = world, .micro_batches = micro_batches, .config = config});
}

TEST_CASE("in fp32, all a program can do with a trainer gives the bits of the device's state") {
  for_each_job(wide, [](const Job& job) {
    const Story plain = tell_story<Toy<sx::NoShard>>(job);
    check_story<Toy<sx::OffloadAll, sx::PersistBelow<100>>>(plain, job);
    check_story<Toy<In<OnHost, OnDevice>>>(plain, job);
    check_story<Toy<In<OnDevice, sx::Partly<1, 3>>>>(plain, job);
    check_story<Toy<In<OnHost, sx::Partly<999, 1000>>, sx::WrapWhole>>(plain, job);
  });
}
TEST_CASE("with copies in bf16 likewise") {
  for_each_job(wide, [](const Job& job) {
    const Story plain = tell_story<Toy<Mixed, sx::ClipNorm>>(job);
    check_story<Toy<Mixed, sx::ClipNorm, sx::OffloadAll>>(plain, job);
    check_story<Toy<Mixed, sx::ClipNorm, In<OnDevice, sx::Partly<2, 5>>, sx::ShardGradOp>>(plain,
                                                                                           job);
    check_story<Toy<Mixed, sx::ClipNorm, In<OnHost, sx::Partly<2, 5>>>>(plain, job);
  });
}

TEST_CASE("copies of the model likewise, whose gradients go up once more to be averaged") {
  for (const std::size_t micro_batches : {1, 2}) {
    const Job job{.world = 4, .micro_batches = micro_batches, .config = wide};
    const Story plain = tell_story<Toy<sx::HybridShard<2>>>(job);
    check_story<Toy<sx::HybridShard<2>, sx::OffloadAll>>(plain, job);
    check_story<Toy<sx::HybridShard<2>, In<OnDevice, sx::Partly<2, 5>>>>(plain, job);
  }
}
TEST_CASE("nothing of it is a race") {
  using Checked = sx::On<sx::Checked<sx::Cpu>>;
  for (const std::size_t micro_batches : {1, 2}) {
    const Job job{.world = 2,
                  .micro_batches = micro_batches,
                  .config = {.inputs = 13, .width = 17, .depth = 2, .rows = 3},
                  .execution = sx::Execution::asynchronous};
    check_story<Toy<Checked, sx::OffloadAll>>(tell_story<Toy<>>(job), job);
    check_story<Toy<Checked, Mixed, In<OnHost, sx::Partly<2, 5>>>>(tell_story<Toy<Mixed>>(job),
                                                                   job);
  }
}

// Frozen parameters, groups, rounding, schedules --------------------------------------------------

template <class... Ps>
using Frozen = sx::Sharded<frozen_toy::Model, Ps...>;

/// Trains; writes all parameters, the frozen too; evaluates; trains on.
template <class Trainer>
Outcome train_and_write(const Job& job) {
  Outcome outcome;
  on_ranks<Trainer>(job, as_it_is, [&](auto& comm, auto&, auto& trainer) {
    Rows rows{job, comm.rank()};
    append_weights(trainer, comm.rank(), outcome.weights);
    append(trainer.step(rows.of_step(0)), comm.rank(), outcome);
    trainer.summon(sx::WriteFrom{job.world - 1}, [](const std::string&, auto value) {
      for (std::size_t i = 0; i < value.count(); ++i) value[i] *= 1.5f;
    });
    const double loss = trainer.evaluate(rows.of_step(1)[0]);
    if (comm.rank() == 0) outcome.losses.push_back(loss);
    for (std::size_t s = 1; s < job.steps; ++s)
      append(trainer.step(rows.of_step(s)), comm.rank(), outcome);
    append_weights(trainer, comm.rank(), outcome.weights);
  });
  return outcome;
}
TEST_CASE("frozen parameters lie on the host too, and stay as they are until written") {
  for_each_job({.inputs = 31, .width = 37, .depth = 2, .rows = 3}, [](const Job& job) {
    CAPTURE(job.world);
    CAPTURE(job.micro_batches);
    CHECK(train_and_write<Frozen<sx::OffloadAll>>(job) ==
          train_and_write<Frozen<sx::NoShard>>(job));
    CHECK(train_and_write<Frozen<In<OnHost, sx::Partly<1, 2>>, Mixed>>(job) ==
          train_and_write<Frozen<Mixed>>(job));
  });
}

TEST_CASE("groups, stochastic rounding and a schedule reach what the host updates") {
  using Pure = sx::Precision<sx::bf16, sx::bf16, sx::bf16, sx::bf16>;
  const auto change = [](auto& options) {
    options.groups[1] = {2, 0};
    options.groups[2] = {0.5f, 3};
    options.optimizer.learning_rate = 0.01f;
    options.schedule = sx::LearningRateSchedule::warmup_cosine(2, 6);
    options.seed = 5;
  };
  for_each_job({.inputs = 31, .width = 37, .depth = 2, .rows = 3}, [&](const Job& job) {
    CAPTURE(job.world);
    CAPTURE(job.micro_batches);
    using Plain = sx::Sharded<grouped_toy::Autoencoder, Pure, sx::RoundStochastic>;
    const Outcome plain = train<Plain>(job, change);
    CHECK(plain != train<Plain>(job));  // the options do something
    CHECK(train<sx::Sharded<grouped_toy::Autoencoder, Pure, sx::RoundStochastic, sx::OffloadAll>>(
              job, change) == plain);
    CHECK(train<sx::Sharded<grouped_toy::Autoencoder, Pure, sx::RoundStochastic,
                            In<OnDevice, sx::Partly<1, 3>>>>(job, change) == plain);
  });
}

// Gradients that are not finite -------------------------------------------------------------------

TEST_CASE("what is not finite moves nothing on the host either") {
  check_not_finite<Toy<>, Toy<In<OnDevice, OnHost>, sx::DynamicLossScale>,
                   Toy<In<OnDevice, OnHost>>>();
  using Half = In<OnHost, sx::Partly<1, 2>>;
  check_not_finite<Toy<>, Toy<Half, sx::DynamicLossScale>, Toy<Half>>();
}

}  // namespace
