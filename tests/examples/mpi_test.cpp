// SPDX-License-Identifier: Apache-2.0
// train_gpt_mpi as a user meets it: the same training as over threads, one voice for all ranks, an
// end for all ranks when one of them has ended, and the way on from there with fewer.
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "program.hpp"
#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;

/// The job of `tiny()` in as many processes, as mpirun is told of it.
Words part(int ranks, const Words& options, const std::string& folder = scratch().path()) {
  Words words{"-wdir", folder, "-n", std::to_string(ranks), TRAIN_GPT_MPI};
  const Words& job = tiny();
  words.insert(words.end(), job.begin() + 1, job.end());
  return words + Words{"--data", text_file()} + options;
}
Words over_mpi(int ranks, const Words& options) { return Words{MPIRUN} + part(ranks, options); }
Ended train_over_mpi(int ranks, const Words& options) { return run(over_mpi(ranks, options)); }

/// What the program says, without what mpirun adds.
std::vector<std::string> said(const std::string& err) {
  std::vector<std::string> lines;
  for (const std::string& line : lines_of(err))
    if (line.starts_with("train_gpt")) lines.push_back(line);
  return lines;
}
/// One line of all ranks together, and their status from mpirun.
void check_refused(int ranks, const Words& options, const std::string& what, int status = 2) {
  const Ended ended = train_over_mpi(ranks, options);
  CAPTURE(ended.err);
  CHECK(ended.status == status);
  CHECK(ended.out == "");
  const std::vector<std::string> lines = said(ended.err);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].starts_with("train_gpt_mpi: "));
  CHECK(lines[0].find(what) != std::string::npos);
}

/// The shell's words that run `command`, send `signal` to `rank` when `file` is there, and end with
/// its status.
Words struck_at(const Words& command, const std::string& signal, const std::string& rank,
                const std::string& mark, const std::string& file) {
  std::string line;
  for (const std::string& word : command) line += "'" + word + "' ";
  line += "& job=$!; while [ ! -e '" + file + "' ] && kill -0 $job; do sleep 0.01; done; ";
  line += "for process in /proc/[0-9]*; do if grep -qszF '" + mark + "' $process/cmdline && ";
  line += "grep -qszE '^(OMPI_COMM_WORLD_RANK|PMI_RANK)=" + rank + "$' $process/environ; ";
  line += "then kill -" + signal + " ${process#/proc/}; fi; done; wait $job";
  return {"sh", "-c", line};
}
std::string record_of(const std::string& rank) {
  return scratch() / ("shardexpr-calls.rank-" + rank + ".txt");
}

}  // namespace

TEST_CASE("ranks that are processes train as ranks that are threads, to the last bit") {
  const std::string over_threads = fresh("threads.jsonl"),
                    over_processes = fresh("processes.jsonl");
  const std::vector<Listed> all = [] {
    std::vector<Listed> listed;
    for (const std::string& line : lines_of(run({TRAIN_GPT_MPI, "--list"}).out))
      listed.push_back({line.substr(0, line.find(' ')), line});
    return listed;
  }();
  REQUIRE(all.size() >= 4);
  for (const Listed& strategy : all) {
    CAPTURE(strategy.name);
    CHECK(strategy.type.find("Over<Mpi>") != std::string::npos);
    const Words options{"--strategy", strategy.name, "--accumulate", "2", "--quiet", "--log"};
    for (const int ranks : {2, 3}) {
      if (ranks == 2 && strategy.name != all.front().name) continue;
      const Ended ended = train_over_mpi(ranks, options + Words{over_processes});
      CAPTURE(ended.err);
      REQUIRE(ended.status == 0);
      CHECK(ended.err == "");
      REQUIRE(train(options + Words{over_threads, "--ranks", std::to_string(ranks)}).status == 0);
      const std::vector<std::string> steps = steps_of(over_processes);
      CHECK(steps.size() == 3);
      CHECK(steps == steps_of(over_threads));
    }
  }
}

TEST_CASE("one voice: rank 0 prints lines, whatever mpirun gives it for a terminal") {
  const Ended ended = train_over_mpi(3, {"--steps", "4"});
  CHECK(ended.status == 0);
  CHECK(ended.err == "");
  CHECK(ended.out.find('\033') == std::string::npos);
  const std::vector<std::string> lines = lines_of(ended.out);
  REQUIRE(lines.size() == 2 + 4 + 1);
  CHECK(lines[1].find("7664 parameters, 3 ranks, ") == 0);
  CHECK(lines[6].find("final loss ") == 0);
  const Ended help = run({MPIRUN, "-n", "2", TRAIN_GPT_MPI, "--help"});
  CHECK(help.status == 0);
  CHECK(help.out.starts_with("usage: train_gpt_mpi --data FILE"));
  CHECK(help.out.find("usage:", 1) == std::string::npos);
  CHECK(help.out.find("--trace") == std::string::npos);
}

TEST_CASE("the plan equals the run over MPI, too") {
  const Ended ended = train_over_mpi(2, {"--compare", "--steps", "1"});
  CAPTURE(ended.out);
  CHECK(ended.status == 0);
  CHECK(ended.out.ends_with("the plan equals the run to the byte\n"));
}

TEST_CASE("--async changes when things run, not what they give") {
  const std::string plain = fresh("plain.jsonl"), async = fresh("async.jsonl");
  REQUIRE(train_over_mpi(2, {"--log", plain}).status == 0);
  REQUIRE(train_over_mpi(2, {"--log", async, "--async"}).status == 0);
  CHECK(steps_of(async) == steps_of(plain));
}

TEST_CASE("what cannot be trained is refused once, with the status of every rank") {
  const std::string log = fresh("log.jsonl");
  check_refused(3, {"--steps", "0", "--log", log}, "--steps 0 is out of range");
  check_refused(3, {"--no-such"}, "unknown option '--no-such'");
  check_refused(3, {"--data", scratch() / "missing"}, "No such file or directory");
  check_refused(2, {"--ranks", "3"}, "--ranks 3: MPI started 2; leave it out");
  check_refused(2, {"--trace", log}, "--trace is of ranks in one process");
  check_refused(2, {"--deadline", "0"}, "--deadline is a time in seconds; give 0.1 to 1000000");
  check_refused(2, {"--deadline", "nan"}, "--deadline is a time in seconds");
  check_refused(2, {"--strategy", "nix"}, "it has full_shard, ");
  check_refused(2, {"--log", scratch() / "missing/log"},
                "cannot be written");  // rank 0 alone sees it
  check_refused(2, {"--checkpoint", fresh("none"), "--resume"}, "holds no checkpoint");
  check_refused(2, {"--lr", "1e30", "--steps", "50", "--quiet"}, "not finite", 1);
  CHECK_FALSE(fs::exists(log));
  CHECK(train_over_mpi(2, {"--ranks", "2", "--steps", "1"}).status == 0);
  // What only one rank cannot do, and ranks that were started otherwise.
  const std::string one = scratch() / "one", here = fs::current_path().string();
  fs::create_directory(one);
  fs::copy_file(text_file(), one + "/relative_text", fs::copy_options::overwrite_existing);
  const Words relative{"--data", "relative_text"};
  const Ended missing =
      run(Words{MPIRUN} + part(1, relative, one) + Words{":"} + part(1, relative, here));
  CAPTURE(missing.err);
  CHECK(missing.status == 2);
  REQUIRE(said(missing.err).size() == 1);
  CHECK(said(missing.err)[0].starts_with("train_gpt_mpi: rank 1: --data relative_text"));
  const Ended otherwise =
      run(Words{MPIRUN} + part(1, {"--seed", "1"}) + Words{":"} + part(1, {"--seed", "2"}));
  CHECK(otherwise.status == 2);
  REQUIRE(said(otherwise.err).size() == 1);
  CHECK(said(otherwise.err)[0].find("rank 1 was started with other options") != std::string::npos);
}

TEST_CASE("a full disk under rank 0's output ends every rank with 1") {
  if (!fs::exists("/dev/full")) return;
  // mpirun reads what ranks print; a rank finds its log full.
  check_refused(2, {"--log", "/dev/full", "--quiet"}, "/dev/full: writing failed", 1);
}

TEST_CASE("a checkpoint of three processes goes on in two, as it does in two threads") {
  const std::string folder = fresh("checkpoints"), copy = fresh("copy");
  const std::string log = fresh("log.jsonl"), over_threads = fresh("threads.jsonl");
  REQUIRE(train_over_mpi(3, {"--checkpoint", folder, "--quiet"}).status == 0);
  fs::copy(folder, copy, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  const Words more{"--steps", "6", "--resume", "--quiet", "--checkpoint"};
  const Ended ended = train_over_mpi(2, more + Words{folder, "--log", log});
  CAPTURE(ended.err);
  REQUIRE(ended.status == 0);
  REQUIRE(train(more + Words{copy, "--log", over_threads, "--ranks", "2"}).status == 0);
  CHECK(steps_of(log).size() == 3);
  CHECK(steps_of(log) == steps_of(over_threads));
}

/// What a run that was struck left is gone on from by two ranks.
void check_goes_on(const std::string& folder) {
  const Words rest{"--quiet", "--checkpoint", folder, "--resume", "--steps"};
  const Ended refused = train_over_mpi(2, rest + Words{"1"});  // it is further on
  CAPTURE(refused.err);
  CHECK(refused.status == 2);
  REQUIRE(said(refused.err).size() == 1);
  const std::string at = " is at step ", line = said(refused.err)[0];
  const std::size_t found = line.find(at);
  REQUIRE(found != std::string::npos);
  const int reached = std::stoi(line.substr(found + at.size()));
  CHECK(reached >= 2);
  const std::string log = fresh("rest.jsonl");
  const Ended ended = train_over_mpi(2, rest + Words{std::to_string(reached + 2), "--log", log});
  CAPTURE(ended.err);
  CHECK(ended.status == 0);
  CHECK(steps_of(log).size() == 2);
}

TEST_CASE("a rank that is killed ends the job; those that are left go on from what it saved") {
  for (const char* rank : {"0", "2"}) {
    CAPTURE(rank);
    const std::string folder = fresh("checkpoints");
    const Words command =
        over_mpi(3, {"--quiet", "--steps", "5000", "--checkpoint", folder, "--every", "1"});
    const Ended killed =
        run(struck_at(command, "KILL", rank, folder, folder + "/step-000000000003"));
    CAPTURE(killed.err);
    CHECK(killed.status > 0);
    CHECK(killed.out.find("final loss") == std::string::npos);
    CHECK(killed.out + killed.err != "");  // MPICH speaks on standard output
    check_goes_on(folder);
  }
}

TEST_CASE("where mpirun lets them, the other ranks say which one was killed") {
  if (!IS_OPEN_MPI) return;  // MPICH's mpirun ends them at once, whatever it is told
  fs::remove(record_of("0"));
  const std::string folder = fresh("checkpoints");
  Words command =
      over_mpi(3, {"--quiet", "--steps", "5000", "--checkpoint", folder, "--every", "1"});
  command.insert(command.begin() + 1, {"--mca", "orte_abort_on_non_zero_status", "0"});
  const Ended killed = run(struck_at(command, "KILL", "2", folder, folder + "/step-000000000003"));
  CAPTURE(killed.err);
  CHECK(killed.status > 0);
  REQUIRE(said(killed.err).size() >= 1);
  CHECK(said(killed.err)[0].starts_with(
      "train_gpt_mpi: rank 0: rank 2 has gone: its process ended or its machine is cut off"));
  CHECK(read_file(record_of("0")).find("rank 2 has gone") != std::string::npos);
}

TEST_CASE("a rank that hangs is named when --deadline is over") {
  const std::string folder = fresh("checkpoints");
  const Words command = over_mpi(3, {"--quiet", "--steps", "5000", "--checkpoint", folder,
                                     "--every", "1", "--deadline", "1.5"});
  const Ended struck = run(struck_at(command, "STOP", "1", folder, folder + "/step-000000000003"));
  CAPTURE(struck.err);
  CHECK(struck.status == 1);
  REQUIRE(said(struck.err).size() >= 1);
  CHECK(said(struck.err)[0].starts_with("train_gpt_mpi: rank 0: "));
  CHECK(said(struck.err)[0].find(" has not ended within 1.5 s") != std::string::npos);
  CHECK(said(struck.err)[0].find("; rank 1 does not answer") != std::string::npos);
  CHECK(said(struck.err)[0].find("; this rank's last calls are in ./shardexpr-calls.rank-0.txt") !=
        std::string::npos);
  check_goes_on(folder);
}
