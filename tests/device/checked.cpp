// SPDX-License-Identifier: Apache-2.0
// Checked<Device>: each kind of race is found, each ordered program is silent.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/checked.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/nn/layer.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../comm/watchdog.hpp"
#include "../support/toy.hpp"
#include <doctest/doctest.h>

#if defined(__linux__)
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace shardexpr::testing {
namespace {

using Device = Checked<Cpu>;
static_assert(shardexpr::Device<Device>);
static_assert(Communicator<Threads, Device> && Communicator<Solo, Device>);
static_assert(nn::HostDevice<Device>);

constexpr CheckOptions hasty{.seed = 5, .longest_delay = std::chrono::microseconds{200}};

/// A device and three streams, immediate or not; both must give the same verdicts.
struct Rig {
  explicit Rig(Execution execution) : device{hasty, execution} {}
  Device device;
  Device::Buffer<float> x = device.allocate<float>(256, Purpose::gathered);
  Device::Stream a{device, "a"}, b{device, "b"}, c{device, "c"};
  Device::Event event, other;

  void read(Device::Stream& s, std::span<float> range) {
    device.run(s, reads(range), writes(), [] {});
  }
  void write(Device::Stream& s, std::span<float> range) {
    device.run(s, reads(), writes(range), [] {});
  }
  void order(Device::Stream& from, Device::Stream& to) {
    device.record(event, from);
    device.wait(to, event);
  }
};

template <class Call>
std::string race_of(Call call) {
  try {
    call();
  } catch (const RaceError& e) {
    return e.what();
  }
  return "";
}
bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

constexpr std::array both{Execution::immediate, Execution::asynchronous};

}  // namespace

TEST_CASE("read behind write, write behind read, write behind write: unordered, they race") {
  for (Execution execution : both)
    for (int kind = 0; kind < 3; ++kind) {
      const auto first = [&](Rig& r) {
        kind == 1 ? r.read(r.a, r.x.span()) : r.write(r.a, r.x.span());
      };
      const auto second = [&](Rig& r) {
        kind == 0 ? r.read(r.b, r.x.span()) : r.write(r.b, r.x.span());
      };
      const std::string text = kind == 0   ? "not ordered behind the write by "
                               : kind == 1 ? "not ordered behind the read by "
                                           : "not ordered behind the write by ";
      {
        Rig r{execution};
        first(r);
        const std::string race = race_of([&] { second(r); });
        CAPTURE(race);
        CHECK(contains(race, kind == 0 ? ": read by " : ": write by "));
        CHECK(contains(race, text));
        CHECK(contains(race, "bytes [0, 1024) of a buffer for gathered of 1024 bytes"));
        r.device.drain(r.a);
      }
      {  // by an event
        Rig r{execution};
        first(r);
        r.order(r.a, r.b);
        CHECK(race_of([&] { second(r); }) == "");
        r.device.synchronize(r.b);
      }
      {  // by the host
        Rig r{execution};
        first(r);
        r.device.synchronize(r.a);
        CHECK(race_of([&] { second(r); }) == "");
        r.device.synchronize(r.b);
      }
      {  // by the stream
        Rig r{execution};
        first(r);
        r.write(r.a, r.x.span());
        r.read(r.a, r.x.span());
        r.device.synchronize(r.a);
      }
      {  // an event recorded too early
        Rig r{execution};
        r.device.record(r.event, r.a);
        first(r);
        r.device.wait(r.b, r.event);
        CHECK(race_of([&] { second(r); }) != "");
        r.device.drain(r.a);
      }
      {  // a wait that comes too early stands for the earlier record
        Rig r{execution};
        r.device.record(r.event, r.a);
        r.device.wait(r.b, r.event);
        first(r);
        r.device.record(r.event, r.a);
        CHECK(race_of([&] { second(r); }) != "");
        r.device.drain(r.a);
      }
    }
}

TEST_CASE("reads of one write by many streams are no race; a write must be behind all of them") {
  Rig r{Execution::asynchronous};
  r.write(r.a, r.x.span());
  r.order(r.a, r.b);
  r.order(r.a, r.c);
  r.read(r.a, r.x.span());
  r.read(r.b, r.x.span());
  r.read(r.c, r.x.span());
  r.order(r.b, r.a);
  CHECK(contains(race_of([&] { r.write(r.a, r.x.span()); }), "on stream \"c\": let \"a\" wait"));
  r.order(r.c, r.a);
  r.write(r.a, r.x.span());
  r.device.synchronize(r.a);
}

TEST_CASE("only the bytes that overlap race, and the report names them") {
  for (Execution execution : both) {
    Rig r{execution};
    r.write(r.a, r.x.span().first(100));
    r.write(r.b, r.x.span().subspan(100));
    r.read(r.b, r.x.span().subspan(100, 50));
    const std::string race = race_of([&] { r.read(r.b, r.x.span().subspan(90, 30)); });
    CHECK(contains(race, "bytes [360, 400) of a buffer"));
    CHECK(contains(race_of([&] { r.write(r.c, r.x.span().subspan(99, 2)); }), "bytes [396, 400)"));
    // One report over stretches that other operations have split.
    r.read(r.a, r.x.span().subspan(10, 10));
    CHECK(contains(race_of([&] { r.read(r.c, r.x.span().first(60)); }), "bytes [0, 240)"));
    CHECK(race_of([&] { r.read(r.b, r.x.span().subspan(7, 0)); }) == "");  // nothing is no race
    std::array<float, 16> elsewhere{};
    r.write(r.a, elsewhere);
    CHECK(contains(race_of([&] { r.read(r.b, std::span{elsewhere}.subspan(2)); }),
                   "bytes [0, 56) of memory of another owner at 0x"));
    r.device.synchronize(r.a);
    r.device.synchronize(r.b);
  }
}

TEST_CASE("order is transitive, through streams and through the host") {
  for (Execution execution : both) {
    {
      Rig r{execution};
      r.write(r.a, r.x.span());
      r.order(r.a, r.b);
      r.device.record(r.other, r.b);
      r.device.wait(r.c, r.other);
      r.write(r.c, r.x.span());
      r.device.synchronize(r.c);  // and with it a, through b
    }
    {
      Rig r{execution};
      r.write(r.a, r.x.span());
      r.order(r.a, r.b);
      r.device.synchronize(r.b);
      r.write(r.c, r.x.span());
      r.device.drain(r.c);  // what c did itself
    }
    {
      Rig r{execution};
      r.write(r.a, r.x.span());
      r.device.record(r.other, r.b);  // before b waits
      r.order(r.a, r.b);
      r.device.wait(r.c, r.other);
      CHECK(race_of([&] { r.write(r.c, r.x.span()); }) != "");
      r.device.synchronize(r.b);
    }
  }
}

TEST_CASE("every operation is checked") {
  Rig r{Execution::asynchronous};
  auto y = r.device.allocate<float>(256, Purpose::other);
  auto z = r.device.allocate<bf16>(256, Purpose::other);
  ExactSum sum, another;
  r.write(r.a, r.x.span());
  const std::span<const float> x = r.x.span();
  CHECK(race_of([&] { r.device.copy(r.b, x, y.span()); }) != "");
  CHECK(race_of([&] { r.device.copy(r.b, std::span<const float>{y.span()}, r.x.span()); }) != "");
  CHECK(race_of([&] { r.device.cast(r.b, x, z.span()); }) != "");
  CHECK(race_of([&] { r.device.cast(r.b, std::span<const bf16>{z.span()}, r.x.span()); }) != "");
  CHECK(race_of([&] { r.device.fill_zero(r.b, r.x.span()); }) != "");
  CHECK(race_of([&] { r.device.sum_squares(r.b, x, &sum); }) != "");
  CHECK(race_of([&] { r.device.for_each(r.b, 1, reads(x), writes(), [](std::size_t) {}); }) != "");
  CHECK(race_of([&] { r.device.retire(r.b, r.x.span()); }) != "");
  const Context<Device> ctx{r.device, r.b};
  CHECK(race_of([&] { ctx.run(reads(x), writes(), [] {}); }) != "");
  CHECK(race_of([&] { ctx.for_each(1, reads(), writes(r.x), [](std::size_t) {}); }) != "");
  r.device.sum_squares(r.a, x, &sum);
  CHECK(race_of([&] { r.device.sum_squares(r.b, std::span<const float>{y.span()}, &sum); }) != "");
  r.device.sum_squares(r.b, std::span<const float>{y.span()}, &another);
  r.device.cast(r.b, std::span<const float>{y.span()}, z.span());
  CHECK(race_of([&] { r.device.fill_zero(r.c, z.span().last(1)); }) != "");
  r.device.synchronize(r.a);
  r.device.synchronize(r.b);
}

TEST_CASE("an operation that races does not run, and leaves no trace") {
  Rig r{Execution::immediate};
  bool ran = false;
  r.write(r.a, r.x.span());
  CHECK_THROWS_AS(r.device.run(r.b, reads(), writes(r.x), [&] { ran = true; }), RaceError);
  CHECK_FALSE(ran);
  r.write(r.a, r.x.span());
  r.device.synchronize(r.a);
}

TEST_CASE("what was retired is not read before it is written; what was freed is not touched") {
  for (Execution execution : both) {
    Rig r{execution};
    r.write(r.a, r.x.span());
    r.device.retire(r.a, r.x.span().first(64));
    r.read(r.a, r.x.span().subspan(64));
    CHECK(contains(race_of([&] { r.read(r.a, r.x.span().subspan(60, 8)); }),
                   "use after release of bytes [240, 256)"));
    CHECK(contains(race_of([&] { r.write(r.b, r.x.span().first(1)); }), "race on bytes [0, 4)"));
    r.order(r.a, r.b);
    CHECK(contains(race_of([&] { r.read(r.b, r.x.span().first(1)); }), "use after release"));
    r.write(r.b, r.x.span().first(64));
    r.read(r.b, r.x.span().first(64));
    r.device.synchronize(r.a);
    r.device.synchronize(r.b);
    const std::span<float> gone = r.x.span();
    r.x = {};
    const std::string race = race_of([&] { r.write(r.a, gone); });
    CHECK(contains(race, "use after release of bytes [0, 1024) of a buffer for gathered of 1024"));
    CHECK(contains(race, "behind the free by the host: let the buffer live longer"));
    CHECK(race_of([&] { r.read(r.c, gone); }) != "");
  }
}

TEST_CASE("a race with a free is kept and thrown once, by whatever comes next") {
  for (Execution execution : both)
    for (int next = 0; next < 4; ++next) {
      Rig r{execution};
      auto y = r.device.allocate<float>(1, Purpose::other);
      r.read(r.a, r.x.span());
      r.x = {};
      const std::string race = race_of([&] {
        if (next == 0) r.device.check();
        if (next == 1) r.write(r.b, y.span());
        if (next == 2) r.device.synchronize(r.b);
        if (next == 3) r.device.retire(r.b, y.span());
      });
      CAPTURE(race);
      CHECK(contains(race,
                     "race on bytes [0, 1024) of a buffer for gathered of 1024 bytes: free by "
                     "the host, not ordered behind the read by "));
      CHECK(contains(race, "on stream \"a\": synchronize with \"a\" before the buffer goes"));
      r.device.check();
    }
  // Synchronized, drained, or their stream gone: no race.
  Device device;
  for (int how = 0; how < 3; ++how) {
    auto x = device.allocate<float>(10, Purpose::other);
    {
      Device::Stream stream{device, "s"};
      device.fill_zero(stream, x.span());
      if (how == 0) device.synchronize(stream);
      if (how == 1) device.drain(stream);
    }
    x = {};
    device.check();
  }
}

#if defined(__linux__)
TEST_CASE("a race that nobody fetched ends the process") {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stderr) == nullptr) _exit(1);
    std::signal(SIGABRT, SIG_DFL);
    {
      Device device;
      Device::Stream stream{device, "s"};
      auto x = device.allocate<float>(10, Purpose::other);
      device.fill_zero(stream, x.span());
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGABRT);
}
#endif

TEST_CASE("behind a failure, synchronize orders what the stream did itself alone") {
  Rig r{Execution::asynchronous};
  auto y = r.device.allocate<float>(1, Purpose::other);
  r.device.run(r.b, reads(), writes(y), [] { throw std::runtime_error{"boom"}; });
  r.write(r.a, r.x.span());
  r.order(r.a, r.b);  // b discards this wait
  CHECK_THROWS_WITH(r.device.synchronize(r.b), "boom");
  r.x = {};
  CHECK_THROWS_AS(r.device.check(), RaceError);
  y = {};
  r.device.check();
  r.device.drain(r.a);
}

TEST_CASE("a new allocation has no history") {
  Device device;
  Device::Stream a{device, "a"}, b{device, "b"};
  // Far more than is held back: addresses come again.
  for (int i = 0; i < 40; ++i) {
    auto x = device.allocate<std::byte>(1 << 20, Purpose::other);
    device.run(i % 2 ? a : b, reads(x), writes(), [] {});
    device.synchronize(i % 2 ? a : b);
  }
  CHECK(device.log_size() <= 20);
  CHECK(device.account().live_bytes() == 0);
  CHECK(device.account().peak_bytes() == 1 << 20);
}

// Functions of their own: their names are in the report.
namespace {
unsigned fetch_line = 0, compute_line = 0;
template <class D>
void fetch(const Context<D>& ctx, std::span<float> full) {
  const SourceLocation here = SourceLocation::current();
  fetch_line = here.line();
  ctx.run(
      reads(), writes(full), [] {}, here);
}
struct Unit {
  template <class D>
  static std::vector<int> compute(const Context<D>& ctx, std::span<const float> w) {
    const SourceLocation here = SourceLocation::current();
    compute_line = here.line();
    ctx.run(
        reads(w), writes(), [] {}, here);
    return {};
  }
};
}  // namespace

TEST_CASE("a report is one line that names both operations and says what to do") {
  Device device;
  auto x = device.allocate<float>(256, Purpose::gathered);
  Device::Stream comm{device, "comm"}, compute{device, "compute"};
  device.annotate(comm, {"gather", 3});
  fetch(Context<Device>{device, comm}, x.span().first(128));
  device.annotate(compute, {"forward", 2});
  const std::string first = race_of([&] {
    Unit::compute(Context<Device>{device, compute}, x.span().subspan(64));
  });
  CHECK(first ==
        "race on bytes [256, 512) of a buffer for gathered of 1024 bytes: read by forward 2 "
        "(compute, checked.cpp:" +
            std::to_string(compute_line) +
            ") on stream \"compute\", not ordered behind the write by gather 3 (fetch, "
            "checked.cpp:" +
            std::to_string(fetch_line) +
            ") on stream \"comm\": let \"compute\" wait for an event recorded on \"comm\" "
            "behind it");
  device.annotate(comm, {"reshard"});
  device.retire(comm, x.span());
  device.synchronize(comm);
  device.annotate(compute, {});
  const std::string second = race_of([&] {
    Unit::compute(Context<Device>{device, compute}, x.span().subspan(64, 1));
  });
  CAPTURE(second);
  CHECK(
      second.starts_with("use after release of bytes [256, 260) of a buffer for gathered of 1024 "
                         "bytes: read by compute (checked.cpp:" +
                         std::to_string(compute_line) +
                         ") on stream \"compute\", behind the retirement by reshard ("));
  CHECK(second.ends_with(
      ") on stream \"comm\" and no write since: write them again before, or retire them later"));
  Device::Stream nameless;
  CHECK(contains(race_of([&] {
                   fetch(Context<Device>{device, compute}, x.span());
                   Unit::compute(Context<Device>{device, nameless}, x.span());
                 }),
                 "on stream \"stream 3\", not"));
  device.synchronize(compute);
}

TEST_CASE("function names are bare") {
  using detail::bare_function_name;
  static_assert(bare_function_name("forward") == "forward");
  static_assert(bare_function_name("int main()") == "main");
  static_assert(
      bare_function_name("static void toy::Encoder::forward(const sx::Forward<toy::Encoder, "
                         "D, T>&) [with D = shardexpr::Cpu; T = float]") == "forward");
  static_assert(bare_function_name("std::span<const float> ns::{anonymous}::f<T, 3>::g(int)") ==
                "g");
  static_assert(bare_function_name("const int* ns::(anonymous namespace)::f(int)") == "f");
  static_assert(bare_function_name("void ns::f()::<lambda(auto:1&)> [with auto:1 = int]") == "f");
  static_assert(bare_function_name("void ns::Functor::operator()(int) const") == "operator()");
  static_assert(bare_function_name("operator()") == "operator()");
  static_assert(bare_function_name("") == "");
}

TEST_CASE("without one of its waits a program is reported") {
  for (Execution execution : both)
    for (std::size_t drop = 0; drop <= 4; ++drop) {
      std::string race;
      std::size_t waits = 0;
      Rig r{execution};
      r.device.drop_wait(drop);
      race = race_of([&] {
        for (int step = 0; step < 2; ++step) {  // a fills x, b uses it, a may fill it again
          r.device.wait(r.a, r.other);
          r.write(r.a, r.x.span());
          r.order(r.a, r.b);
          r.read(r.b, r.x.span());
          r.device.record(r.other, r.b);
        }
      });
      waits = r.device.wait_count();
      r.device.drain(r.a);
      r.device.drain(r.b);
      CAPTURE(drop);
      CHECK((race != "") == (drop == 1 || drop == 2 || drop == 3));  // 0 waits for nothing yet
      if (drop > 3) CHECK(waits == 4);
    }
}

TEST_CASE("a program that repeats itself does not grow the log") {
  Rig r{Execution::asynchronous};
  std::mt19937 random{2};
  std::vector<float> elsewhere(64);
  std::size_t after_ten = 0;
  for (int step = 0; step < 1000; ++step) {
    r.order(r.b, r.a);
    r.order(r.c, r.a);
    r.device.fill_zero(r.a, r.x.span().first(64));
    r.device.fill_zero(r.a, r.x.span().subspan(64));
    r.order(r.a, r.b);
    r.order(r.a, r.c);
    for (std::size_t at = 0; at < 240; at += 16) {
      r.read(r.b, r.x.span().subspan(at, 24));
      r.read(r.c, r.x.span().subspan(at + 4, 8));
    }
    r.read(r.b, r.x.span().subspan(random() % 100, random() % 100));  // other bounds each time
    r.device.retire(r.b, r.x.span().subspan(240));
    r.read(r.a, elsewhere);
    r.read(r.b, elsewhere);
    auto scratch = r.device.allocate<float>(16, Purpose::other);
    r.write(r.c, scratch.span());
    r.device.synchronize(r.c);
    {
      Device::Stream passing{r.device, "passing"};
      r.read(passing, elsewhere);
    }
    if (step == 9) after_ten = r.device.log_size();
  }
  CHECK(after_ten < 200);
  CHECK(r.device.log_size() < after_ten + 1100);  // one of each freed buffer, held back
  r.device.synchronize(r.a);
  r.device.synchronize(r.b);
}

TEST_CASE("reads of what nobody writes do not add up") {
  Device device;
  Device::Stream a{device, "a"}, b{device, "b"};
  Device::Event event;
  const std::vector<std::byte> weights(4096);
  const std::span<const std::byte> all{weights};
  std::mt19937 random{2};
  for (int step = 0; step < 1000; ++step) {
    const std::size_t at = random() % 4000;  // other bounds each time
    device.run(a, reads(all.subspan(at, 1 + random() % 96)), writes(), [] {});
    device.record(event, a);
    device.wait(b, event);
    device.run(b, reads(all), writes(), [] {});
    device.run(a, reads(all), writes(), [] {});
  }
  CHECK(device.log_size() <= 2);  // the last of each stream
}

TEST_CASE("verdicts on random programs are those of sets of operations") {
  Watchdog watchdog{"random programs"};
  std::mt19937 random{17};
  std::size_t races = 0, silent = 0, wrong = 0;
  for (int program = 0; program < 4000; ++program) {
    Device device;
    auto x = device.allocate<std::byte>(32, Purpose::other);
    std::array<Device::Stream, 3> stream;
    std::array<Device::Event, 3> event;
    // The plain way: of each stream, event and the host, the set of operations known to be done.
    using Set = std::uint64_t;
    std::array<Set, 3> known{}, recorded{}, own{};
    Set host = 0;
    struct Op {
      std::size_t begin, end;
      bool writes;
    };
    std::vector<Op> ops;
    bool raced = false;
    const unsigned density = 1 + random() % 6, longest = 1 + random() % 16;
    const unsigned writes_of_16 = random() % 8;
    const int actions = 5 + static_cast<int>(random() % 36);
    for (int action = 0; action < actions && !raced; ++action) {
      const std::size_t s = random() % 3, e = random() % 3;
      const unsigned what = random() % (density + 4);
      if (what == 0) {
        device.record(event[e], stream[s]);
        recorded[e] = known[s] | own[s];
      } else if (what == 1 || what == 2) {
        device.wait(stream[s], event[e]);
        known[s] |= recorded[e];
      } else if (what == 3 && random() % 3 == 0) {
        device.synchronize(stream[s]);
        host |= known[s] | own[s];
      } else {
        const std::size_t begin = random() % 32,
                          end = std::min<std::size_t>(32, begin + 1 + random() % longest);
        const Op op{begin, end, random() % 16 < writes_of_16};
        known[s] |= host;
        bool expected = false;
        for (std::size_t i = 0; i < ops.size(); ++i)
          expected |= (op.writes || ops[i].writes) && op.begin < ops[i].end &&
                      ops[i].begin < op.end && !((known[s] | own[s]) >> i & 1);
        const std::span<std::byte> range = x.span().subspan(begin, end - begin);
        try {
          if (op.writes)
            device.run(stream[s], reads(), writes(range), [] {});
          else
            device.run(stream[s], reads(range), writes(), [] {});
        } catch (const RaceError&) {
          raced = true;
        }
        wrong += raced != expected;
        own[s] |= Set{1} << ops.size();
        ops.push_back(op);
      }
    }
    (raced ? races : silent)++;
    for (auto& s : stream) device.drain(s);
  }
  CHECK(wrong == 0);
  CHECK(races > 1000);
  CHECK(silent > 1000);
}

TEST_CASE("delays let asynchronous streams run in other orders") {
  Watchdog watchdog{"delays"};
  // Each stream appends to its own part; the turn in which they do so must vary.
  std::array<int, 2> first{};
  Device device{CheckOptions{3, std::chrono::microseconds{500}}, Execution::asynchronous};
  CHECK(device.execution() == Execution::asynchronous);
  Device::Stream a{device, "a"}, b{device, "b"};
  for (int repeat = 0; repeat < 60; ++repeat) {
    std::atomic<int> winner{-1};
    for (int s = 0; s < 2; ++s)
      device.run(s == 0 ? a : b, reads(), writes(), [&winner, s] {
        int none = -1;
        winner.compare_exchange_strong(none, s);
      });
    device.synchronize(a);
    device.synchronize(b);
    ++first[static_cast<std::size_t>(winner)];
  }
  CHECK(first[0] > 3);
  CHECK(first[1] > 3);
}

// Ranks ---------------------------------------------------------------------------------------

namespace {

/// Gathers, doubles and reduces in two streams a rank; `waits` receives the calls of `wait`.
void train(Threads& comm, Execution execution, std::optional<std::size_t> drop,
           std::size_t* waits = nullptr) {
  Device device{CheckOptions{comm.rank() + 1, std::chrono::microseconds{100}}, execution};
  if (drop) device.drop_wait(*drop);
  auto full = comm.gather_buffer<float>(device, comm.size() * 64);
  auto gradients = device.allocate<float>(comm.size() * 64, Purpose::full_gradients);
  auto shard = device.allocate<float>(64, Purpose::parameters);
  auto sum = device.allocate<float>(64, Purpose::gradients);
  Device::Stream compute{device, "compute"}, traffic{device, "comm"};
  const Context<Device> at_compute{device, compute}, at_traffic{device, traffic};
  Device::Event gathered, computed, reduced;
  for (int step = 1; step <= 3; ++step) {
    device.wait(traffic, reduced);
    at_traffic.for_each(64, reads(), writes(shard), [s = shard.data(), step](std::size_t i) {
      s[i] = static_cast<float>(step);
    });
    device.wait(traffic, computed);  // full is no longer read
    comm.gather(at_traffic, std::span<const float>{shard.span()}, full.span());
    device.record(gathered, traffic);
    device.wait(compute, gathered);
    device.wait(compute, reduced);  // the gradients are no longer read
    at_compute.for_each(
        gradients.count(), reads(full), writes(gradients),
        [g = gradients.data(), f = full.data()](std::size_t i) { g[i] = 2 * f[i]; });
    device.retire(compute, full.span());
    device.record(computed, compute);
    device.wait(traffic, computed);
    comm.reduce_scatter(at_traffic, std::span<const float>{gradients.span()}, sum.span(),
                        Reduction::sum);
    device.record(reduced, traffic);
  }
  device.synchronize(compute);
  device.synchronize(traffic);
  if (waits != nullptr) *waits = device.wait_count();
  for (float value : sum.span())
    if (value != 6.0f * static_cast<float>(comm.size())) throw std::logic_error{"wrong sum"};
}

}  // namespace

TEST_CASE("ranks with collectives are silent, and a race in one ends all") {
  Watchdog watchdog{"collectives", std::chrono::seconds{120}};
  for (Execution execution : both) {
    std::size_t waits = 0;
    for (int repeat = 0; repeat < 10; ++repeat)
      launch(2, [&](Threads& comm) {
        std::size_t mine = 0;
        train(comm, execution, {}, &mine);
        if (comm.rank() == 0) waits = mine;
      });
    REQUIRE(waits == 15);
    std::vector<std::size_t> needed;
    for (std::size_t drop = 0; drop < waits; ++drop) {
      std::string text;
      try {
        launch(2, [&](Threads& comm) {
          train(comm, execution, comm.rank() == 1 ? std::optional{drop} : std::nullopt);
        });
      } catch (const RankError& e) {
        CHECK(e.rank() == 1);
        CHECK_THROWS_AS(std::rethrow_if_nested(e), RaceError);
        text = e.what();
      }
      if (!text.empty()) needed.push_back(drop);
    }
    // Of each step: gathered, and computed behind the backward. The others follow from them here:
    // the collectives share a stream.
    CHECK(needed == std::vector<std::size_t>{2, 4, 7, 9, 12, 14});
  }
}

TEST_CASE("a trainer on Checked<Cpu> is silent") {
  Watchdog watchdog{"trainer", std::chrono::seconds{120}};
  const auto weights = [](auto& device, Threads& comm) {
    using D = std::remove_reference_t<decltype(device)>;
    Sharded<toy::Autoencoder, FullShard, On<D>> trainer{device, comm, toy::Config{}};
    std::vector<float> x(20), all;
    for (std::size_t s = 0; s < 5; ++s) {
      toy::fill(x, s, comm.rank());
      (void)trainer.step({x.data()});
    }
    trainer.summon([&](const std::string&, Tensor<const float> value) {
      all.insert(all.end(), value.data, value.data + value.count());
    });
    return all;
  };
  launch(2, [&](Threads& comm) {
    Cpu plain;
    const std::vector<float> expected = weights(plain, comm);
    for (Execution execution : both) {
      Device device{hasty, execution};
      if (weights(device, comm) != expected) throw std::logic_error{"other weights"};
      if (device.account().live_bytes() != 0 ||
          device.account().peak_bytes() != plain.account().peak_bytes())
        throw std::logic_error{"another account"};
      device.check();
    }
  });
}

}  // namespace shardexpr::testing
