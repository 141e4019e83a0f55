// SPDX-License-Identifier: Apache-2.0
// Writes the fixture's files into the directory that SHARDEXPR_SEEDS names: where a fuzzer begins.
#include <cstdlib>
#include <filesystem>
#include <string>

#include "stored.hpp"
#include <doctest/doctest.h>

TEST_CASE("seeds for fuzz_safetensors") {
  const char* const directory = std::getenv("SHARDEXPR_SEEDS");
  REQUIRE(directory != nullptr);
  std::filesystem::create_directories(directory);
  std::size_t count = 0;
  for (const char* const list : {"files", "indexes"})
    for (const StoredCase& stored : stored_cases(list)) {
      const std::string path = std::string{directory} + "/" + std::to_string(count++);
      put(path, stored.bytes);
      CHECK(content(path) == stored.bytes);
      if (stored.bytes.size() > 8) put(path + "-header", stored.bytes.substr(8));
    }
}
