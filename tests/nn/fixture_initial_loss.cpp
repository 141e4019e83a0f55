// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../support/fixture.hpp"
#include "../support/formula_batch.hpp"
#include "harness.hpp"
#include <doctest/doctest.h>

// The first step of tests/fixtures/gpt_fixture.py, without the engine: losses and the norm of the
// averaged gradient.
namespace {

namespace sx = shardexpr;

TEST_CASE("gpt: the first step is PyTorch's") {
  const Fixture fixture;
  const sx::GptConfig& config = fixture.config;
  const std::size_t world = fixture.world;

  harness::GptRun<float> gpt{config};
  gpt.initialize(fixture.seed);
  gpt.zero_gradients();
  std::vector<float> losses;
  for (std::size_t rank = 0; rank < world; ++rank) {
    std::vector<std::int32_t> tokens, targets;
    formula_batch(config, world, 0, rank, tokens, targets);
    losses.push_back(gpt.forward({tokens.data(), targets.data()}));
    gpt.backward({tokens.data(), targets.data()}, 1.0f / static_cast<float>(world));
  }
  double squares = 0;
  for (auto& [name, p] : gpt.parameters)
    for (float g : p.dw.view.span()) squares += static_cast<double>(g) * g;

  std::size_t at = fixture.training;
  CHECK((losses[0] + losses[1]) / 2 == doctest::Approx(fixture.number("loss", at)).epsilon(1e-6));
  CHECK(std::sqrt(squares) == doctest::Approx(fixture.number("gradient_norm", at)).epsilon(1e-5));
  CHECK(losses[0] == doctest::Approx(fixture.number("rank_losses", at)).epsilon(1e-6));
}

}  // namespace
