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
    std::size_t used = 0;
    for (std::size_t f = 0; f < layout.flat_count(); ++f) {
      const sx::FlatLayout& flat = layout.flat(f);
      CHECK(flat.part % 64 == 0);
      CHECK(flat.padded == world * flat.part);
      CHECK(flat.padded >= flat.used);
      CHECK(flat.padded - flat.used < 64 * (world + 2));  // two parameters a unit
      used += flat.used;
    }
    CHECK(used == layout.parameter_count());
    for (const sx::UnitLayout& unit : layout.units())
      for (const sx::ParameterLayout& parameter : unit.parameters)
        CHECK(parameter.offset % 64 == 0);
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
  CHECK(decoder.parameters[1].flat == layout.unit(0).parameters[0].flat);
  CHECK(decoder.parameters[1].offset == layout.unit(0).parameters[0].offset);
  CHECK(decoder.parameters[1].spec.shape == sx::shape(5, 7));
  CHECK(decoder.used == 5);
  CHECK(decoder.touches == std::vector<std::size_t>{4, 0});
  CHECK(decoder.trains == std::vector<std::size_t>{4, 0});
  CHECK(layout.group(0).last_trained == 0);
  CHECK(layout.group(4).last_trained == 4);
  CHECK(layout.unit(2).touches == std::vector<std::size_t>{2});
  CHECK(layout.first_trained_unit() == 0);
}

// No two parameters of a group share an element, gathered or in its gradients.
template <class Model>
void check_disjoint(const sx::Layout<Model>& layout) {
  std::vector<std::vector<char>> gathered(layout.group_count()), gradients(layout.group_count());
  for (std::size_t g = 0; g < layout.group_count(); ++g) {
    gathered[g].resize(layout.group(g).gathered);
    gradients[g].resize(layout.group(g).gradients);
  }
  const auto take = [](std::vector<char>& memory, std::size_t begin, std::size_t count) {
    REQUIRE(begin + count <= memory.size());
    for (std::size_t i = begin; i < begin + count; ++i) {
      CHECK(memory[i] == 0);
      memory[i] = 1;
    }
  };
  for (const sx::UnitLayout& unit : layout.units())
    for (const sx::ParameterLayout& parameter : unit.parameters) {
      if (parameter.is_tied) continue;
      const sx::FlatLayout& flat = layout.flat(parameter.flat);
      const std::size_t count = parameter.spec.shape.count();
      CHECK(flat.is_trainable != parameter.spec.is_frozen);
      if (!flat.is_persistent)
        take(gathered[flat.group], flat.gathered_offset + parameter.offset, count);
      if (flat.is_trainable)
        take(gradients[flat.group], flat.gradient_offset + parameter.offset, count);
    }
}

TEST_CASE("units are joined into groups as a wrap asks") {
  using Layout = sx::Layout<toy::Autoencoder>;  // 42, 56, 56, 56, 5 elements
  const auto groups = [](const Layout& layout) {
    std::vector<std::size_t> of_unit;
    for (const sx::UnitLayout& unit : layout.units()) of_unit.push_back(unit.group);
    check_disjoint(layout);
    return of_unit;
  };
  using Groups = std::vector<std::size_t>;
  CHECK(groups(Layout{config, 3}) == Groups{0, 1, 2, 3, 4});
  // Encoder and decoder are the root, each mixer is its own.
  const Layout named{config, 3, {.in_root = {true, false, true}}};
  CHECK(groups(named) == Groups{0, 1, 2, 3, 0});
  CHECK(named.group(0).is_root);
  CHECK_FALSE(named.group(1).is_root);
  CHECK(named.group(0).gathered_used == 47);
  CHECK(named.group(0).last_trained == 0);
  CHECK(named.unit(4).touches == Groups{0});
  const Layout whole{config, 3, {.in_root = {true, true, true}}};
  CHECK(groups(whole) == Groups{0, 0, 0, 0, 0});
  CHECK(whole.group(0).gathered_used == 215);
  // By size; what is left joins the group before it.
  CHECK(groups(Layout{config, 3, {.least = 42}}) == Groups{0, 1, 2, 3, 3});
  CHECK(groups(Layout{config, 3, {.least = 43}}) == Groups{0, 0, 1, 2, 2});
  CHECK(groups(Layout{config, 3, {.least = 98}}) == Groups{0, 0, 1, 1, 1});
  CHECK_THROWS_AS((Layout{config, 3, {.least = 100}}), sx::ConfigError);
  CHECK_THROWS_WITH_AS((Layout{config, 3, {.least = 200}}),
                       "wrapping by at least 200 elements makes one group of the whole model, "
                       "which has 215: use WrapWhole or a smaller number",
                       sx::ConfigError);
}

TEST_CASE("small parameters are laid out apart, to persist") {
  const sx::Layout<toy::Autoencoder> layout{config, 2, {.persist_below = 8}};
  check_disjoint(layout);
  // The biases, of 7 and 5 elements, persist; the decoder has nothing else.
  CHECK(layout.group(0).flat_count == 2);
  CHECK(layout.group(0).gathered_used == 35);
  CHECK(layout.group(0).gradients == 256);
  CHECK(layout.group(4).flat_count == 1);
  CHECK(layout.group(4).gathered == 0);
  CHECK(layout.flat(layout.unit(1).parameters[1].flat).is_persistent);
  CHECK_FALSE(layout.flat(layout.unit(1).parameters[0].flat).is_persistent);
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
