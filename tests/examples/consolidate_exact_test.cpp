// SPDX-License-Identifier: Apache-2.0
// What a trainer saved goes on to the bit when consolidate has written it anew.
#include <cstddef>
#include <filesystem>
#include <string>

#include "../checkpoint/runs.hpp"
#include "run.hpp"
#include <doctest/doctest.h>

TEST_CASE("texts that the program saved go with a checkpoint, and the index of a set does not") {
  using Trainer =
      sx::Sharded<toy::Autoencoder, sx::FullShard, sx::MixedPrecision<sx::bf16, sx::fp32>>;
  const std::string from = scratch() / "texts", full = scratch() / "texts-full",
                    parts = scratch() / "texts-parts", folder = "/step-000000000000/";
  runs::with_trainers<Trainer>(1, [&](sx::Threads&, Trainer& trainer) {
    sx::save_checkpoint(trainer, from, {.texts = {{"config.json", "{}\n"}}});
  });
  REQUIRE(run({CONSOLIDATE, from, full, "--max-file-bytes", "200"}).status == 0);
  REQUIRE(run({CONSOLIDATE, full, parts, "--sharded", "2"}).status == 0);
  for (const std::string& directory : {full, parts}) {
    CHECK(read_file(directory + folder + "config.json") == "{}\n");
    CHECK(run({INSPECT, "--verify", directory}).status == 0);
  }
  CHECK(std::filesystem::exists(full + folder + "model.safetensors.index.json"));
  CHECK_FALSE(std::filesystem::exists(parts + folder + "model.safetensors.index.json"));
}

TEST_CASE("training goes on from what was consolidated, to the bit") {
  using Trainer =
      sx::Sharded<toy::Autoencoder, sx::FullShard, sx::MixedPrecision<sx::bf16, sx::fp32>>;
  const std::string from = scratch() / "run", full = scratch() / "full",
                    parts = scratch() / "parts";
  const runs::Run saved = runs::save<Trainer>(2, from);
  REQUIRE(run({CONSOLIDATE, from, full, "--dtype", "BF16", "--max-file-bytes", "200"}).status == 0);
  REQUIRE(run({CONSOLIDATE, full, parts, "--sharded", "3"}).status == 0);
  for (const std::string& directory : {full, parts}) {
    CAPTURE(directory);
    const runs::Run loaded = runs::load<Trainer>(2, directory, true);
    CHECK(loaded.kept == saved.kept);
    CHECK(loaded.last == saved.last);
    CHECK(loaded.restored.cursor == "page 7");
  }
}
