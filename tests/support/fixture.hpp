// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/gpt_config.hpp>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <doctest/doctest.h>

/// tests/fixtures/gpt_20_steps.json.
struct Fixture {
  /// Text of another file beside it.
  explicit Fixture(const std::string& name) {
    std::ifstream file{SHARDEXPR_FIXTURES_DIR "/" + name};
    json.assign(std::istreambuf_iterator<char>{file}, {});
    REQUIRE(json.size() > 1000);
  }
  Fixture() : Fixture{"gpt_20_steps.json"} {
    const auto size = [&](const char* key) { return static_cast<std::size_t>(number(key)); };
    config = {size("vocabulary"), size("context"), size("embed"),
              size("heads"),      size("layers"),  size("batch")};
    world = size("world");
    seed = size("seed");
    steps = size("steps");
    training = json.find("\"training\"");
  }

  /// The number that follows the first `"key":` after `at`, which moves behind the key.
  double number(const std::string& key, std::size_t& at) const {
    at = json.find('"' + key + "\":", at);
    REQUIRE(at != std::string::npos);
    at += key.size() + 3;
    return std::stod(json.substr(json.find_first_not_of(" [\n", at), 30));
  }
  double number(const std::string& key) const {
    std::size_t at = 0;
    return number(key, at);
  }

  std::string json;
  shardexpr::GptConfig config;
  std::size_t world = 0, seed = 0, steps = 0;
  std::size_t training = 0;  // where the steps begin in `json`
};
