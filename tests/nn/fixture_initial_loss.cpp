// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "harness.hpp"
#include <doctest/doctest.h>

// The first step of tests/fixtures/gpt_fixture.py, without the engine: losses and the norm of the
// averaged gradient.
namespace {

namespace sx = shardexpr;

// The number that follows the first `"key":` after `from`; `at` moves behind the key.
double number(const std::string& json, const std::string& key, std::size_t& at) {
  at = json.find('"' + key + "\":", at);
  REQUIRE(at != std::string::npos);
  at += key.size() + 3;
  return std::stod(json.substr(json.find_first_not_of(" [\n", at), 30));
}
double number(const std::string& json, const std::string& key) {
  std::size_t at = 0;
  return number(json, key, at);
}

TEST_CASE("gpt: the first step is PyTorch's") {
  const std::string path = SHARDEXPR_FIXTURES_DIR "/gpt_20_steps.json";
  std::ifstream file{path};
  REQUIRE_MESSAGE(file, path);
  std::stringstream text;
  text << file.rdbuf();
  const std::string json = text.str();
  const auto size = [&](const char* key) { return static_cast<std::size_t>(number(json, key)); };
  const sx::GptConfig config{size("vocabulary"), size("context"), size("embed"),
                             size("heads"),      size("layers"),  size("batch")};
  const std::size_t world = size("world");

  harness::GptRun<float> gpt{config};
  gpt.initialize(size("seed"));
  gpt.zero_gradients();
  std::vector<float> losses;
  for (std::size_t rank = 0; rank < world; ++rank) {
    std::vector<std::int32_t> tokens, targets;
    for (std::size_t row = 0; row < config.batch; ++row) {  // the script's formula, step 0
      const std::uint64_t h = sx::mix(rank * config.batch + row);
      std::uint64_t token = (h >> 33) % config.vocabulary;
      for (std::size_t i = 0; i < config.context; ++i) {
        tokens.push_back(static_cast<std::int32_t>(token));
        token = (3 * token + 7 + (sx::mix(h + i) >> 33) % 2) % config.vocabulary;
        targets.push_back(static_cast<std::int32_t>(token));
      }
    }
    losses.push_back(gpt.forward({tokens.data(), targets.data()}));
    gpt.backward({tokens.data(), targets.data()}, 1.0f / static_cast<float>(world));
  }
  double squares = 0;
  for (auto& [name, p] : gpt.parameters)
    for (float g : p.dw.view.span()) squares += static_cast<double>(g) * g;

  std::size_t at = json.find("\"training\"");
  CHECK((losses[0] + losses[1]) / 2 == doctest::Approx(number(json, "loss", at)).epsilon(1e-6));
  CHECK(std::sqrt(squares) == doctest::Approx(number(json, "gradient_norm", at)).epsilon(1e-5));
  CHECK(losses[0] == doctest::Approx(number(json, "rank_losses", at)).epsilon(1e-6));
}

}  // namespace
