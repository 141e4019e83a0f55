// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "../support/fixture.hpp"
#include "../support/formula_batch.hpp"
#include "rounding.hpp"
#include <doctest/doctest.h>

// One forward and backward in bf16 beside PyTorch's (tests/fixtures/gpt_bf16_fixture.py).
namespace {

namespace sx = shardexpr;

struct Bf16Fixture {
  std::string json;

  Bf16Fixture() {
    std::ifstream file{SHARDEXPR_FIXTURES_DIR "/gpt_bf16.json"};
    json.assign(std::istreambuf_iterator<char>{file}, {});
    REQUIRE(json.size() > 1000);
  }
  /// The number that follows the first `"key":` after the first `"part":`.
  double number(const std::string& part, const std::string& key) const {
    std::size_t at = json.find('"' + part + "\":");
    REQUIRE(at != std::string::npos);
    at = json.find('"' + key + "\":", at);
    REQUIRE(at != std::string::npos);
    return std::stod(json.substr(at + key.size() + 3, 30));
  }
  std::size_t size(const std::string& key) const {
    return static_cast<std::size_t>(number("config", key));
  }
};

// Both sides round: of what each may be off, the squares add. PyTorch in fp32 is exact beside that.
template <class G>
void compare() {
  const Bf16Fixture fixture;
  const sx::GptConfig config{fixture.size("vocabulary"), fixture.size("context"),
                             fixture.size("embed"),      fixture.size("heads"),
                             fixture.size("layers"),     fixture.size("batch")};
  harness::GptRun<sx::bf16, G> gpt{config};
  gpt.initialize(static_cast<std::uint64_t>(fixture.number("config", "seed")));
  gpt.zero_gradients();
  std::vector<std::int32_t> tokens, targets;
  formula_batch(config, 1, 0, 0, tokens, targets);
  const float loss = gpt.forward({tokens.data(), targets.data()});
  gpt.backward({tokens.data(), targets.data()}, 1);

  const double error = harness::gradient_error_in<sx::bf16>(config);
  struct Other {
    const char* name;
    double error;
  };
  const Other others[] = {{"bf16", error * std::sqrt(2.0)}, {"fp32", error}};
  for (const Other& other : others) {
    CAPTURE(other.name);
    CHECK(std::abs(static_cast<double>(loss) - fixture.number(other.name, "loss")) <
          other.error * harness::loss_of_logit_error(config));
  }
  for (auto& entry : gpt.parameters) {
    const std::string& name = entry.first;
    CAPTURE(name);
    double squares = 0;
    for (const G g : entry.second.dw.view.span()) squares += std::pow(static_cast<double>(g), 2);
    for (const Other& other : others) {
      CAPTURE(other.name);
      const double norm = fixture.number(other.name, name);
      CHECK(std::abs(std::sqrt(squares) - norm) < other.error * norm);
    }
  }
}

TEST_CASE("gpt: a forward and backward in bf16 are PyTorch's") {
  compare<float>();
  compare<sx::bf16>();
}

}  // namespace
