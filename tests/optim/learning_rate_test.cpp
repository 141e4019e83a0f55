// SPDX-License-Identifier: Apache-2.0
// Learning rate schedules against transformers' (tests/fixtures/learning_rates_fixture.py), and a
// trainer that follows one.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/optim/learning_rate.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "../support/grouped_toy.hpp"
#include "../support/json_fixture.hpp"
#include <doctest/doctest.h>

namespace {

using Schedule = sx::LearningRateSchedule;

TEST_CASE("schedules are transformers', a step ahead") {
  const Json json = json_fixture("learning_rates.json");
  std::string seen;
  for (const Json& one : json["cases"].array()) {
    const std::string name = one["schedule"].string();
    CAPTURE(name);
    seen += name + " ";
    const std::size_t warmup = one["warmup"].count(), total = one["total"].count();
    const double least = one["least"].real();
    const Schedule schedule = name == "constant" ? Schedule::constant()
                              : name == "warmup" ? Schedule::warmup(warmup)
                              : name == "warmup_cosine"
                                  ? Schedule::warmup_cosine(warmup, total, least)
                                  : Schedule::warmup_linear(warmup, total, least);
    const auto& factors = one["factors"].array();
    REQUIRE(factors.size() >= 10);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      CAPTURE(i);
      // Values of at most 1, fewer than ten operations in double on either side.
      CHECK(std::abs(schedule.factor(i + 1) - factors[i].real()) <= 20 * 0x1p-53);
    }
  }
  CHECK(seen == "constant warmup warmup_cosine warmup_cosine warmup_cosine warmup_linear ");
}

TEST_CASE("a schedule begins at 1 / warm-up, is 1 at its end, and stays at the least") {
  for (const Schedule& schedule : {Schedule::warmup_cosine(4, 10, 0.25),
                                   Schedule::warmup_linear(4, 10, 0.25), Schedule::warmup(4)}) {
    CHECK(schedule.factor(1) == 0.25);
    CHECK(schedule.factor(3) == 0.75);
    CHECK(schedule.factor(4) == 1);
  }
  for (const std::size_t step : {10, 11, 1000}) {
    CHECK(Schedule::warmup_cosine(4, 10, 0.25).factor(step) == 0.25);
    CHECK(Schedule::warmup_linear(4, 10, 0.25).factor(step) == 0.25);
    CHECK(Schedule::warmup_cosine(4, 10).factor(step) == 0);
    CHECK(Schedule::warmup(4).factor(step) == 1);
    CHECK(Schedule::constant().factor(step) == 1);
    CHECK(Schedule{}.factor(step) == 1);
  }
  const Schedule linear = Schedule::warmup_linear(0, 4, 0.5);
  CHECK(linear.factor(1) == 0.875);
  CHECK(linear.factor(3) == 0.625);
  CHECK(linear.factor(4) == 0.5);
  // Halfway the cosine is halfway.
  CHECK(Schedule::warmup_cosine(2, 6, 0.5).factor(4) == doctest::Approx(0.75).epsilon(1e-15));
  CHECK(Schedule::warmup(0).factor(1) == 1);
  CHECK(Schedule::warmup_linear(3, 3, 0.5).factor(3) == 1);
  CHECK(Schedule::warmup_linear(3, 3, 0.5).factor(4) == 0.5);
}

TEST_CASE("schedules that make no sense are refused") {
  CHECK_THROWS_WITH_AS(Schedule::warmup_cosine(0, 0),
                       "LearningRateSchedule::warmup_cosine: total_steps is 0; give at least 1",
                       sx::ConfigError);
  CHECK_THROWS_WITH_AS(
      Schedule::warmup_linear(30, 20),
      "LearningRateSchedule::warmup_linear: warmup_steps is 30; give at most total_steps, 20",
      sx::ConfigError);
  for (const double bad : {-0.1, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK_THROWS_AS(Schedule::warmup_cosine(1, 2, bad), sx::ConfigError);
    CHECK_THROWS_AS(Schedule::warmup_linear(1, 2, bad), sx::ConfigError);
  }
  CHECK_THROWS_WITH_AS(Schedule::warmup_linear(1, 2, 2),
                       "LearningRateSchedule::warmup_linear: least is 2; give one in [0, 1]",
                       sx::ConfigError);
}

using Trainer =
    sx::Sharded<grouped_toy::Autoencoder, sx::NoShard, sx::SgdMomentum, sx::Over<sx::Solo>>;

std::vector<float> weights_of(Trainer& trainer) {
  std::vector<float> all;
  trainer.summon([&](const std::string&, sx::Tensor<const float> value) {
    all.insert(all.end(), value.data, value.data + value.count());
  });
  return all;
}

TEST_CASE("a trainer follows its schedule, and says which rate comes next") {
  sx::Cpu device;
  sx::Solo comm;
  Trainer::Options options;
  options.optimizer.learning_rate = 0.05f;
  options.groups[2].learning_rate_factor = 0.5f;
  Trainer by_hand{device, comm, {}, options};
  options.schedule = Schedule::warmup_linear(3, 9, 0.1);
  Trainer scheduled{device, comm, {}, options};

  std::vector<float> x(20);
  for (std::size_t s = 1; s <= 12; ++s) {
    CAPTURE(s);
    const auto rate = static_cast<float>(static_cast<double>(0.05f) * options.schedule.factor(s));
    CHECK(scheduled.learning_rate() == rate);
    CHECK(scheduled.learning_rate(2) == 0.5f * rate);
    by_hand.set_learning_rate(rate);
    CHECK(by_hand.learning_rate() == rate);
    toy::fill(x, s, 0);
    const sx::StepResult one = scheduled.step({x.data()}), other = by_hand.step({x.data()});
    CHECK(one.loss == other.loss);
    CHECK(weights_of(scheduled) == weights_of(by_hand));
  }
  CHECK(scheduled.options().optimizer.learning_rate == 0.05f);
  scheduled.set_learning_rate(1);  // scales the whole schedule
  CHECK(scheduled.learning_rate() == 0.1f);
  CHECK_THROWS_WITH_AS((void)scheduled.learning_rate(4),
                       "learning_rate: there is no parameter group 4, the last is 3",
                       sx::ConfigError);
}

}  // namespace
