// SPDX-License-Identifier: Apache-2.0
// What a traced device records and what the file says, on a device that runs at once and on one
// that runs nothing before it must.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/core/function_name.hpp>
#include <shardexpr/device/trace_json.hpp>
#include <shardexpr/device/traced.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <locale>
#include <new>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "../support/allocations.hpp"
#include "../support/deferred.hpp"
#include "../support/trace_events.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

using namespace std::chrono_literals;

struct Opened : Cpu {
  explicit Opened(int mode) : mode_{mode} {}
  int execution() const { return mode_; }
  int mode_;
};

/// A device whose streams are threads, where it has such; else as it is.
template <class D>
struct Threaded : D {};
template <class D>
  requires requires(const D& device) { decltype(device.execution())::asynchronous; }
struct Threaded<D> : D {
  Threaded() : D{decltype(std::declval<const D&>().execution())::asynchronous} {}
};

static_assert(Device<Traced<Cpu>>);
static_assert(Device<Traced<Deferred>>);
static_assert(Device<Traced<Traced<Cpu>>>);
static_assert(Communicator<Threads, Traced<Cpu>>);
static_assert(Traced<Cpu>::runs_on_host);
static_assert(Traced<Deferred>::runs_on_host);
static_assert(Device<Traced<Threaded<Cpu>>>);
static_assert(std::is_same_v<Traced<Cpu>::Buffer<float>, Cpu::Buffer<float>>);

std::string json_of(const Trace& trace) {
  std::ostringstream out;
  write_trace(out, trace);
  return out.str();
}

// Operations with names of their own.
template <class D>
void gelu(const Context<D>& ctx) {
  ctx.run(reads(), writes(), [] {});
}
template <class D>
void scale(const Context<D>& ctx, std::span<float> x) {
  float* data = x.data();
  ctx.for_each(x.size(), reads(), writes(x), [=](std::size_t i) { data[i] *= 2; });
}

template <class D>
void fill(const Context<D>& ctx, std::span<float> x) {
  ctx.device.fill_zero(ctx.stream, x);
}
template <class D>
void copying(const Context<D>& ctx, std::span<const float> from, std::span<float> to) {
  ctx.device.copy(ctx.stream, from, to);
}
template <class D>
void casting(const Context<D>& ctx, std::span<const float> from, std::span<bf16> to) {
  ctx.device.cast(ctx.stream, from, to);
}
template <class D>
void squares(const Context<D>& ctx, std::span<const float> x, ExactSum* sum) {
  ctx.device.sum_squares(ctx.stream, x, sum);
}
template <class D>
void running(const Context<D>& ctx, int& count) {
  ctx.device.run(ctx.stream, reads(), writes(), [&count, n = 0]() mutable { count += ++n; });
}
template <class D>
void each(const Context<D>& ctx, float* x) {
  ctx.device.for_each(ctx.stream, 2, reads(), writes(), [=](std::size_t i) { x[i] += 1; });
}

}  // namespace

TEST_CASE_TEMPLATE("operations, within their labels and without", D, Cpu, Deferred, Threaded<Cpu>) {
  Trace trace;
  Traced<D> device{trace, 0};
  typename Traced<D>::Stream stream{device, "compute"};
  const Context<Traced<D>> ctx{device, stream};
  std::vector<float> x{1, 2, 3};
  gelu(ctx);
  device.annotate(stream, {"forward", 3});
  gelu(ctx);
  scale(ctx, x);
  device.annotate(stream, {"forward", 3});  // again: a slice of its own
  scale(ctx, x);
  device.annotate(stream, {"step"});
  device.annotate(stream, {"empty", 1});
  device.annotate(stream, {"update", 0});
  gelu(ctx);
  device.annotate(stream, {});
  gelu(ctx);
  gelu(ctx);
  device.synchronize(stream);

  const TraceEvents events{json_of(trace)};
  CHECK(events.processes == std::map<std::size_t, std::string>{{0, "rank 0"}});
  CHECK(events.stream(0, "compute").text() ==
        "gelu forward 3 { gelu scale } forward 3 { scale } update 0 { gelu } gelu gelu");
  CHECK(events.dropped_events == 0);
  CHECK(events.flows.empty());
  CHECK(events.live_bytes.empty());
  CHECK(x == std::vector<float>{4, 8, 12});
}

TEST_CASE_TEMPLATE("every kind of operation does what the device does, in one slice", D, Cpu,
                   Deferred, Threaded<Cpu>) {
  Trace trace;
  Traced<D> device{trace, 2};
  typename Traced<D>::Stream stream{device, "s"};
  std::vector<float> from{3, 4}, to(2), ones{1, 1};
  std::vector<bf16> narrow(2);
  ExactSum sum;
  int runs = 0;
  const Context<Traced<D>> ctx{device, stream};
  fill(ctx, ones);
  copying(ctx, from, to);
  casting(ctx, from, narrow);
  squares(ctx, from, &sum);
  running(ctx, runs);
  each(ctx, to.data());
  device.synchronize(stream);
  CHECK(ones == std::vector<float>{0, 0});
  CHECK(to == std::vector<float>{4, 5});
  CHECK(narrow[0] == 3);
  CHECK(narrow[1] == 4);
  CHECK(sum.value() == 25);
  CHECK(runs == 1);
  CHECK(TraceEvents{json_of(trace)}.stream(2, "s").text() ==
        "fill copying casting squares running each");
}

TEST_CASE("what is recorded is the running, not the enqueueing") {
  Trace trace;
  Traced<Deferred> device{trace, 0};
  Traced<Deferred>::Stream first{device, "first"}, second{device, "second"};
  device.annotate(first, {"late", 0});
  device.run(first, reads(), writes(), [] { std::this_thread::sleep_for(3ms); });
  device.note_live(first, Purpose::gathered, 10);
  device.annotate(first, {"later", 1});
  device.run(first, reads(), writes(), [] { std::this_thread::sleep_for(1ms); });
  device.note_live(first, Purpose::gathered, 0);
  gelu(Context<Traced<Deferred>>{device, second});
  for (const auto* stream : trace.streams()) CHECK(stream->events().empty());
  device.drain(second);
  device.synchronize(first);

  const TraceEvents events{json_of(trace)};
  const auto& slices = events.stream(0, "first").operations;
  REQUIRE(slices.size() == 2);
  CHECK(slices[0].end_ns - slices[0].begin_ns >= 3'000'000);
  CHECK(slices[1].end_ns - slices[1].begin_ns >= 1'000'000);
  CHECK(events.stream(0, "second").operations[0].end_ns <= slices[0].begin_ns);
  REQUIRE(events.stream(0, "first").labels.size() == 2);
  CHECK(events.stream(0, "first").labels[0].name == "late 0");
  const auto& samples = events.live_bytes.at(0);
  REQUIRE(samples.size() == 2);
  CHECK(samples[0].bytes.at("gathered") == 10);
  CHECK(samples[0].ns >= slices[0].end_ns);
  CHECK(samples[0].ns <= slices[1].begin_ns);
  CHECK(samples[1].ns >= slices[1].end_ns);
}

TEST_CASE_TEMPLATE("a wait that joins two streams is an arrow", D, Cpu, Deferred, Threaded<Cpu>) {
  Trace trace;
  Traced<D> device{trace, 0};
  typename Traced<D>::Stream compute{device, "compute"}, communication{device, "communication"};
  const Context<Traced<D>> here{device, compute}, there{device, communication};
  typename Traced<D>::Event never, empty, gathered, later, again;

  device.wait(compute, never);  // never recorded
  device.record(empty, communication);
  device.wait(compute, empty);  // before anything
  gelu(there);
  device.record(gathered, communication);
  device.wait(communication, gathered);  // itself
  gelu(here);
  gelu(here);
  device.wait(compute, gathered);
  device.wait(compute, gathered);  // at once again
  gelu(here);                      // 2: the arrow's end
  device.wait(compute, gathered);  // later again
  gelu(here);
  gelu(there);  // 1
  gelu(there);  // 2
  device.record(later, communication);
  device.wait(compute, later);
  device.annotate(compute, {"backward", 1});
  device.wait(compute, gathered);  // older than what is known
  gelu(here);                      // 4: the second arrow's end
  device.record(again, compute);
  device.wait(communication, again);
  gelu(there);                  // 3: the third's
  device.wait(compute, again);  // itself
  device.record(again, compute);
  device.wait(communication, again);  // nothing follows
  device.synchronize(compute);
  device.synchronize(communication);

  const TraceEvents events{json_of(trace)};
  const auto& a = events.stream(0, "compute").operations;
  const auto& b = events.stream(0, "communication").operations;
  REQUIRE(a.size() == 5);
  REQUIRE(b.size() == 4);
  struct Arrow {
    const TraceEvents::Slice *from, *to;
  };
  const std::array expected{Arrow{&b[0], &a[2]}, Arrow{&b[2], &a[4]}, Arrow{&a[4], &b[3]}};
  REQUIRE(events.flows.size() == expected.size());
  for (const Arrow& arrow : expected) {
    std::size_t found = 0;
    for (const auto& [id, flow] : events.flows)
      found += flow.from[0].ns >= arrow.from->begin_ns && flow.from[0].ns <= arrow.from->end_ns &&
               flow.to[0].ns == arrow.to->begin_ns;
    CHECK(found == 1);
  }
}

TEST_CASE("live bytes: every sample has all purposes that its rank notes") {
  Trace trace;
  Traced<Cpu> device{trace, 1};
  Traced<Cpu>::Stream compute{device, "compute"}, communication{device, "communication"};
  device.note_live(communication, Purpose::gathered, 100);
  device.note_live(compute, Purpose::full_gradients, 7);
  device.note_live(communication, Purpose::gathered, 300);
  device.note_live(compute, Purpose::full_gradients, 0);
  const TraceEvents events{json_of(trace)};
  using Bytes = std::map<std::string, std::size_t>;
  std::vector<Bytes> seen;
  for (const auto& sample : events.live_bytes.at(1)) seen.push_back(sample.bytes);
  CHECK(seen == std::vector<Bytes>{{{"gathered", 100}, {"full_gradients", 0}},
                                   {{"gathered", 100}, {"full_gradients", 7}},
                                   {{"gathered", 300}, {"full_gradients", 7}},
                                   {{"gathered", 300}, {"full_gradients", 0}}});
}

TEST_CASE_TEMPLATE("ranks are processes of one trace, on one clock", D, Cpu, Threaded<Cpu>) {
  Trace trace;
  const auto began = std::chrono::steady_clock::now();
  launch(3, [&](Threads& comm) {
    Traced<D> device{trace, comm.rank()};
    typename Traced<D>::Stream compute{device, "compute"}, communication{device, "communication"};
    const Context<Traced<D>> ctx{device, communication};
    auto full = comm.gather_buffer<float>(device, 6);
    std::vector<float> shard{1, 2};
    for (std::size_t u = 0; u < 4; ++u) {
      device.annotate(communication, {"gather", u});
      comm.gather(ctx, std::span<const float>{shard}, full.span());
      device.note_live(communication, Purpose::gathered, full.size_bytes());
      typename Traced<D>::Event event;
      device.record(event, communication);
      device.wait(compute, event);
      device.annotate(compute, {"forward", u});
      gelu(Context<Traced<D>>{device, compute});
      comm.barrier(ctx);
    }
    device.synchronize(communication);
    device.synchronize(compute);
    CHECK(device.account().live_bytes(Purpose::gathered) == 8);
  });
  const auto lasted = std::chrono::steady_clock::now() - began;

  const TraceEvents events{json_of(trace)};
  CHECK(events.processes ==
        std::map<std::size_t, std::string>{{0, "rank 0"}, {1, "rank 1"}, {2, "rank 2"}});
  CHECK(events.streams.size() == 6);
  CHECK(events.flows.size() == 12);
  for (std::size_t rank = 0; rank < 3; ++rank) {
    const auto& communication = events.stream(rank, "communication");
    CHECK(communication.text() ==
          "gather 0 { gather barrier } gather 1 { gather barrier } gather 2 { gather barrier } "
          "gather 3 { gather barrier }");
    CHECK(events.stream(rank, "compute").text() ==
          "forward 0 { gelu } forward 1 { gelu } forward 2 { gelu } forward 3 { gelu }");
    CHECK(events.live_bytes.at(rank).size() == 4);
    CHECK(communication.operations.back().end_ns <= lasted / 1ns + 1'000'000'000);
    // Every rank leaves a barrier before any enters the next.
    for (std::size_t peer = 0; peer < 3; ++peer)
      CHECK(events.stream(peer, "communication").operations[1].begin_ns <=
            communication.operations[1].end_ns);
  }
}

TEST_CASE("a full buffer keeps what it has, counts the rest, and says so") {
  Trace trace{{.events_per_stream = 5}};
  Traced<Cpu> device{trace, 0};
  Traced<Cpu>::Stream full{device, "full"}, other{device, "other"};
  device.annotate(full, {"unit", 0});
  for (int i = 0; i < 10; ++i) gelu(Context<Traced<Cpu>>{device, full});
  device.annotate(full, {"unit", 1});
  device.note_live(full, Purpose::other, 1);
  CHECK(trace.dropped_events() == 8);
  Traced<Cpu>::Event event;
  device.record(event, full);
  device.wait(other, event);  // for an operation that is not in the trace
  gelu(Context<Traced<Cpu>>{device, other});
  device.wait(full, event);  // itself: no event
  CHECK(trace.dropped_events() == 8);

  const TraceEvents events{json_of(trace)};
  CHECK(events.dropped_events == 8);
  CHECK(events.stream(0, "full").text() == "unit 0 { gelu gelu gelu gelu }");
  CHECK(events.stream(0, "full").notes ==
        std::vector<std::string>{"8 events dropped: the buffer is full"});
  CHECK(events.stream(0, "other").text() == "gelu");
  CHECK(events.stream(0, "other").notes.empty());
  CHECK(events.flows.empty());
  CHECK_THROWS_WITH_AS((Trace{{.events_per_stream = 0}}),
                       "events_per_stream of a trace must be at least 1", ConfigError);
}

TEST_CASE_TEMPLATE("recording allocates nothing", D, Cpu, Threaded<Cpu>) {
  Trace trace;
  Traced<D> device{trace, 0};
  typename Traced<D>::Stream stream{device, "s"}, other{device, "o"};
  const Context<Traced<D>> ctx{device, stream};
  std::vector<float> x(10);
  const std::size_t before = allocations;
  for (std::size_t i = 0; i < 30'000; ++i) {  // beyond the buffer
    device.annotate(stream, {"unit", i});
    gelu(ctx);
    scale(ctx, x);
    device.note_live(stream, Purpose::gathered, i);
    typename Traced<D>::Event event;
    device.record(event, stream);
    device.wait(other, event);
  }
  device.synchronize(stream);
  device.synchronize(other);
  CHECK(allocations == before);
  CHECK(trace.dropped_events() > 0);
}

TEST_CASE("an operation that throws is recorded, and its error is the device's") {
  Trace trace;
  Traced<Cpu> device{trace, 0};
  Traced<Cpu>::Stream stream{device, "s"};
  CHECK_THROWS_AS(device.run(stream, reads(), writes(), [] { throw std::logic_error{"x"}; }),
                  std::logic_error);
  gelu(Context<Traced<Cpu>>{device, stream});
  CHECK(TraceEvents{json_of(trace)}.stream(0, "s").operations.size() == 2);
}

TEST_CASE("a trace may be written while streams run") {
  Trace trace;
  Traced<Deferred> device{trace, 0};
  Traced<Deferred>::Stream stream{device, "s"};
  for (std::size_t u = 0; u < 1000; ++u) {
    device.annotate(stream, {"unit", u});
    gelu(Context<Traced<Deferred>>{device, stream});
    device.note_live(stream, Purpose::gathered, u);
  }
  std::size_t seen = 0;
  {
    const std::jthread worker{[&] { device.synchronize(stream); }};
    while (seen < 1000) {
      const std::size_t now = TraceEvents{json_of(trace)}.stream(0, "s").operations.size();
      CHECK(seen <= now);
      seen = now;
    }
  }
  CHECK(seen == 1000);
}

TEST_CASE("names are escaped, numbers know no locale, an empty trace is valid") {
  struct Grouped : std::numpunct<char> {
    char do_thousands_sep() const override { return '.'; }
    char do_decimal_point() const override { return ','; }
    std::string do_grouping() const override { return "\1"; }
  };
  Trace trace{{.events_per_stream = 12345}};
  CHECK(TraceEvents{json_of(trace)}.streams.empty());
  Traced<Cpu> device{trace, 1234};
  const std::string name = "a \"quote\", a \\, a\nbreak,\x01, \xc3\xa9";
  {
    const std::string passing = name;
    Traced<Cpu>::Stream stream{device, passing};
    device.annotate(stream, {"tab\tand \"", 1000});
    gelu(Context<Traced<Cpu>>{device, stream});
    device.note_live(stream, Purpose::gathered, 1'000'000);
  }
  std::ostringstream out;
  out.imbue(std::locale{std::locale::classic(), new Grouped});
  write_trace(out, trace);
  CHECK(out.str() == json_of(trace));
  const TraceEvents events{out.str()};
  CHECK(events.processes.at(1234) == "rank 1234");
  CHECK(events.stream(1234, name).labels[0].name == "tab\tand \" 1000");
}

TEST_CASE("the rest is the device's own") {
  Trace trace;
  Traced<Opened> device{trace, 0, 42};
  CHECK(device.execution() == 42);
  {
    auto buffer = device.allocate<float>(10, Purpose::gradients);
    CHECK(std::as_const(device).account().live_bytes(Purpose::gradients) == 40);
    device.account().add(Purpose::other, 1);
  }
  CHECK(device.account().live_bytes() == 1);
  void* memory = device.allocate_zeroed(100);
  CHECK(static_cast<char*>(memory)[99] == 0);
  Traced<Opened>::deallocate(memory);
  // A stream without a device is recorded from its first operation.
  Traced<Opened>::Stream stream;
  CHECK(trace.streams().empty());
  device.synchronize(stream);
  gelu(Context<Traced<Opened>>{device, stream});
  CHECK(TraceEvents{json_of(trace)}.stream(0, "stream").text() == "gelu");
}

TEST_CASE("the bare name of a function") {
  const auto check = [](std::string_view says, std::string_view name) {
    CAPTURE(says);
    CHECK(detail::bare_function_name(says) == name);
  };
  // As g++ says them.
  check("int main()", "main");
  check("void sx::tf() [with int N = 1]", "tf");
  check("static decltype(auto) sx::X<T>::f(U, std::array<T, 3>*) [with U = double; T = int]", "f");
  check(
      "sx::X<int>::f<double>(double, std::array<int, 3>*)::<lambda(auto:11)> [with auto:11 = int]",
      "f");
  check("sx::X<T>::X() [with T = int]", "X");
  check("sx::X<T>::~X() [with T = int]", "~X");
  check("void sx::X<T>::operator()(int) const [with T = int]", "operator()");
  check("bool sx::X<T>::operator<(int) const [with T = int]", "operator<");
  check("sx::X<T>::operator int*() [with T = int]", "operator int*");
  check("std::string sx::X<T>::g() const requires  sizeof (T) > 1 [with T = int; std::string = s]",
        "g");
  check("void {anonymous}::anon(int)", "anon");
  check("void (anonymous namespace)::anon(int)", "anon");
  check("void {anonymous}::anon(int)::L::m()", "anon");
  check("std::array<int, (3 > 2)> my_operator(std::array<int, 3>)", "my_operator");
  // As clang 14 says them.
  check("gather", "gather");
  check("operator()", "operator()");
  check("operator<", "operator<");
  check("", "");
}

}  // namespace shardexpr::testing
