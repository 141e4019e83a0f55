// SPDX-License-Identifier: Apache-2.0
// Writes into the directory that SHARDEXPR_SEEDS names where the fuzzers begin: the fixture's
// files, a manifest, sums, `latest`.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "manifests.hpp"
#include "stored.hpp"
#include <doctest/doctest.h>

namespace {

/// A folder of the seeds, made.
std::string folder(const char* name) {
  const char* const directory = std::getenv("SHARDEXPR_SEEDS");
  REQUIRE(directory != nullptr);
  const std::string path = std::string{directory} + "/" + name;
  std::filesystem::create_directories(path);
  return path;
}
void put_seed(const std::string& path, const std::string& bytes) {
  put(path, bytes);
  CHECK(content(path) == bytes);
}

}  // namespace

TEST_CASE("seeds for fuzz_safetensors") {
  const std::string directory = folder("safetensors");
  std::size_t count = 0;
  for (const char* const list : {"files", "indexes"})
    for (const StoredCase& stored : stored_cases(list)) {
      const std::string path = directory + "/" + std::to_string(count++);
      put_seed(path, stored.bytes);
      if (stored.bytes.size() > 8) put_seed(path + "-header", stored.bytes.substr(8));
    }
}

TEST_CASE("seeds for fuzz_manifest") {
  using namespace shardexpr::detail;
  const std::string directory = folder("manifest");
  put_seed(directory + "/manifest", some_manifest().text());
  Manifest least;
  least.world = 1;
  put_seed(directory + "/least", least.text());
  // One step below what is refused.
  Manifest most = some_manifest();
  most.step = Manifest::most_steps;
  most.world = Manifest::most_ranks;
  most.moments = Manifest::most_moments;
  most.parameters[0].shape = {std::uint64_t{1} << 31, std::uint64_t{1} << 27};
  put_seed(directory + "/most", most.text());
  put_seed(directory + "/sums", some_sums().text());
  put_seed(directory + "/latest", latest_text(step_folder(3)));
}
