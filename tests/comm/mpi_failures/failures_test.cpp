// SPDX-License-Identifier: Apache-2.0
// What becomes of a job over MPI when one of its ranks fails: each other rank says who it was and
// where, and the next job goes on from the last checkpoint as if nothing had been.
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "../../examples/run.hpp"
#include <doctest/doctest.h>

namespace {

constexpr std::size_t world = 3, steps = 4;

std::vector<std::string> words(const std::string& text) {
  std::istringstream in{text};
  std::vector<std::string> all;
  for (std::string word; in >> word;) all.push_back(word);
  return all;
}

struct Job {
  std::string folder;
  explicit Job(const std::string& name) : folder{scratch() / name} {
    std::filesystem::create_directory(folder);
  }
  /// mpirun with `flags` before the program and `rest` behind its first arguments.
  Ended start(const std::string& flags, std::size_t node_ranks,
              const std::string& rest = "") const {
    for (std::size_t rank = 0; rank < world; ++rank) std::filesystem::remove(file(rank));
    return run(words(std::string{MPIRUN} + " -n " + std::to_string(world) + ' ' + flags + ' ' +
                     JOB + ' ' + folder + ' ' + std::to_string(steps) + ' ' +
                     std::to_string(node_ranks) + ' ' + rest));
  }
  std::string file(std::size_t rank) const { return folder + "/rank-" + std::to_string(rank); }
  std::string said(std::size_t rank) const {
    std::string text = read_file(file(rank));
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  }
};

/// What every rank says behind the last step of a job that nothing happens to.
const std::string& weights() {
  static const std::string said = [] {
    const Job job{"whole"};
    REQUIRE(job.start("", 0).status == 0);
    return job.said(0);
  }();
  return said;
}

struct Case {
  std::string fault;
  std::size_t rank, step, collective, node_ranks;
  std::string heard;  // by every other rank
};

TEST_CASE("a rank that fails is named in every other one, and the next job goes on") {
  const std::string gone = " has gone: its process ended or its machine is cut off; ";
  std::size_t number = 0;
  for (const Case& c :
       {Case{"kill", 1, 2, 5, 0, "rank 1" + gone}, Case{"kill", 0, 1, 2, 1, "rank 0" + gone},
        Case{"exit", 2, 3, 9, 2, "rank 2" + gone},
        Case{"throw", 1, 1, 4, 0, "rank 1 left, by an exception of its own; see its messages"},
        Case{"stop", 2, 0, 3, 0, "has not ended within 3 s; rank 2 does not answer"},
        Case{"stall", 2, 2, 2, 1,
             "has not ended within 3 s; rank 2 has enqueued it behind other work, "
             "which has not ended"},
        Case{"stall", 0, 2, 7, 0, "has not ended within 3 s; rank 0 has enqueued"}}) {
    CAPTURE(c.fault);
    CAPTURE(c.rank);
    const Job job{"fault-" + std::to_string(number++)};
    const auto began = std::chrono::steady_clock::now();
    (void)job.start(MPI_FLAGS, c.node_ranks,
                    c.fault + ' ' + std::to_string(c.rank) + ' ' + std::to_string(c.step) + ' ' +
                        std::to_string(c.collective));
    CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds{40});
    for (std::size_t rank = 0; rank < world; ++rank) {
      if (rank == c.rank) continue;
      const std::string said = job.said(rank);
      CAPTURE(said);
      CHECK(said.starts_with("rank " + std::to_string(rank) + ": "));
      CHECK(said.find(c.heard) != std::string::npos);
      CHECK(said.find(" #") != std::string::npos);  // the collective, with its number
      const std::string record =
          job.folder + "/shardexpr-calls.rank-" + std::to_string(rank) + ".txt";
      CHECK(said.find("; this rank's last calls are in " + record) != std::string::npos);
      const std::vector<std::string> lines = lines_of(read_file(record));
      REQUIRE(lines.size() > 2);
      CHECK(lines[1] == "world, seconds before this was written:");
      CHECK(lines.back().find(" #") != std::string::npos);
      // Who computed meanwhile found it out at its next collective; one before it may still have
      // been under way beside the computing, which is then said, too.
      const bool was_in_one = said.find("; next here was ") == std::string::npos ||
                              said.find(" was under way here") != std::string::npos;
      CHECK((read_file(record).find(": under way\n") != std::string::npos) == was_in_one);
    }
    if (c.fault == "throw") CHECK(job.said(c.rank).find("the disk is full") != std::string::npos);
    // What was left behind is good.
    REQUIRE(job.start("", c.node_ranks).status == 0);
    for (std::size_t rank = 0; rank < world; ++rank) CHECK(job.said(rank) == weights());
  }
}

TEST_CASE("as mpirun starts a job, one that is killed ends it, with a message and a status") {
  const Job job{"killed"};
  const Ended ended = job.start("", 0, "kill 1 2 3");
  CHECK(ended.status > 0);
  CHECK((ended.out + ended.err).find("9") != std::string::npos);  // the signal's number
  REQUIRE(job.start("", 0).status == 0);
  CHECK(job.said(0) == weights());
}

}  // namespace
