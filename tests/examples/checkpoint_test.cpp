// SPDX-License-Identifier: Apache-2.0
// That a run of train_gpt goes on where it was left: by itself, after it was killed, over other
// ranks, under another strategy; and begins with a model of transformers.
#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "json.hpp"
#include "program.hpp"
#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;

Ended trains(const Words& options) {
  const Ended ended = train(Words{"--quiet"} + options);
  CAPTURE(ended.err);
  REQUIRE(ended.status == 0);
  return ended;
}
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator{folder})
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}
/// A step's folder.
std::string step(const std::string& folder, int number) {
  const std::string digits = std::to_string(number);
  return folder + "/step-" + std::string(12 - digits.size(), '0') + digits;
}

/// What every run here has: a schedule that a wrong step would show in.
const Words schedule{"--lr-schedule", "cosine", "--warmup", "2", "--accumulate", "2"};

TEST_CASE("a run that is resumed repeats one that was never left, to the bit") {
  const std::string whole = fresh("whole.jsonl"), parts = fresh("parts.jsonl");
  for (const char* state : {"sharded", "full", "local"}) {
    CAPTURE(state);
    fs::remove(parts);
    const std::string folder = fresh("checkpoints");
    trains(schedule + Words{"--steps", "7", "--log", whole});
    const Words options =
        schedule + Words{"--checkpoint", folder, "--log", parts, "--state", state};
    // The rate falls over --steps: the first run is one of 7 that is left at the third.
    const Ended left = train(Words{"--quiet", "--steps", "7", "--every", "3"} + options);
    REQUIRE(left.status == 0);
    fs::remove_all(step(folder, 6));
    fs::remove_all(step(folder, 7));
    fs::remove(parts);
    fs::remove(folder + "/latest");
    // `latest` is gone with what it named; a folder can be named instead.
    CHECK(train(options + Words{"--steps", "7", "--resume"}).status == 2);
    trains(schedule + Words{"--checkpoint", step(folder, 3), "--resume", "--steps", "7", "--log",
                            parts, "--state", state});
    const std::vector<std::string> all = steps_of(whole), rest = steps_of(parts);
    REQUIRE(all.size() == 7);
    CHECK(rest == std::vector<std::string>(all.begin() + 3, all.end()));
  }
}

TEST_CASE("a log goes on behind what is there, and says where") {
  const std::string folder = fresh("checkpoints"), log = fresh("log.jsonl");
  trains({"--steps", "2", "--checkpoint", folder, "--log", log});
  const Ended ended = train({"--steps", "4", "--checkpoint", folder, "--log", log, "--resume"});
  REQUIRE(ended.status == 0);
  CHECK(ended.out.find("goes on behind step 2\nstep 3/4 ") != std::string::npos);
  const std::vector<std::string> lines = lines_of(read_file(log));
  REQUIRE(lines.size() == 8);
  CHECK(Json::parse(lines[0])["steps_before"].count() == 0);
  CHECK(Json::parse(lines[4])["steps_before"].count() == 2);
  CHECK(Json::parse(lines[5])["step"].count() == 3);
}

TEST_CASE("other ranks, another strategy, another form go on from any checkpoint") {
  const std::string folder = fresh("checkpoints"), log = fresh("log.jsonl");
  std::vector<std::string> names;
  for (const Listed& strategy : strategies()) names.push_back(strategy.name);
  int done = 2;
  trains({"--steps", "2", "--checkpoint", folder, "--lr", "0.01", "--log", log, "--state", "full"});
  for (const Listed& strategy : strategies())
    for (const char* ranks : {"3", "1"}) {
      CAPTURE(strategy.name);
      trains(strategy.options() + Words{"--steps", std::to_string(done + 1), "--checkpoint", folder,
                                        "--resume", "--lr", "0.01", "--ranks", ranks, "--log", log,
                                        "--keep", "2", "--state",
                                        done % 2 == 0 ? "full" : "sharded"});
      ++done;
      CHECK(names_in(folder).size() == 3);
    }
  const std::vector<std::string> steps = steps_of(log);
  REQUIRE(steps.size() == static_cast<std::size_t>(done));
  const auto loss = [&](const std::string& line) { return std::stod(line.substr(line.find(' '))); };
  CHECK(loss(steps.back()) < loss(steps.front()) - 0.3);
}

TEST_CASE("a run that is killed goes on from the last step that it saved") {
  const std::string whole = fresh("whole.jsonl"), folder = fresh("checkpoints"),
                    log = fresh("log.jsonl");
  trains({"--steps", "40", "--log", whole});
  std::string command;
  for (const std::string& word : tiny() + Words{"--data", text_file(), "--quiet", "--steps", "40",
                                                "--checkpoint", folder, "--every", "1"})
    command += "'" + word + "' ";
  const std::string fifth = step(folder, 5);
  const Ended killed = run({"sh", "-c",
                            command + "& pid=$!; while [ ! -e '" + fifth +
                                "' ]; do sleep 0.01; done; kill -9 $pid; wait $pid"});
  CHECK(killed.status == 128 + 9);
  trains({"--steps", "40", "--checkpoint", folder, "--resume", "--log", log});
  const std::vector<std::string> all = steps_of(whole), rest = steps_of(log);
  REQUIRE(all.size() == 40);
  REQUIRE(rest.size() <= 36);  // `latest` may not have moved yet
  REQUIRE(rest.size() >= 1);
  CHECK(rest ==
        std::vector<std::string>(all.end() - static_cast<std::ptrdiff_t>(rest.size()), all.end()));
}

TEST_CASE("a full checkpoint is a model that a run begins with, and so is transformers'") {
  const std::string folder = fresh("checkpoints"), other = fresh("others"),
                    log = fresh("log.jsonl");
  trains({"--steps", "3", "--checkpoint", folder, "--state", "full"});
  CHECK(names_in(step(folder, 3)) ==
        std::vector<std::string>{"config.json", "manifest.json", "model.safetensors",
                                 "model.safetensors.sums", "optimizer.safetensors",
                                 "optimizer.safetensors.sums"});
  // The sizes come from there: none of these is given.
  const Words bare{TRAIN_GPT, "--data", text_file(), "--quiet", "--batch", "2"};
  const Ended begun = run(bare + Words{"--init", step(folder, 3), "--steps", "1", "--log", log});
  CAPTURE(begun.err);
  REQUIRE(begun.status == 0);
  // The first loss is that of the model, on the batch of a first step.
  const std::string untrained = fresh("untrained.jsonl");
  trains({"--steps", "1", "--log", untrained});
  CHECK(steps_of(log)[0] != steps_of(untrained)[0]);
  const std::string again = fresh("again.jsonl");
  CHECK(run(bare + Words{"--init", step(folder, 3) + "/model.safetensors", "--steps", "1", "--log",
                         again, "--ranks", "2"})
            .status == 0);
  CHECK(steps_of(again) == steps_of(log));
}

/// One line that has `what`, status 2.
void check_refused(const Words& options, const std::string& what) {
  const Ended ended = train(Words{"--quiet"} + options);
  std::string line;
  for (const std::string& word : options) line += word + ' ';
  CAPTURE(line);
  CAPTURE(ended.err);
  CHECK(ended.status == 2);
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.find(what) != std::string::npos);
  CHECK(ended.out == "");
}

TEST_CASE("what cannot be saved to, or gone on from, is refused before anything is trained") {
  const std::string folder = fresh("checkpoints"), log = fresh("log.jsonl");
  trains({"--steps", "2", "--checkpoint", folder});
  const std::string file = make_file("file", "x");
  const Words more{"--steps", "9", "--checkpoint", folder};
  check_refused(more, "give --resume to go on from them");
  check_refused({"--checkpoint", file}, "is not a folder");
  check_refused({"--checkpoint", scratch() / "none/below"}, "is not a folder; make it first");
  check_refused({"--checkpoint", fresh("empty"), "--resume"}, "holds no checkpoint");
  check_refused({"--steps", "2", "--checkpoint", folder, "--resume"}, "is at step 2");
  check_refused(more + Words{"--resume", "--seed", "3"}, "has 1; leave it out");
  check_refused(more + Words{"--resume", "--layers", "2"}, "config.json has 1; leave it out");
  check_refused(more + Words{"--resume", "--init", file}, "--init: a run that is resumed");
  check_refused({"--checkpoint", folder, "--state", "whole"}, "none of sharded, full and local");
  check_refused({"--checkpoint", folder, "--every", "0"}, "--every 0 is out of range");
  for (const char* option : {"--every", "--keep"}) check_refused({option, "2"}, "--checkpoint DIR");
  check_refused({"--resume"}, "--checkpoint DIR");
  check_refused({"--compare", "--checkpoint", folder}, "--compare keeps nothing");
  check_refused({"--trace", log, "--checkpoint", folder}, "leave out --checkpoint");
  check_refused({"--init", scratch() / "none"}, "none");
  check_refused({"--init", file}, "file");
  // A byte that changed.
  const std::string part = step(folder, 2) + "/state-00000-of-00002.safetensors";
  std::string bytes = read_file(part);
  bytes[bytes.size() / 2] ^= 1;
  make_file("checkpoints/step-000000000002/state-00000-of-00002.safetensors", bytes);
  const Ended ended = train(more + Words{"--resume", "--quiet"});
  CHECK(ended.status != 0);
  CHECK(ended.err.find("state-00000-of-00002.safetensors, tensor ") != std::string::npos);
}

}  // namespace
