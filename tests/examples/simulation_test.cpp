// SPDX-License-Identifier: Apache-2.0
// simulation as a user meets it, as one process without mpirun: what it refuses, and when it says
// that the closure is not good enough.
#include <filesystem>
#include <string>

#include "run.hpp"
#include <doctest/doctest.h>

namespace {

/// As few and short runs as show something; later options replace these.
Ended simulate(const Words& options) {
  return run(Words{SIMULATION, "--cells", "16", "--time", "0.1", "--tests", "1"} + options);
}

void check_refuses(const Words& options, const std::string& line) {
  const Ended ended = simulate(options);
  CHECK(ended.status == 2);
  CHECK(ended.out == "");
  CHECK(ended.err == "simulation: " + line + "\n");
}

}  // namespace

TEST_CASE("bad options end with one line and status 2") {
  check_refuses({"--cell", "8"}, "unknown option '--cell'; see --help");
  check_refuses({"--cells"}, "--cells takes a value; see --help");
  check_refuses({"--cells", "many"}, "--cells takes a whole number, got 'many'");
  check_refuses({"--cells", "5"}, "--cells 5 is out of range; give 6 to 4096");
  check_refuses({"--lr", "0"}, "--lr 0 is out of range; give 1e-07 to 1");
  check_refuses({"--lr", "nan"}, "--lr nan is out of range; give 1e-07 to 1");
  check_refuses({"--time", "1e999"}, "--time 1e999 is out of range; see --help for the default");
  check_refuses({"--refinement", "3"},
                "--refinement 3 is odd; give an even one: a grid of half the reference's is "
                "compared, too");
  check_refuses({"--diffusivity", "0.1"},
                "--diffusivity 0.1 is more than explicit steps of the reference bear; give at most "
                "0.0078125");
  check_refuses({"--cells", "4096", "--refinement", "64"},
                "--cells times --refinement is 262144; give at most 32768 cells a side of the "
                "reference");
  check_refuses({"--out", scratch() / "nowhere"},
                "--out " + (scratch() / "nowhere") + " is no folder that can be written to");
}

TEST_CASE("help") {
  const Ended ended = simulate({"--help"});
  CHECK(ended.status == 0);
  CHECK(ended.err == "");
  CHECK(ended.out.starts_with("usage: mpirun -n P simulation [options]\n"));
}

TEST_CASE("a closure that learned nothing changes nothing, and is not good enough") {
  const Ended ended = simulate({"--runs", "0", "--assert-gain", "1.01"});
  CAPTURE(ended.out);
  CHECK(ended.status == 1);
  CHECK(ended.out.ends_with("least gain 1.00: LESS THAN ASSERTED\n"));
  CHECK(simulate({"--runs", "0", "--assert-gain", "1"}).status == 0);
}

TEST_CASE("what plot.sh reads is written; a file that cannot be is an error") {
  const std::string folder = scratch() / "out";
  std::filesystem::create_directory(folder);
  CHECK(simulate({"--runs", "1", "--out", folder}).status == 0);
  CHECK(lines_of(read_file(folder + "/reference.txt")).size() == 64);
  CHECK(lines_of(read_file(folder + "/plain.txt")).size() == 16);
  CHECK(lines_of(read_file(folder + "/closed.txt")).size() == 16);
  CHECK(lines_of(read_file(folder + "/errors.txt")).size() == 13);
  CHECK(lines_of(read_file(folder + "/training.txt")).size() == 2);

  std::filesystem::remove(folder + "/plain.txt");
  std::filesystem::create_directory(folder + "/plain.txt");
  const Ended ended = simulate({"--runs", "1", "--out", folder});
  CHECK(ended.status == 1);
  CHECK(ended.err.find("simulation: process 0: " + folder + "/plain.txt cannot be written\n") !=
        std::string::npos);
}
