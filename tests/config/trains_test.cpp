// SPDX-License-Identifier: Apache-2.0
// from_config trains as files say.
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "../examples/run.hpp"
#include <doctest/doctest.h>

namespace {

/// A text with structure: far more to learn than byte frequencies.
std::string text_file() {
  std::string all;
  for (int i = 0; i < 200; ++i) all += "the quick brown fox jumps over the lazy dog\n";
  return make_file("text", all);
}

const Words tiny{"--layers", "1", "--heads", "2", "--embed", "16", "--context", "16", "--quiet"};

struct Losses {
  double last, first;
};
/// Of the last line, "name: 2 ranks, loss 4.4 after 20 steps, 5.5 in the first".
Losses losses(const std::string& out) {
  const std::size_t last = out.rfind("loss "), first = out.rfind("steps, ");
  REQUIRE(last != out.npos);
  REQUIRE(first != out.npos);
  return {std::atof(out.c_str() + last + 5), std::atof(out.c_str() + first + 7)};
}

std::vector<std::string> names(const char* program) {
  std::vector<std::string> all;
  for (const std::string& line : lines_of(run({program, "--list"}).out))
    if (!line.starts_with(" ")) all.push_back(line.substr(0, line.find(' ')));
  return all;
}

}  // namespace

TEST_CASE("each of the files trains: the loss falls") {
  const std::string data = text_file();
  const auto all = names(FROM_CONFIG);
  CHECK(all.size() == 11);
  for (const std::string& name : all) {
    CAPTURE(name);
    Words words{FROM_CONFIG, "--data", data, "--strategy", name, "--steps", "15", "--lr", "0.01"};
    if (name == "zero3_parameters_on_nvme") {
      std::filesystem::create_directory(scratch() / "nvme");
      words = words + Words{"--nvme", scratch() / "nvme"};
    }
    if (name != "by_file" && !name.starts_with("zero0")) words = words + Words{"--ranks", "2"};
    const Ended ended = run(words + tiny);
    CHECK(ended.status == 0);
    INFO(ended.err);
    if (ended.status != 0) continue;
    const Losses loss = losses(ended.out);
    CHECK(loss.first > 5.4);  // of 256 bytes alike, 5.545
    CHECK(loss.last < loss.first - 0.5);
  }
}

TEST_CASE("the example's own files") {
  const std::string data = text_file();
  for (const std::string& name : names(FROM_CONFIG_EXAMPLE)) {
    const Ended ended =
        run(Words{FROM_CONFIG_EXAMPLE, "--data", data, "--strategy", name, "--steps", "2"} + tiny);
    CHECK(ended.status == 0);
    CHECK(losses(ended.out).last > 0);
  }
}

TEST_CASE("what cannot be trained is refused in a line") {
  const std::string data = text_file();
  const auto refused = [&](const Words& words) {
    const Ended ended = run(Words{FROM_CONFIG} + words);
    CHECK(ended.status == 2);
    CHECK(lines_of(ended.err).size() == 1);
    return ended.err;
  };
  CHECK(refused({}).find("no --data") != std::string::npos);
  CHECK(refused({"--data", data, "--strategy", "x"}).find("is not in this program") !=
        std::string::npos);
  CHECK(refused({"--data", data, "--nvme", "/tmp"}).find("keeps nothing on a disk") !=
        std::string::npos);
  CHECK(refused({"--data", data, "--heads", "3"}).find("does not divide") != std::string::npos);
  CHECK(refused({"--data", data, "--steps", "0"}).find("--steps takes") != std::string::npos);
  CHECK(refused({"--data", data, "--lr", "nan"}).find("--lr takes") != std::string::npos);
  CHECK(refused({"--data", data, "--ranks", "1025"}).find("at most 1024") != std::string::npos);
  // Backward gathers from two neighbours.
  CHECK(refused(Words{"--data", data, "--strategy", "by_file", "--ranks", "3"} + tiny)
            .find("ReshardTo") != std::string::npos);
}
