// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/layout.hpp>

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "../support/toy.hpp"
#include <doctest/doctest.h>

namespace {

constexpr toy::Config config{};  // inputs 5, width 7, depth 3

// In constant expressions as well: this is what plans stand on.
static_assert(sx::Layout<toy::Autoencoder>{config, 2}.unit_count() == 5);
static_assert(sx::Layout<toy::Autoencoder>{config, 2}.parameter_count() ==
              (5 * 7 + 7) + 3 * (7 * 7 + 7) + 5);

TEST_CASE("parameters begin and parts are cut at multiples of 64 elements") {
  for (std::size_t world : {1, 2, 3, 4, 7, 64}) {
    const sx::Layout<toy::Autoencoder> layout{config, world};
    std::size_t shards = 0, full = 0;
    for (const sx::UnitLayout& unit : layout.units()) {
      CHECK(unit.part % 64 == 0);
      CHECK(unit.padded == world * unit.part);
      CHECK(unit.padded >= unit.used);
      CHECK(unit.padded - unit.used < 64 * (world + unit.parameters.size()));
      CHECK(unit.shard_offset == shards);
      CHECK(unit.full_offset == full);
      shards += unit.part;
      full += unit.padded;
      for (const sx::ParameterLayout& parameter : unit.parameters)
        CHECK(parameter.offset % 64 == 0);
    }
    CHECK(layout.shard_elements() == shards);
    CHECK(layout.full_elements() == full);
  }
}

TEST_CASE("a parameter's offset does not depend on the world size") {
  const sx::Layout<toy::Autoencoder> one{config, 1}, five{config, 5};
  for (std::size_t u = 0; u < one.unit_count(); ++u)
    for (std::size_t k = 0; k < one.unit(u).parameters.size(); ++k)
      CHECK(one.unit(u).parameters[k].offset == five.unit(u).parameters[k].offset);
}

TEST_CASE("a tied parameter lies with its owner and takes no space") {
  const sx::Layout<toy::Autoencoder> layout{config, 2};
  const sx::UnitLayout& decoder = layout.unit(4);
  REQUIRE(decoder.parameters.size() == 2);
  CHECK(decoder.parameters[1].is_tied);
  CHECK(decoder.parameters[1].unit == 0);
  CHECK(decoder.parameters[1].offset == layout.unit(0).parameters[0].offset);
  CHECK(decoder.parameters[1].spec.shape == sx::shape(5, 7));
  CHECK(decoder.used == 5);
  CHECK(decoder.touches == std::vector<std::size_t>{4, 0});
  CHECK(layout.unit(0).first_toucher == 0);
  CHECK(decoder.first_toucher == 4);
  CHECK(layout.unit(2).touches == std::vector<std::size_t>{2});
}

TEST_CASE("names carry the unit's prefix and its place") {
  const sx::Layout<toy::Autoencoder> layout{config, 1};
  CHECK(sx::parameter_name<toy::Mixer>(2, layout.unit(3).parameters[1].spec) == "mixer.2.bias");
  CHECK(sx::parameter_name<toy::Encoder>(0, layout.unit(0).parameters[0].spec) == "encoder.weight");
}

TEST_CASE("what cannot be laid out is refused in one line") {
  CHECK_THROWS_WITH_AS((sx::Layout<toy::Autoencoder>{config, 0}),
                       "world size is 0: a job has at least one rank", sx::ConfigError);
  toy::Config none = config;
  none.depth = 0;
  CHECK_THROWS_WITH_AS((sx::Layout<toy::Autoencoder>{none, 1}),
                       "stage 1 of the model repeats 0 times: at least 1", sx::ConfigError);
  toy::Config thin = config;
  thin.width = 0;
  CHECK_THROWS_WITH_AS((sx::Layout<toy::Autoencoder>{thin, 1}),
                       "parameter encoder.weight has no elements: every extent must be at least 1",
                       sx::ConfigError);
}

TEST_CASE("initial values follow the written formula") {
  // By hand: mean + spread * z, z from four 16-bit words.
  const std::uint64_t name = sx::hash_of("transformer.wte.weight");
  CHECK(name == 0x1784db15dc261b4eu);
  CHECK(sx::initial_value(7, name, 3, sx::ones) == 1.0f);
  CHECK(sx::initial_value(7, name, 3, sx::zeros) == 0.0f);
  double sum = 0, squares = 0;
  constexpr std::size_t n = 100'000;
  for (std::size_t i = 0; i < n; ++i) {
    const double x = sx::initial_value(7, name, i, sx::normal(0.02f));
    CHECK(std::abs(x) <= 0.02 * 3.47);
    sum += x;
    squares += x * x;
  }
  CHECK(std::abs(sum / n) < 3 * 0.02 / std::sqrt(double{n}));
  CHECK(std::sqrt(squares / n) == doctest::Approx(0.02).epsilon(0.01));
  CHECK(sx::initial_value(7, name, 0, sx::normal(1)) !=
        sx::initial_value(8, name, 0, sx::normal(1)));
  CHECK(sx::initial_value(7, name, 0, sx::normal(1)) !=
        sx::initial_value(7, name + 1, 0, sx::normal(1)));
}

}  // namespace
