// SPDX-License-Identifier: Apache-2.0
// What processes of a job tell each other when one of them cannot go on. Real processes, killed and
// stopped; the communicators that they watch do nothing.
#include <shardexpr/comm/watch.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../support/scratch.hpp"
#include "free_port.hpp"
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace shardexpr::testing {
namespace {

using std::chrono::milliseconds;

/// Ends the process when a test hangs. Without a thread: ThreadSanitizer lets no process start one
/// that was forked beside others.
struct Alarm {
  Alarm() { ::alarm(100); }
  ~Alarm() { ::alarm(0); }
};

/// A communicator whose calls begin and end when the test says so.
class Quiet : public detail::Watched {
 public:
  using Watched::Watched;
  std::atomic<std::uint64_t> begun{0}, ended{0};
  std::atomic<bool> is_aborted{false}, is_broken{false}, is_left{false};
  std::function<void()> when_asked{[] {}};

  Progress progress() const {
    const Progress now{begun, ended};
    when_asked();
    return now;
  }
  Error error() {
    if (is_broken) return {"the cable is out", false};
    if (is_left) return {"a peer is gone", true};
    return {};
  }
  void abort() noexcept { is_aborted = true; }

  void call(std::uint64_t number) {
    log().add(detail::Call{.collective = detail::Collective::barrier, .sequence = number});
    begun = number;
  }
  /// A call that the peers come to.
  void pass(std::uint64_t number) {
    call(number);
    ended = number;
  }
};

using Watch = detail::Watch<Quiet>;

/// Ranks that have begun their call, in memory that all processes of a test share.
std::atomic<std::size_t>& begun_ranks() {
  static void* const memory = ::mmap(nullptr, sizeof(std::atomic<std::size_t>),
                                     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return *static_cast<std::atomic<std::size_t>*>(memory);
}

struct Member {
  std::size_t rank;
  Watch& watch;
  Quiet& world;
  /// Begins a call, and waits until `ranks` have.
  void call_with(std::size_t ranks, std::uint64_t number) const {
    world.call(number);
    ++begun_ranks();
    while (begun_ranks() < ranks) std::this_thread::sleep_for(milliseconds{1});
  }
  /// Until the job has failed; what of.
  std::string await_failure(milliseconds limit = milliseconds{10'000}) const {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (!world.is_aborted && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(milliseconds{2});
    try {
      watch.failure()->rethrow();
    } catch (const CommError& error) {
      return error.what();
    }
    return "";
  }
};

/// Runs `body` as processes that meet by TCP, and gives what each of them returned. One that is
/// killed gives ""; the last one may stop itself, as a machine that hangs.
std::vector<std::string> processes(std::size_t world, milliseconds patience,
                                   const std::function<std::string(const Member&)>& body) {
  const std::uint16_t port = free_port();
  begun_ranks() = 0;
  struct Child {
    pid_t pid;
    int pipe;
  };
  std::vector<Child> children;
  for (std::size_t rank = 0; rank < world; ++rank) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::close(ends[0]);
      std::string text;
      try {
        const Launched launched{
            .rank = rank, .world = world, .address = "127.0.0.1", .port = port, .job = "test"};
        std::byte nothing{};
        Watch watch{rank, detail::meet(launched, {&nothing, 1}, milliseconds{10'000}), patience};
        const auto quiet = std::make_shared<Quiet>("world");
        watch.add(quiet);
        text = body({rank, watch, *quiet});
        watch.remove(*quiet);
      } catch (const std::exception& error) {
        text = std::string{"threw: "} + error.what();
      }
      (void)!::write(ends[1], text.data(), text.size());
      ::_exit(0);
    }
    ::close(ends[1]);
    children.push_back({pid, ends[0]});
  }
  std::vector<std::string> texts;
  for (const Child& child : children) {
    int state = 0;
    // One that stopped itself says nothing more; the others are done when they have said.
    if (&child == &children.back() && ::waitpid(child.pid, &state, WUNTRACED) > 0 &&
        WIFSTOPPED(state))
      ::kill(child.pid, SIGKILL);
    std::string text;
    char bytes[512];
    for (ssize_t got; (got = ::read(child.pipe, bytes, sizeof bytes)) > 0;)
      text.append(bytes, static_cast<std::size_t>(got));
    ::close(child.pipe);
    ::waitpid(child.pid, &state, 0);
    texts.push_back(text);
  }
  return texts;
}

TEST_CASE("a killed process is named in every other one, at once") {
  const Alarm alarm;
  for (const std::size_t victim : {0, 2}) {
    const auto texts = processes(4, milliseconds{60'000}, [&](const Member& me) -> std::string {
      me.call_with(4, 7);
      if (me.rank == victim) ::kill(::getpid(), SIGKILL);
      return me.await_failure();
    });
    for (std::size_t rank = 0; rank < 4; ++rank) {
      CAPTURE(texts[rank]);
      if (rank == victim)
        CHECK(texts[rank] == "");
      else
        CHECK(texts[rank] ==
              "rank " + std::to_string(rank) + ": rank " + std::to_string(victim) +
                  " has gone: its process ended or its machine is cut off; see its messages, then "
                  "go on from a checkpoint with the ranks that are left; barrier #7 of world was "
                  "under way here");
    }
  }
}

TEST_CASE("who does not come, and who does not answer, is named in every rank") {
  const Alarm alarm;
  const auto texts = processes(4, milliseconds{300}, [](const Member& me) -> std::string {
    me.world.pass(1);
    if (me.rank == 1) return me.await_failure();
    if (me.rank == 3) ::raise(SIGSTOP);
    me.world.call(2);
    return me.await_failure();
  });
  for (const std::size_t rank : {0, 1, 2}) {
    CAPTURE(texts[rank]);
    CHECK(
        texts[rank].starts_with("rank " + std::to_string(rank) + ": barrier #2 of world in rank "));
    CHECK(texts[rank].ends_with(
        " has not ended within 0.3 s; rank 1 has not come to it: its last call is barrier #1; "
        "rank 3 does not answer"));
  }
}

TEST_CASE("one who has left, in peace, is named when others wait for it") {
  const Alarm alarm;
  const auto texts = processes(3, milliseconds{300}, [](const Member& me) -> std::string {
    me.world.pass(1);
    if (me.rank == 2) return "left";
    me.world.call(2);
    return me.await_failure();
  });
  CHECK(texts[2] == "left");
  for (const std::size_t rank : {0, 1}) {
    CAPTURE(texts[rank]);
    CHECK(texts[rank].find("has not ended within 0.3 s; rank 2 has left") != std::string::npos);
  }
}

TEST_CASE("when rank 0 has left, in peace, each looks after itself") {
  const Alarm alarm;
  const auto texts = processes(3, milliseconds{300}, [](const Member& me) -> std::string {
    if (me.rank == 0) return "left";
    me.world.call(1);
    return me.await_failure();
  });
  CHECK(texts[0] == "left");
  for (const std::size_t rank : {1, 2}) {
    const std::string me = "rank " + std::to_string(rank);
    CHECK(texts[rank] == me + ": barrier #1 of world in " + me + " has not ended within 0.3 s");
  }
}

TEST_CASE("what the transport or the program says goes to every rank") {
  const Alarm alarm;
  for (const std::size_t who : {0, 1}) {
    const std::string name = "rank " + std::to_string(who);
    const auto broken = processes(2, milliseconds{60'000}, [&](const Member& me) {
      me.world.call(3);
      me.world.is_broken = me.rank == who;
      return me.await_failure();
    });
    const auto told = processes(2, milliseconds{60'000}, [&](const Member& me) -> std::string {
      if (me.rank != who) return me.await_failure();
      me.watch.fail(name + " has no more data");
      return "";
    });
    for (const std::size_t rank : {0, 1}) {
      CAPTURE(broken[rank]);
      CHECK(broken[rank].starts_with("rank " + std::to_string(rank) + ": barrier #3 of world in " +
                                     name + ": the cable is out"));
    }
    CHECK(told[1 - who] == "rank " + std::to_string(1 - who) + ": " + name + " has no more data");
  }
}

TEST_CASE("what came of a peer's trouble gives way to the reason that the peer has") {
  const Alarm alarm;
  for (const std::size_t who : {0, 1}) {
    const auto texts = processes(3, milliseconds{60'000}, [&](const Member& me) -> std::string {
      me.call_with(3, 3);
      if (me.rank == who) {
        std::this_thread::sleep_for(milliseconds{400});  // the others see its end before
        me.watch.fail("no more data");
        return me.await_failure();
      }
      me.world.is_left = true;
      return me.await_failure();
    });
    for (std::size_t rank = 0; rank < 3; ++rank)
      CHECK(texts[rank] == "rank " + std::to_string(rank) +
                               ": no more data; barrier #3 of world was under way here");
  }
  // Nobody knows better.
  const auto texts = processes(2, milliseconds{60'000}, [&](const Member& me) -> std::string {
    me.world.call(3);
    me.world.is_left = me.rank == 1;
    return me.await_failure();
  });
  for (const std::size_t rank : {0, 1})
    CHECK(texts[rank].starts_with("rank " + std::to_string(rank) +
                                  ": barrier #3 of world in rank 1: a peer is gone"));
}

TEST_CASE("message and record of the calls say the same, also while calls begin and end") {
  const Alarm alarm;
  const Scratch folder;
  const auto quiet = std::make_shared<Quiet>("world");
  Watch watch{0, {}, milliseconds{60'000}, folder.path()};
  quiet->pass(1);
  quiet->call(2);
  quiet->when_asked = [&world = *quiet] { world.ended = world.ended == 1 ? 2 : 1; };
  watch.add(quiet);
  watch.fail("no more data");
  const std::string said = Member{0, watch, *quiet}.await_failure();
  std::ifstream file{folder / "shardexpr-calls.rank-0.txt"};
  const std::string record{std::istreambuf_iterator<char>{file}, {}};
  CAPTURE(said);
  CAPTURE(record);
  CHECK(said.starts_with("rank 0: no more data"));
  CHECK(record.starts_with("rank 0: no more data"));
  CHECK(record.find("barrier #2") != std::string::npos);
  CHECK((said.find("; barrier #2 of world was under way here") != std::string::npos) ==
        (record.find("barrier #2: under way") != std::string::npos));
  watch.remove(*quiet);
}

TEST_CASE("calls that go on are left alone") {
  const Alarm alarm;
  for (const std::string& text :
       processes(2, milliseconds{200}, [](const Member& me) -> std::string {
         for (std::uint64_t n = 1; n <= 50; ++n) {
           me.world.call(n);
           std::this_thread::sleep_for(milliseconds{20});
           me.world.ended = n;
         }
         return me.await_failure(milliseconds{300});
       }))
    CHECK(text == "");
}

}  // namespace
}  // namespace shardexpr::testing
