// SPDX-License-Identifier: Apache-2.0
// Streams that run in threads of their own: order, events, room, errors, and under collectives.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "../comm/watchdog.hpp"
#include "../support/allocations.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

using std::chrono::milliseconds;

static_assert(!std::is_copy_constructible_v<Cpu::Stream> &&
              !std::is_move_constructible_v<Cpu::Stream>);
static_assert(!std::is_copy_constructible_v<Cpu::Event> &&
              !std::is_move_constructible_v<Cpu::Event>);

void sleep_ms(int ms) { std::this_thread::sleep_for(milliseconds{ms}); }

/// A device and streams to try: `run(stream, work)` names no memory.
struct Rig {
  Cpu device{Execution::asynchronous};
  Cpu::Stream a{device, "a"}, b{device, "b"}, c{device, "c"};
  template <class Work>
  void run(Cpu::Stream& stream, Work&& work) {
    device.run(stream, reads(), writes(), std::forward<Work>(work));
  }
};

template <class Call>
std::string what_of(Call call) {
  try {
    call();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

/// Counts itself: an operation's capture is destroyed once, whatever becomes of the operation.
struct Counted {
  explicit Counted(std::atomic<int>& count) : live{&count} { ++*live; }
  Counted(const Counted& other) : live{other.live} { ++*live; }
  ~Counted() { --*live; }
  std::atomic<int>* live;
};

}  // namespace

TEST_CASE("execution: immediate unless asked, and told by the device") {
  Cpu immediate;
  CHECK(immediate.execution() == Execution::immediate);
  Cpu asynchronous{Execution::asynchronous};
  CHECK(asynchronous.execution() == Execution::asynchronous);
  const auto here = std::this_thread::get_id();
  std::thread::id there;
  const auto ask = [&] { there = std::this_thread::get_id(); };
  Cpu::Stream first{immediate, "first"}, second{asynchronous, "second"}, third;
  immediate.run(first, reads(), writes(), ask);
  CHECK(there == here);
  asynchronous.run(third, reads(), writes(), ask);
  CHECK(there == here);
  asynchronous.run(second, reads(), writes(), ask);
  asynchronous.synchronize(second);
  CHECK(there != here);
}

TEST_CASE("a stream runs in order, behind the host") {
  Watchdog watchdog{"order"};
  Rig rig;
  std::vector<int> seen;
  std::atomic<bool> go{false};
  rig.run(rig.a, [&] { go.wait(false); });
  for (int i = 0; i < 1000; ++i) rig.run(rig.a, [&seen, i] { seen.push_back(i); });
  CHECK(seen.empty());  // no race: the worker waits for us
  go = true;
  go.notify_all();
  rig.device.synchronize(rig.a);
  REQUIRE(seen.size() == 1000);
  for (int i = 0; i < 1000; ++i) CHECK(seen[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("every operation of the device goes through its stream") {
  Watchdog watchdog{"operations"};
  Rig rig;
  std::vector<float> x(100), y(100, 7.0f);
  std::vector<fp16> narrow(100);
  ExactSum sum;
  rig.run(rig.a, [] { sleep_ms(10); });
  rig.device.for_each(rig.a, x.size(), reads(), writes(std::span{x}),
                      [data = x.data()](std::size_t i) { data[i] = static_cast<float>(i); });
  rig.device.copy(rig.a, std::span<const float>{x}, std::span{y});
  rig.device.cast(rig.a, std::span<const float>{y}, std::span{narrow});
  rig.device.fill_zero(rig.a, std::span{x}.first(50));
  rig.device.sum_squares(rig.a, std::span<const float>{x}, &sum);
  rig.device.synchronize(rig.a);
  CHECK(y[10] == 10.0f);
  CHECK(narrow[10] == 10.0f);
  CHECK(x[10] == 0.0f);
  CHECK(x[60] == 60.0f);
  double expected = 0;
  for (int i = 50; i < 100; ++i) expected += i * i;
  CHECK(sum.value() == expected);
}

TEST_CASE("an event orders one stream behind another") {
  Watchdog watchdog{"events"};
  Rig rig;
  Cpu::Event event;
  rig.device.wait(rig.b, event);  // never recorded: nothing to wait for
  int value = 0, seen = -1;
  rig.run(rig.a, [&] {
    sleep_ms(20);
    value = 1;
  });
  rig.device.record(event, rig.a);
  rig.device.wait(rig.b, event);
  rig.run(rig.b, [&] { seen = value; });
  rig.device.synchronize(rig.b);
  CHECK(seen == 1);
}

TEST_CASE("an event does not wait for what was enqueued behind it") {
  Watchdog watchdog{"event position"};
  Rig rig;
  Cpu::Event event;
  std::atomic<bool> go{false};
  rig.device.record(event, rig.a);
  rig.run(rig.a, [&] { go.wait(false); });
  rig.device.wait(rig.b, event);
  rig.device.synchronize(rig.b);
  rig.run(rig.a, [] {});
  go = true;
  go.notify_all();
  rig.device.synchronize(rig.a);
}

TEST_CASE("an event is recorded again while streams wait for what it was") {
  Watchdog watchdog{"recorded again"};
  Rig rig;
  Cpu::Event event;
  std::atomic<bool> first{false}, second{false};
  int value = 0, b = 0, c = 0;
  rig.run(rig.a, [&] { first.wait(false); });
  rig.run(rig.a, [&] { value = 1; });
  rig.device.record(event, rig.a);
  rig.device.wait(rig.b, event);
  rig.run(rig.b, [&] { b = value; });
  rig.run(rig.a, [&] { second.wait(false); });
  rig.run(rig.a, [&] { value = 2; });
  rig.device.record(event, rig.a);
  rig.device.wait(rig.c, event);
  rig.run(rig.c, [&] { c = value; });
  first = true;
  first.notify_all();
  rig.device.synchronize(rig.b);  // not held by the second
  CHECK(b == 1);
  second = true;
  second.notify_all();
  rig.device.synchronize(rig.c);
  CHECK(c == 2);
}

TEST_CASE("an event that two streams recorded stands for the last alone") {
  Watchdog watchdog{"two streams"};
  Rig rig;
  Cpu::Event event;
  std::atomic<bool> go{false};
  int value = 0, seen = 0;
  rig.run(rig.a, [&] { go.wait(false); });
  rig.device.record(event, rig.a);
  rig.run(rig.b, [&] {
    sleep_ms(10);
    value = 1;
  });
  rig.device.record(event, rig.b);
  rig.device.wait(rig.c, event);
  rig.run(rig.c, [&] { seen = value; });
  rig.device.synchronize(rig.c);  // not held by a
  CHECK(seen == 1);
  go = true;
  go.notify_all();
  rig.device.synchronize(rig.a);
}

TEST_CASE("immediate and asynchronous streams wait for each other") {
  Watchdog watchdog{"mixed"};
  Rig rig;
  Cpu::Stream here;
  Cpu::Event event;
  int value = 0, seen = 0;
  rig.run(rig.a, [&] {
    sleep_ms(10);
    value = 1;
  });
  rig.device.record(event, rig.a);
  rig.device.wait(here, event);
  rig.run(here, [&] { seen = value; });
  CHECK(seen == 1);
  rig.run(here, [&] { value = 2; });
  rig.device.record(event, here);
  rig.device.wait(rig.b, event);
  rig.run(rig.b, [&] { seen = value; });
  rig.device.synchronize(rig.b);
  CHECK(seen == 2);
  rig.device.synchronize(here);
  rig.device.drain(here);
  // Recorded on an immediate stream, an event no longer stands for an asynchronous one.
  std::atomic<bool> go{false};
  rig.run(rig.a, [&] { go.wait(false); });
  rig.device.record(event, rig.a);
  rig.device.record(event, here);
  rig.device.wait(rig.b, event);
  rig.device.synchronize(rig.b);
  go = true;
  go.notify_all();
  rig.device.synchronize(rig.a);
}

TEST_CASE("events and streams may go in any order") {
  Watchdog watchdog{"lifetimes"};
  Cpu device{Execution::asynchronous};
  for (int repeat = 0; repeat < 50; ++repeat) {
    Cpu::Stream waiting{device, "waiting"};
    std::atomic<int> value{0};
    int seen = 0;
    std::optional<Cpu::Event> event{std::in_place};
    {
      Cpu::Stream gone{device, "gone"};
      device.run(gone, reads(), writes(), [&] {
        std::this_thread::yield();
        value = 1;
      });
      device.record(*event, gone);
      device.wait(waiting, *event);
      if (repeat % 2 == 0) event.reset();
      device.run(waiting, reads(), writes(), [&] { seen = value; });
    }
    CHECK(value == 1);  // its destructor drained it
    if (event) device.wait(waiting, *event);
    device.synchronize(waiting);
    CHECK(seen == 1);
  }
}

TEST_CASE("two streams run at the same time") {
  Watchdog watchdog{"overlap"};
  Rig rig;
  std::atomic<int> inside{0};
  const auto meet = [&] {
    ++inside;
    inside.notify_all();
    for (int n = inside; n != 2; n = inside) inside.wait(n);  // or the watchdog ends us
  };
  rig.run(rig.a, meet);
  rig.run(rig.b, meet);
  rig.device.synchronize(rig.a);
  rig.device.synchronize(rig.b);
  CHECK(inside == 2);
}

TEST_CASE("to enqueue, record, wait and synchronize allocates nothing") {
  Watchdog watchdog{"allocations"};
  Rig rig;
  Cpu::Event event;
  std::array<std::byte, 3000> large{};
  std::vector<float> x(100);
  const std::size_t before = allocations.load();
  for (int i = 0; i < 2000; ++i) {  // goes round the ring some ten times
    rig.run(rig.a, [large] { (void)large; });
    rig.device.fill_zero(rig.a, std::span{x});
    rig.device.record(event, rig.a);
    rig.device.wait(rig.b, event);
    if (i % 100 == 0) rig.device.synchronize(rig.b);
  }
  rig.device.synchronize(rig.b);
  CHECK(allocations.load() == before);
  void* volatile some = std::malloc(1);  // the counter counts
  std::free(some);
  CHECK(allocations.load() == before + COUNTS_ALLOCATIONS);
}

TEST_CASE("the host waits for room") {
  Watchdog watchdog{"room"};
  Rig rig;
  constexpr int total = 2000;
  std::atomic<bool> go{false}, is_enqueued{false};
  std::atomic<int> seen{0}, wrong{0};
  std::thread release{[&] {
    sleep_ms(30);
    CHECK_FALSE(is_enqueued);  // 2000 of 512 bytes and more do not fit
    go = true;
    go.notify_all();
  }};
  rig.run(rig.a, [&] { go.wait(false); });
  std::mt19937 random{4};
  const auto enqueue = [&]<std::size_t Size>(int i, std::array<unsigned char, Size> bytes) {
    bytes.fill(static_cast<unsigned char>(i));
    rig.run(rig.a, [&, i, bytes] {
      for (unsigned char byte : bytes) wrong += byte != static_cast<unsigned char>(i);
      wrong += seen++ != i;
    });
  };
  for (int i = 0; i < total; ++i) switch (random() % 3) {
      case 0:
        enqueue(i, std::array<unsigned char, 512>{});
        break;
      case 1:
        enqueue(i, std::array<unsigned char, 1000>{});
        break;
      default:
        enqueue(i, std::array<unsigned char, 5000>{});
    }
  is_enqueued = true;
  rig.device.synchronize(rig.a);
  release.join();
  CHECK(seen == total);
  CHECK(wrong == 0);
}

TEST_CASE("captures as large as the ring and as aligned as a line") {
  Watchdog watchdog{"large captures"};
  Rig rig;
  struct alignas(64) Aligned {
    std::uint64_t value;
  };
  struct Huge {
    std::array<std::byte, detail::TaskQueue::capacity_bytes - 64> bytes;
  };
  const auto huge = std::make_unique<Huge>();
  huge->bytes.fill(std::byte{42});
  std::atomic<int> good{0};
  for (int i = 0; i < 10; ++i) {
    rig.run(rig.a, [&good, aligned = Aligned{7}] {
      good += reinterpret_cast<std::uintptr_t>(&aligned) % 64 == 0 && aligned.value == 7;
    });
    struct Work {
      Huge capture;
      std::atomic<int>* good;
      void operator()() const {
        *good += capture.bytes.front() == std::byte{42} && capture.bytes.back() == std::byte{42};
      }
    };
    static_assert(sizeof(Work) + 16 <= detail::TaskQueue::capacity_bytes);
    const auto work = std::make_unique<Work>(Work{*huge, &good});
    rig.run(rig.a, *work);
  }
  rig.device.synchronize(rig.a);
  CHECK(good == 20);
}

TEST_CASE("captures are destroyed once, also of what does not run") {
  Watchdog watchdog{"captures"};
  std::atomic<int> live{0}, ran{0};
  {
    Rig rig;
    for (int i = 0; i < 100; ++i) rig.run(rig.a, [&, counted = Counted{live}] { ++ran; });
    rig.device.synchronize(rig.a);
    CHECK(live == 0);  // not when the ring comes round
    CHECK(ran == 100);
    rig.run(rig.a, [counted = Counted{live}] { throw std::runtime_error{"boom"}; });
    for (int i = 0; i < 100; ++i) rig.run(rig.a, [&, counted = Counted{live}] { ++ran; });
    rig.device.drain(rig.a);
    CHECK(live == 0);
    for (int i = 0; i < 100; ++i) rig.run(rig.a, [&, counted = Counted{live}] { ++ran; });
    rig.run(rig.b, [counted = Counted{live}] {});
  }
  CHECK(live == 0);
  CHECK(ran == 100);
  // A capture whose copy throws was not enqueued.
  struct Fussy {
    Fussy() = default;
    Fussy(const Fussy&) { throw std::runtime_error{"no copy"}; }
    void operator()() const {}
  };
  Rig rig;
  const Fussy fussy;
  CHECK(what_of([&] { rig.run(rig.a, fussy); }) == "no copy");
  rig.run(rig.a, [&] { ++ran; });
  rig.device.synchronize(rig.a);
  CHECK(ran == 101);
}

TEST_CASE("a failure ends its stream and those that wait for it, and no other") {
  Watchdog watchdog{"failure"};
  Rig rig;
  Cpu::Event before, behind, passed_on;
  std::atomic<int> ran{0};
  const auto count = [&] { ++ran; };
  rig.run(rig.a, count);
  rig.device.record(before, rig.a);
  rig.run(rig.a, [] {
    sleep_ms(10);
    throw std::out_of_range{"boom"};
  });
  rig.run(rig.a, count);  // discarded
  rig.device.record(behind, rig.a);
  rig.device.wait(rig.b, behind);
  rig.run(rig.b, count);  // discarded
  rig.device.record(passed_on, rig.b);
  rig.device.wait(rig.c, before);
  rig.run(rig.c, count);
  for (int i = 0; i < 2; ++i) {
    CHECK(what_of([&] { rig.device.synchronize(rig.b); }) == "boom");
    CHECK_THROWS_AS(rig.device.synchronize(rig.a), std::out_of_range);
  }
  CHECK(what_of([&] { rig.device.synchronize(rig.c); }) == "");  // the event was before it
  CHECK(ran == 2);
  rig.device.drain(rig.a);
  // Later enqueues are discarded, later events carry the failure, over any number of streams.
  rig.run(rig.a, count);
  Cpu::Event later;
  rig.device.record(later, rig.a);
  rig.device.wait(rig.c, passed_on);
  rig.run(rig.c, count);
  CHECK(what_of([&] { rig.device.synchronize(rig.c); }) == "boom");
  Cpu::Stream here, fresh{rig.device, "fresh"};
  CHECK(what_of([&] { rig.device.wait(here, later); }) == "boom");
  rig.device.wait(fresh, later);
  CHECK(what_of([&] { rig.device.synchronize(fresh); }) == "boom");
  Cpu::Stream late{rig.device, "late"};
  rig.device.wait(late, before);  // still a point before the failure
  CHECK(what_of([&] { rig.device.synchronize(late); }) == "");
  CHECK(ran == 2);
}

TEST_CASE("a failed stream never holds the host, however much is enqueued") {
  Watchdog watchdog{"failure and room"};
  Rig rig;
  rig.run(rig.a, [] { throw 42; });
  std::array<std::byte, 4000> large{};
  for (int i = 0; i < 1000; ++i) rig.run(rig.a, [large] { (void)large; });
  CHECK_THROWS_AS(rig.device.synchronize(rig.a), int);
}

TEST_CASE("an immediate stream throws where it is enqueued") {
  Cpu device;
  Cpu::Stream stream;
  CHECK(what_of([&] {
          device.run(stream, reads(), writes(), [] { throw std::runtime_error{"boom"}; });
        }) == "boom");
  device.synchronize(stream);
}

TEST_CASE("random graphs of operations give the values of a sequential run") {
  Watchdog watchdog{"random graphs", std::chrono::seconds{200}};
  constexpr std::size_t streams = 3, cells = 6, graphs = 3000;
  Cpu device{Execution::asynchronous};
  std::array<std::unique_ptr<Cpu::Stream>, streams> stream;
  for (auto& s : stream) s = std::make_unique<Cpu::Stream>(device, "random");
  std::mt19937 random{11};
  std::size_t wrong = 0;
  for (std::size_t graph = 0; graph < graphs; ++graph) {
    // Cells that no lock guards: the events alone order who reads and writes them.
    std::array<std::uint64_t, cells> cell{}, expected{};
    struct Use {
      std::size_t stream = 0;
      bool is_used = false;
    };
    std::array<Use, cells> last_write{};
    std::array<std::array<bool, streams>, cells> is_read{};
    std::array<Cpu::Event, streams> done;
    const std::size_t operations = 5 + random() % 20;
    for (std::size_t i = 0; i < operations; ++i) {
      const std::size_t s = random() % streams, from = random() % cells, to = random() % cells;
      const auto wait_for = [&](std::size_t other) {
        if (other == s) return;
        device.record(done[other], *stream[other]);  // again and again: what waits is kept
        device.wait(*stream[s], done[other]);
      };
      if (last_write[from].is_used) wait_for(last_write[from].stream);
      if (last_write[to].is_used) wait_for(last_write[to].stream);
      for (std::size_t other = 0; other < streams; ++other)
        if (is_read[to][other]) wait_for(other);
      const std::uint64_t salt = random();
      const int pace = static_cast<int>(random() % 8);
      device.run(*stream[s], reads(), writes(), [&cell, from, to, salt, pace] {
        for (int k = 0; k < pace; ++k) std::this_thread::yield();
        cell[to] = cell[to] * 31 + cell[from] + salt;
      });
      expected[to] = expected[to] * 31 + expected[from] + salt;
      is_read[from][s] = true;
      is_read[to] = {};
      last_write[to] = {s, true};
      if (from == to) is_read[to] = {};
    }
    for (auto& s : stream) device.synchronize(*s);
    wrong += cell != expected;
  }
  CHECK(wrong == 0);
}

// Ranks ---------------------------------------------------------------------------------------

namespace {

/// One rank: the host, a compute stream and a stream of collectives.
struct AsyncRank {
  Cpu device{Execution::asynchronous};
  Threads& comm;
  Cpu::Buffer<float> full, shard, sum;
  // Streams last: they drain before the buffers go.
  Cpu::Stream compute{device, "compute"}, traffic{device, "comm"};
  Context<Cpu> at_compute{device, compute}, at_traffic{device, traffic};
  Cpu::Event computed, moved;

  explicit AsyncRank(Threads& c)
      : comm{c},
        full{device.allocate<float>(c.size() * 1000, Purpose::gathered)},
        shard{device.allocate<float>(1000, Purpose::parameters)},
        sum{device.allocate<float>(1000, Purpose::gradients)} {}

  /// Writes the shard, gathers it, doubles the whole, reduces it. `before` runs in each step.
  template <class Before>
  void step(float value, Before before) {
    device.wait(compute, moved);
    at_compute.for_each(shard.count(), reads(), writes(shard),
                        [s = shard.data(), value](std::size_t i) { s[i] = value; });
    at_compute.run(reads(), writes(), before);
    device.record(computed, compute);
    device.wait(traffic, computed);
    comm.all_gather(at_traffic, shard.span(), full.span());
    device.record(moved, traffic);
    device.wait(compute, moved);
    at_compute.for_each(full.count(), reads(full), writes(full),
                        [f = full.data()](std::size_t i) { f[i] *= 2; });
    device.record(computed, compute);
    device.wait(traffic, computed);
    comm.reduce_scatter(at_traffic, full.span(), sum.span(), Reduction::sum);
    device.record(moved, traffic);
  }
};

std::string launch_error(std::size_t world, auto body) {
  try {
    launch(world, body);
  } catch (const RankError& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("collectives run in a stream of their own, ordered by events") {
  Watchdog watchdog{"collectives in streams", std::chrono::seconds{120}};
  for (std::size_t world : {1, 2, 3})
    launch(world, [](Threads& comm) {
      AsyncRank rank{comm};
      for (int s = 0; s < 100; ++s) {
        rank.step(static_cast<float>(s), [] {});
        if (s % 10 != 0) continue;
        rank.device.synchronize(rank.traffic);
        bool good = true;
        for (float x : rank.sum.span()) good &= x == static_cast<float>(2 * s) * comm.size();
        if (!good) throw std::logic_error{"wrong sum"};
      }
      rank.device.synchronize(rank.traffic);
    });
}

TEST_CASE("a rank's failure, wherever it comes from, ends all ranks") {
  Watchdog watchdog{"failures in streams", std::chrono::seconds{120}};
  std::mt19937 random{3};
  for (int repeat = 0; repeat < 40; ++repeat)
    for (int how = 0; how < 4; ++how) {
      const std::size_t world = 2 + random() % 2, failing = random() % world;
      const int last = static_cast<int>(random() % 8);
      const std::string error = launch_error(world, [&](Threads& comm) {
        AsyncRank rank{comm};
        const bool fails = comm.rank() == failing;
        for (int s = 0; s < 50; ++s) {
          const bool now = fails && s == last;
          if (now && how == 0) throw std::runtime_error{"boom"};  // the host
          if (now && how == 1) return;                            // leaves
          rank.step(1, [now, how] {
            if (now && how == 2) throw std::runtime_error{"boom"};  // an operation
          });
          if (now && how == 3)  // an operation of the collectives' stream
            rank.at_traffic.run(reads(), writes(), [] { throw std::runtime_error{"boom"}; });
          if (s % 3 == 2) rank.device.synchronize(rank.compute);
        }
        rank.device.synchronize(rank.compute);
        rank.device.synchronize(rank.traffic);
      });
      CAPTURE(how);
      CAPTURE(error);
      const std::string name = "rank " + std::to_string(failing);
      if (how == 1)
        CHECK(error.find(name + " left") != std::string::npos);
      else
        CHECK(error == name + ": boom");
    }
}

TEST_CASE("a failed rank's host that goes on enqueuing meets the error where it synchronizes") {
  Watchdog watchdog{"late notice"};
  const std::string error = launch_error(2, [](Threads& comm) {
    AsyncRank rank{comm};
    for (int s = 0; s < 200; ++s)
      rank.step(1, [&comm, s] {
        if (comm.rank() == 1 && s == 3) throw std::runtime_error{"boom"};
      });
    rank.device.synchronize(rank.traffic);
  });
  CHECK(error == "rank 1: boom");
}

}  // namespace shardexpr::testing
