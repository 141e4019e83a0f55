// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/layout.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "../support/grouped_toy.hpp"
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

TEST_CASE("within a flat, parameters are ordered by parameter group, and each group is one run") {
  using Layout = sx::Layout<grouped_toy::Autoencoder>;
  using Ends = std::array<std::size_t, sx::max_parameter_groups>;
  // Every unit a group: encoder with weight (35, group 2) and bias (7, group 1).
  const Layout each{config, 2};
  check_disjoint(each);
  CHECK(each.unit(0).parameters[0].offset == 64);
  CHECK(each.unit(0).parameters[1].offset == 0);
  CHECK(each.flat(0).run_ends == Ends{0, 64, 128, 128});
  CHECK(each.flat(1).run_ends == Ends{64, 128, 128, 128});  // a mixer
  CHECK(each.flat(4).run_ends == Ends{0, 64, 64, 64});      // the decoder, which has one bias
  CHECK(each.unit(4).parameters[1].spec.group == 2);        // the tie's is the owner's

  // The whole in one: three mixers' weights; five biases, in the order of units; the table.
  const Layout whole{config, 3, {.in_root = {true, true, true}}};
  check_disjoint(whole);
  REQUIRE(whole.flat_count() == 1);
  const sx::FlatLayout& flat = whole.flat(0);
  CHECK(flat.run_ends == Ends{3 * 64, 8 * 64, 9 * 64, 9 * 64});
  const auto offset = [&](std::size_t u, std::size_t k) {
    return whole.unit(u).parameters[k].offset / 64;
  };
  for (std::size_t u = 1; u <= 3; ++u) CHECK(offset(u, 0) == u - 1);
  CHECK(offset(0, 1) == 3);
  for (std::size_t u = 1; u <= 3; ++u) CHECK(offset(u, 1) == 3 + u);
  CHECK(offset(4, 0) == 7);
  CHECK(offset(0, 0) == 8);
  // As much memory as without groups.
  CHECK(flat.padded ==
        sx::Layout<toy::Autoencoder>{config, 3, {.in_root = {true, true, true}}}.flat(0).padded);

  // Parts of three ranks, of 192 elements each: none, one or two runs; padding is in none.
  const auto runs = [&](std::size_t begin, std::size_t count) {
    std::vector<std::size_t> all;
    for (std::size_t k = 0; k < sx::max_parameter_groups; ++k) {
      const auto run = flat.run(k, begin, count);
      if (run.count != 0) all.insert(all.end(), {k, run.first, run.count});
    }
    return all;
  };
  using Runs = std::vector<std::size_t>;
  CHECK(flat.part == 192);
  CHECK(runs(0, 192) == Runs{0, 0, 192});
  CHECK(runs(192, 192) == Runs{1, 0, 192});
  CHECK(runs(384, 192) == Runs{1, 0, 128, 2, 128, 64});
  CHECK(runs(128, 128) == Runs{0, 0, 64, 1, 64, 64});
  CHECK(runs(0, 576) == Runs{0, 0, 192, 1, 192, 320, 2, 512, 64});
  CHECK(runs(576, 64).empty());

  CHECK(whole.trains_parameter_group(0));
  CHECK(whole.trains_parameter_group(2));
  CHECK_FALSE(whole.trains_parameter_group(3));
}

// A decoder whose tie says something else than its owner, and a parameter beyond the last group.
struct TiesToDecaying : grouped_toy::Decoder {
  static constexpr Params<sx::Spec> describe(const toy::Config& c) {
    return {toy::Decoder::describe(c).bias,
            sx::in_group(0, sx::tied<grouped_toy::Encoder>("weight"))};
  }
};
struct TiesAsOwner : grouped_toy::Decoder {
  static constexpr Params<sx::Spec> describe(const toy::Config& c) {
    return {toy::Decoder::describe(c).bias,
            sx::in_group(2, sx::tied<grouped_toy::Encoder>("weight"))};
  }
};
struct BeyondTheLast : grouped_toy::Decoder {
  static constexpr Params<sx::Spec> describe(const toy::Config& c) {
    return {sx::in_group(4, toy::Decoder::describe(c).bias),
            sx::tied<grouped_toy::Encoder>("weight")};
  }
};
template <class Last>
struct EndsWith {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<grouped_toy::Encoder, Last>;
};

TEST_CASE("a tie has its owner's parameter group, and there are four") {
  CHECK(sx::Layout<EndsWith<TiesAsOwner>>{config, 1}.unit(1).parameters[1].spec.group == 2);
  CHECK_THROWS_WITH_AS((sx::Layout<EndsWith<TiesToDecaying>>{config, 1}),
                       "parameter weight is in group 0 where it is tied, and in group 2 by its "
                       "owner: leave the group to the owner",
                       sx::ConfigError);
  CHECK_THROWS_WITH_AS((sx::Layout<EndsWith<BeyondTheLast>>{config, 1}),
                       "parameter decoder.bias is in group 4: the last is 3", sx::ConfigError);
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
