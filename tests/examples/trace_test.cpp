// SPDX-License-Identifier: Apache-2.0
// What train_gpt --trace writes, and that a run with it is the same run.
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "../support/trace_events.hpp"
#include "program.hpp"
#include <doctest/doctest.h>

namespace {

// A program that was built without it says so.
bool has_trace() {
  static const bool has = [] {
    const Ended ended = train({"--trace", scratch() / "probe.json"});
    if (ended.status == 0) return true;
    CHECK(ended.status == 2);
    CHECK(ended.err ==
          "train_gpt: --trace is not in this program; build it with -DTRAIN_GPT_TRACE=ON\n");
    CHECK_FALSE(std::filesystem::exists(scratch() / "probe.json"));
    return false;
  }();
  return has;
}

void check_refused(const Words& options, const std::string& what, int status = 2) {
  const Ended ended = train(options);
  CAPTURE(what);
  CAPTURE(ended.err);
  CHECK(ended.status == status);
  CHECK(ended.out == "");
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.starts_with("train_gpt: "));
  CHECK(ended.err.find(what) != std::string::npos);
}

/// A log without its times.
std::string curve(const std::string& path) {
  std::string all;
  for (const std::string& line : lines_of(read_file(path))) {
    const std::size_t at = line.find(",\"tokens_per_s\"");
    all += line.substr(0, at);
    if (at != std::string::npos) all += line.substr(line.find(',', at + 1));
    all += '\n';
  }
  return all;
}

}  // namespace

TEST_CASE("--trace: a process a rank, its collectives by name, every strategy the same run") {
  if (!has_trace()) return;
  const std::string path = scratch() / "trace.json";
  for (const Listed& listed : strategies()) {
    if (!listed.type.ends_with(", On<Cpu>, Over<Threads>>")) continue;
    for (const std::size_t ranks : {1, 3}) {
      const std::string& strategy = listed.name;
      CAPTURE(strategy);
      CAPTURE(ranks);
      const Words options = listed.options() + Words{"--ranks", std::to_string(ranks), "--log"};
      const std::string plain = scratch() / "plain.jsonl", traced = scratch() / "traced.jsonl";
      const Ended without = train(options + Words{plain, "--quiet"});
      const Ended with = train(options + Words{traced, "--quiet", "--trace", path});
      REQUIRE(with.status == 0);
      CHECK(without_notices(with.err) == "");
      CHECK(with.out == without.out);
      CHECK(curve(traced) == curve(plain));

      const TraceEvents events{read_file(path)};
      CHECK(events.dropped_events == 0);
      REQUIRE(events.processes.size() == ranks);
      std::set<std::string> collectives;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        CHECK(events.processes.at(rank) == "rank " + std::to_string(rank));
        std::set<std::string> names;
        for (const auto& [thread, stream] : events.streams)
          if (thread.first == rank)
            for (const auto& slice : stream.operations) names.insert(slice.name);
        CHECK(names.contains("all_gather"));  // the summary of each step
        CHECK(names.contains("embedding_forward"));
        CHECK(names.contains("linear_backward_params"));
        for (const std::string name : {"gather", "reduce_scatter", "all_reduce"})
          if (names.contains(name)) collectives.insert(name);
      }
      if (strategy == "full_shard")
        CHECK(collectives == std::set<std::string>{"gather", "reduce_scatter"});
      if (strategy == "no_shard") CHECK(collectives == std::set<std::string>{"all_reduce"});
    }
  }
}

TEST_CASE("--trace: what no longer fits is counted on standard error") {
  if (!has_trace()) return;
  const std::string path = scratch() / "long.json";
  const Ended ended = train({"--layers", "8", "--ranks", "1", "--batch", "1", "--steps", "600",
                             "--quiet", "--trace", path});
  REQUIRE(ended.status == 0);
  CHECK(lines_of(ended.out).size() == 1);
  const TraceEvents events{read_file(path)};
  CHECK(events.dropped_events > 0);
  CHECK(ended.err == "train_gpt: --trace " + path + " lacks " +
                         std::to_string(events.dropped_events) +
                         " events: each stream keeps its first 65536; take fewer --steps\n");
}

TEST_CASE("--trace: what is refused, and that it leaves no file") {
  if (!has_trace()) return;
  const std::string fresh = scratch() / "fresh.json", log = scratch() / "fresh.jsonl";
  check_refused({"--trace"}, "--trace takes a value; see --help");
  check_refused({"--trace", ""}, "--trace takes a value; see --help");
  check_refused({"--compare", "--trace", fresh}, "--compare writes no trace; leave out --trace");
  check_refused({"--trace", text_file()}, "is the file of --data; name another");
  CHECK(read_file(text_file()) == text());
  check_refused({"--trace", fresh, "--log", fresh}, "is the file of --log; name another");
  check_refused({"--trace", scratch() / "./fresh.json", "--log", fresh}, "is the file of --log");
  check_refused({"--trace", scratch() / "missing/t.json", "--log", log}, "cannot be written: No s");
  check_refused({"--trace", scratch() / "", "--log", log}, "cannot be written: Is a directory");
  check_refused({"--trace", fresh, "--log", scratch() / "missing/log"}, "--log ");
  check_refused({"--trace", fresh, "--data", scratch() / "missing"}, "No such file");
  check_refused({"--trace", fresh, "--lr", "1e30", "--steps", "50", "--quiet"}, "not finite", 1);
  CHECK_FALSE(std::filesystem::exists(fresh));
  CHECK_FALSE(std::filesystem::exists(log));
  // Relative names, of files that are not there yet.
  check_refused({"--trace", "fresh_relative.json", "--log", "./fresh_relative.json"},
                "is the file of --log");
  CHECK_FALSE(std::filesystem::exists("fresh_relative.json"));

  // An old file stays as it was until the run has ended well.
  const std::string old = make_file("old.json", std::string(1'000'000, 'x'));
  check_refused({"--trace", old, "--lr", "1e30", "--steps", "50", "--quiet"}, "not finite", 1);
  CHECK(read_file(old) == std::string(1'000'000, 'x'));
  REQUIRE(train({"--trace", old}).status == 0);
  CHECK_NOTHROW(TraceEvents{read_file(old)});
  if (std::filesystem::exists("/dev/full"))
    check_refused({"--trace", "/dev/full", "--quiet"}, "/dev/full: writing failed: No space left",
                  1);
}
