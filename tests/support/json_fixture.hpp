// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <fstream>
#include <iterator>
#include <string>

#include "../examples/json.hpp"
#include <doctest/doctest.h>

/// A file of tests/fixtures, of one line break at the end.
inline Json json_fixture(const std::string& name) {
  std::ifstream file{SHARDEXPR_FIXTURES_DIR "/" + name};
  std::string text{std::istreambuf_iterator<char>{file}, {}};
  REQUIRE(text.ends_with('\n'));
  text.pop_back();
  return Json::parse(text);
}
