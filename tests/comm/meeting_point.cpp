// SPDX-License-Identifier: Apache-2.0
// How processes of a job find each other: what launchers say, TCP, a file, and everybody who does
// not come. Ranks are threads here; what they share is the network and the disk alone.
#include <shardexpr/comm/meeting_point.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "../support/scratch.hpp"
#include "free_port.hpp"
#include "watchdog.hpp"
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>

namespace shardexpr::testing {
namespace {

using std::chrono::milliseconds;

std::map<std::string, std::string> variables;
const char* some_environment(const char* name) {
  const auto found = variables.find(name);
  return found == variables.end() ? nullptr : found->second.c_str();
}
std::string refusal() {
  try {
    (void)launched_by_environment(some_environment);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("what torchrun says") {
  variables = {{"RANK", "5"},           {"WORLD_SIZE", "8"},        {"LOCAL_RANK", "1"},
               {"MASTER_ADDR", "head"}, {"MASTER_PORT", "29500"},   {"TORCHELASTIC_RUN_ID", "job"},
               {"SLURM_PROCID", "77"},  {"SHARDEXPR_MEET_FILE", ""}};
  const Launched launched = launched_by_environment(some_environment);
  CHECK(launched.rank == 5);
  CHECK(launched.world == 8);
  CHECK(launched.local_rank == 1);
  CHECK(launched.address == "head");
  CHECK(launched.port == 29500);
  CHECK(launched.job == "job");
  CHECK(launched.file == "");
  // torchrun's agent listens at that port itself, where it says so.
  variables["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  CHECK(launched_by_environment(some_environment).port == 29501);
  variables["MASTER_PORT"] = "65535";
  CHECK(launched_by_environment(some_environment).port == 65534);
  variables["TORCHELASTIC_USE_AGENT_STORE"] = "False";
  CHECK(launched_by_environment(some_environment).port == 65535);
}

TEST_CASE("what Slurm says") {
  variables = {{"SLURM_PROCID", "2"},  {"SLURM_NTASKS", "4"},
               {"SLURM_LOCALID", "0"}, {"SLURM_JOB_ID", "1234567"},
               {"SLURM_STEP_ID", "3"}, {"SLURM_STEP_NODELIST", "gpu[03-05,9],login"}};
  Launched launched = launched_by_environment(some_environment);
  CHECK(launched.rank == 2);
  CHECK(launched.world == 4);
  CHECK(launched.local_rank == 0);
  CHECK(launched.address == "gpu03");
  CHECK(launched.port == 20000 + 1234567 % 20000);
  CHECK(launched.job == "1234567.3");
  variables["MASTER_ADDR"] = "10.0.0.1";
  variables["MASTER_PORT"] = "4000";
  launched = launched_by_environment(some_environment);
  CHECK(launched.address == "10.0.0.1");
  CHECK(launched.port == 4000);
  variables["SHARDEXPR_MEET_FILE"] = "/shared/meet";
  CHECK(launched_by_environment(some_environment).file == "/shared/meet");

  CHECK(detail::first_host("one") == "one");
  CHECK(detail::first_host("one,two[1-3]") == "one");
  CHECK(detail::first_host("n[7,9]") == "n7");
  CHECK(detail::first_host("rack[01-02]-ib,x") == "rack01-ib");
}

TEST_CASE("an environment that says too little, or nonsense") {
  variables = {};
  CHECK(refusal() ==
        "neither $RANK nor $SLURM_PROCID is set: start the program by torchrun or srun, or set "
        "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT");
  variables = {{"RANK", "0"}};
  CHECK(refusal() == "$WORLD_SIZE is not set; a launcher sets it to a number from 1 to 1000000");
  variables["WORLD_SIZE"] = "0";
  CHECK(refusal() == "$WORLD_SIZE is '0'; a launcher sets it to a number from 1 to 1000000");
  variables["WORLD_SIZE"] = "2";
  for (const char* rank : {"2", "-1", "", "1x", " 1"}) {
    variables["RANK"] = rank;
    CHECK(refusal() ==
          "$RANK is '" + std::string{rank} + "'; a launcher sets it to a number from 0 to 1");
  }
  variables["RANK"] = "1";
  CHECK(refusal() == "$MASTER_ADDR is not set; set it to the host of rank 0");
  variables["MASTER_ADDR"] = "head";
  CHECK(refusal() == "$MASTER_PORT is not set; a launcher sets it to a number from 1 to 65535");
  variables["MASTER_PORT"] = "65536";
  CHECK(refusal() == "$MASTER_PORT is '65536'; a launcher sets it to a number from 1 to 65535");
  variables = {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}};
  CHECK(refusal() ==
        "neither $MASTER_ADDR nor $SLURM_STEP_NODELIST is set; set MASTER_ADDR to the host of rank "
        "0");
}

// Meeting -----------------------------------------------------------------------------------------

using Bytes = std::array<std::byte, 128>;
Bytes pattern(int of) {
  Bytes bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(static_cast<std::size_t>(of) * 7 + i);
  return bytes;
}

struct Met {
  Bytes bytes = pattern(1);
  std::string error;
};
Met meet(const Launched& launched, milliseconds patience) {
  Met met;
  if (launched.rank == 0) met.bytes = pattern(9);
  try {
    share_bytes(launched, met.bytes, patience);
  } catch (const CommError& error) {
    met.error = error.what();
  }
  return met;
}
/// Each on a thread of its own; `late` ones begin after a while.
std::vector<Met> meet_all(const std::vector<Launched>& ranks, milliseconds patience,
                          std::size_t late = 0) {
  std::vector<Met> met(ranks.size());
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < ranks.size(); ++i)
    threads.emplace_back([&, i] {
      if (i == late) std::this_thread::sleep_for(milliseconds{60});
      met[i] = meet(ranks[i], patience);
    });
  threads.clear();
  return met;
}

struct Tcp {
  const std::uint16_t port = free_port();
  Launched rank(std::size_t r, std::size_t world) const {
    Launched launched{.rank = r, .world = world};
    launched.address = "127.0.0.1";
    launched.port = port;
    launched.job = "tests";
    return launched;
  }
  bool is_clean() const { return true; }
};
struct File {
  Scratch scratch;
  Launched rank(std::size_t r, std::size_t world) const {
    Launched launched{.rank = r, .world = world};
    launched.file = scratch.path() + "/meet";
    launched.job = "tests";
    return launched;
  }
  bool is_clean() const { return scratch.is_empty(); }
};

TEST_CASE_TEMPLATE("every rank gets the bytes of rank 0, whoever is late", Way, Tcp, File) {
  const Watchdog watchdog{"meeting", std::chrono::seconds{100}};
  for (const std::size_t world : {1, 2, 5})
    for (const std::size_t late : {std::size_t{0}, world - 1}) {
      const Way way;
      std::vector<Launched> ranks;
      for (std::size_t r = 0; r < world; ++r) ranks.push_back(way.rank(r, world));
      for (const Met& met : meet_all(ranks, milliseconds{20'000}, late)) {
        CHECK(met.error == "");
        CHECK(met.bytes == pattern(9));
      }
      CHECK(way.is_clean());
    }
}

TEST_CASE_TEMPLATE("who does not come is named", Way, Tcp, File) {
  const Watchdog watchdog{"missing ranks", std::chrono::seconds{100}};
  const Way way;
  const auto met = meet_all({way.rank(0, 4), way.rank(2, 4)}, milliseconds{300});
  CAPTURE(met[0].error);
  CHECK(met[0].error.starts_with("rank 0: of 4 ranks 1, 3 did not come to "));
  CHECK(met[0].error.find(" within 0.3 s; see whether they started") != std::string::npos);
  const Met alone = meet(way.rank(3, 4), milliseconds{200});
  CAPTURE(alone.error);
  CHECK(alone.error.starts_with("rank 3: "));
  CHECK(alone.error.find(" within 0.2 s") != std::string::npos);
  CHECK(alone.bytes == pattern(1));
}

TEST_CASE_TEMPLATE("worlds that differ are told apart", Way, Tcp, File) {
  const Watchdog watchdog{"worlds", std::chrono::seconds{100}};
  const Way way;
  const auto met = meet_all({way.rank(0, 2), way.rank(1, 3)}, milliseconds{400});
  CAPTURE(met[1].error);
  CHECK(met[1].error.find("of a job of 2 ranks, this process of 3") != std::string::npos);
  CHECK_FALSE(met[0].error.empty());
}

TEST_CASE("by TCP: one rank twice, strangers, another job, a port that is taken") {
  const Watchdog watchdog{"faults of TCP", std::chrono::seconds{100}};
  {
    const Tcp way;
    const auto met =
        meet_all({way.rank(0, 3), way.rank(1, 3), way.rank(1, 3)}, milliseconds{2000}, 9);
    CHECK(met[0].error == "rank 0: two processes call themselves rank 1; start each rank once");
  }
  {
    const Tcp way;
    std::vector<Met> met;
    std::jthread job{[&] {
      met = meet_all({way.rank(0, 2), way.rank(1, 2)}, milliseconds{20'000}, 1);
    }};
    // Who says nothing, who says something else, and who is of another job.
    std::this_thread::sleep_for(milliseconds{20});
    for (const char* text : {"", "GET / HTTP/1.1\r\n\r\n________________________"}) {
      const detail::Descriptor socket{::socket(AF_INET, SOCK_STREAM, 0)};
      sockaddr_in to{};
      to.sin_family = AF_INET;
      to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      to.sin_port = htons(way.port);
      if (::connect(socket.number(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0)
        (void)detail::send_all(socket.number(), text, std::strlen(text),
                               std::chrono::steady_clock::now() + std::chrono::seconds{1});
    }
    Launched other = way.rank(1, 2);
    other.job = "another";
    CHECK_FALSE(meet(other, milliseconds{100}).error.empty());
    job.join();
    for (const Met& m : met) CHECK(m.error == "");
  }
  {
    const Tcp way;
    const detail::Descriptor taken{::socket(AF_INET, SOCK_STREAM, 0)};
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(way.port);
    REQUIRE(::bind(taken.number(), reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    REQUIRE(::listen(taken.number(), 1) == 0);
    CHECK(meet(way.rank(0, 2), milliseconds{200}).error ==
          "rank 0: cannot listen on port " + std::to_string(way.port) +
              ": Address already in use; set MASTER_PORT to a free one on every rank");
  }
  {
    Launched lost{.rank = 1, .world = 2};
    lost.address = "no-such-host.invalid";
    lost.port = 1;
    const std::string error = meet(lost, milliseconds{100}).error;
    CAPTURE(error);
    CHECK(error.starts_with("rank 1: rank 0 was not reached at no-such-host.invalid:1 within"));
  }
}

TEST_CASE("by a file: what an earlier run left is not believed") {
  const Watchdog watchdog{"stale files", std::chrono::seconds{100}};
  const File way;
  // Rank 0 of an earlier run of this very job was killed; rank 1 finds its file first.
  const detail::MeetingFile stale{{.world = 2, .job = detail::mark_of("tests"), .bytes = 128}, 77};
  REQUIRE(detail::write_whole(way.rank(0, 2).file, stale, pattern(3)));
  REQUIRE(detail::write_whole(way.rank(0, 2).file + ".1", stale, {}));
  const auto met = meet_all({way.rank(0, 2), way.rank(1, 2)}, milliseconds{20'000}, 0);
  for (const Met& m : met) {
    CHECK(m.error == "");
    CHECK(m.bytes == pattern(9));
  }
  CHECK(way.is_clean());
  // Nor is half of one, or one of another job.
  const detail::MeetingFile other{{.world = 2, .job = 1, .bytes = 128}, 78};
  REQUIRE(detail::write_whole(way.rank(0, 2).file, other, pattern(3)));
  CHECK(meet(way.rank(1, 2), milliseconds{100}).error.find(" is of another job within 0.1 s") !=
        std::string::npos);
  std::filesystem::resize_file(way.rank(0, 2).file, 60);
  CHECK(meet(way.rank(1, 2), milliseconds{100}).error.find(" is not there within 0.1 s") !=
        std::string::npos);
}

TEST_CASE("by a file: a directory that is not there") {
  Launched launched{.rank = 0, .world = 2};
  launched.file = "/no/such/directory/meet";
  CHECK(meet(launched, milliseconds{100}).error ==
        "rank 0: /no/such/directory/meet cannot be written: No such file or directory; name a file "
        "in a directory that every rank sees");
}

}  // namespace
}  // namespace shardexpr::testing
