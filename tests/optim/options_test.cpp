// SPDX-License-Identifier: Apache-2.0
// Options that make no sense are refused in one line; so is a trainer that is made of them.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include <limits>
#include <string>

#include "../support/toy.hpp"
#include <doctest/doctest.h>

namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float inf = std::numeric_limits<float>::infinity();

template <class Policy, class Member, class Value>
std::string refusal(Member member, Value value) {
  typename Policy::Options options;
  options.*member = value;
  try {
    Policy::check(options);
  } catch (const sx::ConfigError& error) {
    return error.what();
  }
  return {};
}

TEST_CASE_TEMPLATE("no optimizer takes a negative or infinite rate or decay", P, sx::AdamW,
                   sx::Adam, sx::Sgd, sx::SgdMomentum, sx::Lion, sx::Adagrad) {
  using O = typename P::Options;
  P::check(O{});
  for (const float bad : {-1e-3f, nan, inf}) {
    CHECK(refusal<P>(&O::learning_rate, bad).find(": learning_rate is ") != std::string::npos);
    CHECK(refusal<P>(&O::weight_decay, bad).find(": weight_decay is ") != std::string::npos);
  }
  CHECK(refusal<P>(&O::learning_rate, 0.0f).empty());
  CHECK(refusal<P>(&O::weight_decay, 0.0f).empty());
}

TEST_CASE_TEMPLATE("betas are in [0, 1)", P, sx::AdamW, sx::Adam, sx::Lion) {
  using O = typename P::Options;
  for (const float bad : {-0.1f, 1.0f, nan}) {
    CHECK(refusal<P>(&O::beta1, bad).ends_with("; give one in [0, 1)"));
    CHECK(refusal<P>(&O::beta2, bad).ends_with("; give one in [0, 1)"));
  }
  CHECK(refusal<P>(&O::beta1, 0.0f).empty());
  CHECK(refusal<P>(&O::beta2, 0.0f).empty());
}

TEST_CASE_TEMPLATE("epsilon is above 0", P, sx::AdamW, sx::Adam, sx::Adagrad) {
  for (const float bad : {0.0f, -1e-8f, nan, inf})
    CHECK(refusal<P>(&P::Options::epsilon, bad).ends_with("; give a finite one above 0"));
}

TEST_CASE("the line names the optimizer, the option, its value and the range") {
  CHECK(refusal<sx::AdamW>(&sx::AdamW::Options::beta1, 1.0f) ==
        "AdamW: beta1 is 1; give one in [0, 1)");
  CHECK(refusal<sx::Adagrad>(&sx::Adagrad::Options::learning_rate_decay, -0.5f) ==
        "Adagrad: learning_rate_decay is -0.5; give a finite one, at least 0");
  using O = sx::SgdMomentum::Options;
  CHECK(refusal<sx::SgdMomentum>(&O::momentum, 0.0f) ==
        "SgdMomentum: momentum is 0; give one in (0, 1), or use Sgd, which keeps no moment");
  CHECK(refusal<sx::SgdMomentum>(&O::momentum, 1.0f) != "");
  CHECK(refusal<sx::SgdMomentum>(&O::dampening, 1.0f) ==
        "SgdMomentum: dampening is 1; give one in [0, 1)");
  CHECK_THROWS_WITH_AS(
      sx::SgdMomentum::check({.dampening = 0.5f, .nesterov = true}),
      "SgdMomentum: dampening is 0.5; give 0 with nesterov, which is defined for nothing else",
      sx::ConfigError);
  sx::SgdMomentum::check({.dampening = 0.5f});
  sx::SgdMomentum::check({.nesterov = true});
}

TEST_CASE("a trainer is not made of options that its optimizer refuses, and none are set later") {
  using Trainer = sx::Sharded<toy::Autoencoder, sx::NoShard, sx::Over<sx::Solo>>;
  sx::Cpu device;
  sx::Solo comm;
  Trainer::Options options;
  options.optimizer.epsilon = 0;
  CHECK_THROWS_WITH_AS((Trainer{device, comm, {}, options}),
                       "AdamW: epsilon is 0; give a finite one above 0", sx::ConfigError);
  CHECK(device.account().peak_bytes() == 0);

  Trainer trainer{device, comm, {}};
  CHECK_THROWS_WITH_AS(trainer.set_learning_rate(-1),
                       "AdamW: learning_rate is -1; give a finite one, at least 0",
                       sx::ConfigError);
  CHECK(trainer.options().optimizer.learning_rate == 1e-3f);
  trainer.set_learning_rate(0.5f);
  CHECK(trainer.options().optimizer.learning_rate == 0.5f);
}

}  // namespace
