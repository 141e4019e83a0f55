// SPDX-License-Identifier: Apache-2.0
// A trace of a GPU's streams, and of what the host does on them, over the emulated runtime, whose
// GPU has a clock of its own.
#include <shardexpr/device/cuda.cuh>
#include <shardexpr/device/trace_json.hpp>
#include <shardexpr/device/traced.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../comm/watchdog.hpp"
#include "../support/error_of.hpp"
#include "../support/trace_events.hpp"
#include "gpu_trainers.hpp"
#include "restore.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
using emulated::Faults;
using emulated::Restore;
using shardexpr::testing::Watchdog;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Traced = sx::Traced<sx::Cuda>;
using Context = sx::Context<Traced>;

static_assert(sx::Device<Traced> && sx::HasHost<Traced> && !sx::detail::runs_on_host<Traced>);
static_assert(sx::detail::Stamps<sx::Cuda> && !sx::detail::Stamps<sx::Cpu>);

std::string json_of(const sx::Trace& trace) {
  std::ostringstream out;
  sx::write_trace(out, trace);
  return out.str();
}
/// Clocks agree so far, on a busy machine.
constexpr std::int64_t slack_ns = 5'000'000;
TraceEvents read(const sx::Trace& trace) { return TraceEvents{json_of(trace), slack_ns}; }

void sleep_ms(int ms) { std::this_thread::sleep_for(milliseconds{ms}); }

// Operations with names of their own.
void gpu_work(const Context& ctx, int ms = 0) {
  ctx.run(sx::reads(), sx::writes(), [ms] { sleep_ms(ms); });
}
void host_work(const Context& ctx, int ms = 0) {
  ctx.device.host().run(ctx.stream, sx::reads(), sx::writes(), [ms] { sleep_ms(ms); });
}
void scale(const Context& ctx, std::span<float> x) {
  float* data = x.data();
  ctx.for_each(x.size(), sx::reads(), sx::writes(x), [=](std::size_t i) { data[i] *= 2; });
}
void library(const Context& ctx, std::span<float> x) {
  ctx.enqueue(sx::reads(), sx::writes(x), [&](cudaStream_t on) {
    CHECK(cudaMemsetAsync(x.data(), 0, x.size_bytes(), on) == cudaSuccess);
  });
}
void up(const Context& ctx, std::span<const float> from, std::span<float> to) {
  ctx.device.copy(ctx.stream, from, to);
}
void host_zero(const Context& ctx, std::span<float> to) {
  ctx.device.host().fill_zero(ctx.stream, to);
}

TEST_CASE("what the GPU and its host do on a stream, in order, within labels") {
  const Watchdog watchdog{"order", seconds{60}};
  sx::Trace trace;
  {
    Traced device{trace, 3};
    Traced::Stream stream{device, "both"};
    const Context ctx{device, stream};
    const auto a = device.allocate<float>(100, sx::Purpose::other);
    const auto h = device.host().allocate<float>(100, sx::Purpose::other);
    for (float& value : h.span()) value = 3;
    gpu_work(ctx);
    device.annotate(stream, {"forward", 1});
    up(ctx, h.span(), a.span());
    scale(ctx, a.span());
    host_work(ctx);
    device.annotate(stream, {"update"});
    gpu_work(ctx);
    host_zero(ctx, h.span());
    device.annotate(stream, {});
    CHECK(trace.streams()[0]->events().empty());  // nobody has waited
    device.synchronize(stream);
    CHECK(read(trace).stream(3, "both").text() ==
          "gpu_work forward 1 { up scale host_work } update { gpu_work host_zero }");
    CHECK(a.data()[99] == 6);
    CHECK(h.data()[99] == 0);
    library(ctx, a.span());
    host_work(ctx);
  }
  CHECK(read(trace).stream(3, "both").text() ==
        "gpu_work forward 1 { up scale host_work } update { gpu_work host_zero } library "
        "host_work");
  CHECK(trace.dropped_events() == 0);
}

TEST_CASE("times are the host's, and last as long as the operations") {
  const Watchdog watchdog{"times", seconds{60}};
  sx::Trace trace;
  const auto zero = std::chrono::steady_clock::now();
  const auto now_ns = [&] {
    return std::chrono::nanoseconds{std::chrono::steady_clock::now() - zero}.count();
  };
  Traced device{trace, 0};
  Traced::Stream stream{device, "s"};
  const Context ctx{device, stream};
  const std::int64_t before = now_ns();
  gpu_work(ctx, 30);
  host_work(ctx, 20);
  gpu_work(ctx, 10);
  device.synchronize(stream);
  const std::int64_t after = now_ns();
  const TraceEvents events = read(trace);
  const auto& operations = events.stream(0, "s").operations;
  REQUIRE(operations.size() == 3);
  std::int64_t least = before - slack_ns;
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& [name, begin, end] = operations[i];
    CHECK(begin >= least);
    CHECK(end - begin >= std::int64_t{30 - 10 * static_cast<int>(i)} * 999'000);
    least = end;
  }
  CHECK(operations[2].end_ns <= after + slack_ns);
  CHECK(operations[2].end_ns - operations[0].begin_ns >= 59'000'000);
  CHECK(events.clock_uncertainty_ns > 0);
  CHECK(events.clock_uncertainty_ns < 100'000'000);
  const sx::detail::ClockMatch match = sx::Cuda{}.match_clocks();
  CHECK(std::abs(match.offset_ns + sx::detail::gpu_time_ahead_ns) <= match.uncertainty_ns);
}

TEST_CASE("who waited for whom, across streams of both") {
  const Watchdog watchdog{"waits", seconds{60}};
  sx::Trace trace;
  Traced device{trace, 0};
  Traced::Stream compute{device, "compute"}, other{device, "other", sx::OwnThread{}};
  Traced::Event event, never;
  const Context ctx{device, compute}, away{device, other};
  gpu_work(ctx, 10);
  device.record(event, compute);
  device.wait(other, event);
  device.wait(other, never);
  gpu_work(away);
  host_work(away, 10);
  device.record(event, other);
  device.wait(compute, event);
  gpu_work(ctx);
  device.synchronize(compute);
  device.synchronize(other);
  const TraceEvents events = read(trace);
  CHECK(events.flows.size() == 2);  // what TraceEvents checks: from an operation's end to a begin
  CHECK(events.stream(0, "compute").text() == "gpu_work gpu_work");
}

TEST_CASE("live bytes, of the GPU and of its host, and bytes that were retired") {
  sx::Trace trace;
  {
    Traced device{trace, 1};
    Traced::Stream stream{device, "s"};
    const auto a = device.allocate<float>(10, sx::Purpose::other);
    device.note_live(stream, sx::Purpose::gathered, 1000);
    device.host().note_live(stream, sx::Purpose::transfers, 70);
    device.note_live(stream, sx::Purpose::gathered, 10);
    device.retire(stream, a.span());
  }
  const TraceEvents events = read(trace);
  const auto& samples = events.live_bytes.at(1);
  REQUIRE(samples.size() == 3);
  CHECK(samples[0].bytes.at("gathered") == 1000);
  CHECK(samples[1].bytes.at("host transfers") == 70);
  CHECK(samples[2].bytes.at("gathered") == 10);
}

TEST_CASE("a stream whose buffer is full keeps what it has, counts the rest, and works on") {
  sx::Trace trace{{.events_per_stream = 3}};
  {
    Traced device{trace, 0};
    Traced::Stream stream{device, "s"};
    const Context ctx{device, stream};
    const auto a = device.allocate<float>(10, sx::Purpose::other);
    const auto h = device.host().allocate<float>(10, sx::Purpose::other);
    h.data()[9] = 4;
    gpu_work(ctx);
    host_work(ctx);
    gpu_work(ctx);
    up(ctx, h.span(), a.span());
    scale(ctx, a.span());
    host_work(ctx);
    device.annotate(stream, {"late"});
    device.note_live(stream, sx::Purpose::gathered, 1000);
    device.synchronize(stream);
    CHECK(a.data()[9] == 8);
  }
  CHECK(trace.dropped_events() == 5);
  CHECK(read(trace).stream(0, "s").text() == "gpu_work host_work gpu_work");
}

TEST_CASE("the trace is there when the GPU has gone, and nothing pinned with it") {
  sx::Trace trace;
  {
    Traced device{trace, 0};
    Traced::Stream stream{device, "s"};
    gpu_work(Context{device, stream});
    CHECK(device.host().account().live_bytes() == 0);  // nobody is charged for times
    CHECK(emulated::Memory::instance().pinned_count() > 0);
  }
  CHECK(emulated::Memory::instance().pinned_count() == 0);
  CHECK(read(trace).stream(0, "s").text() == "gpu_work");
}

TEST_CASE("what fails is thrown as without a trace, and what did not run is not in it") {
  const Watchdog watchdog{"failures", seconds{60}};
  {
    sx::Trace trace;
    Traced device{trace, 0};
    Traced::Stream stream{device, "s"};
    const Context ctx{device, stream};
    host_work(ctx);
    device.host().run(stream, sx::reads(), sx::writes(),
                      [] { throw std::runtime_error{"no such luck"}; });
    host_work(ctx);
    CHECK(error_of([&] { device.synchronize(stream); }) == "no such luck");
    device.drain(stream);
    const TraceEvents events = read(trace);
    const auto& operations = events.stream(0, "s").operations;
    CHECK(operations.size() == 2);  // that which threw is there
  }
  {
    const Restore restore;
    sx::Trace trace;
    Traced device{trace, 0};
    Traced::Stream stream{device, "s"};
    const Context ctx{device, stream};
    gpu_work(ctx);
    Faults::instance().fail("cudaLaunchKernelEx", cudaErrorLaunchFailure, 1);  // not the stamp
    CHECK(error_of([&] { gpu_work(ctx); }) ==
          "CUDA: start an operation: emulated failure (cudaErrorLaunchFailure)");
    host_work(ctx);
    device.synchronize(stream);
    CHECK(read(trace).stream(0, "s").text() == "gpu_work host_work");
    Faults::instance().fail("kernel", cudaErrorIllegalAddress,
                            1);  // the operation behind its stamp
    CHECK(error_of([&] {
            gpu_work(ctx);  // CUDA may tell it there already
            device.synchronize(stream);
          }).find("IllegalAddress") != std::string::npos);
    device.drain(stream);
    CHECK(read(trace).stream(0, "s").text() == "gpu_work host_work");
  }
  {
    const Restore restore;
    sx::Trace trace;
    Traced device{trace, 0};
    Faults::instance().fail("cudaStreamSynchronize", cudaErrorLaunchFailure);
    CHECK(error_of([&] {
            Traced::Stream stream{device, "s"};
          }) == "CUDA: ask a GPU for its time: emulated failure (cudaErrorLaunchFailure)");
  }
}

/// As `gpu::ByThreads`, on devices of one trace.
struct InTrace {
  sx::Trace& trace;
  template <class Body>
  void operator()(std::size_t world, Body body) const {
    sx::launch(world, [&](sx::Threads& comm) {
      Traced device{trace, comm.rank()};
      body(comm, device);
    });
  }
};
TEST_CASE("a trainer on a traced GPU: the same bits, and copies beside what is computed") {
  const Watchdog watchdog{"a traced trainer", seconds{200}};
  sx::Trace trace;
  using Trainer = sx::Sharded<line::Line, sx::OffloadAll, sx::On<Traced>>;
  CHECK(gpu::train_by<Trainer>(InTrace{trace}, 2) == gpu::train<sx::Cuda, sx::OffloadAll>(2));
  CHECK(trace.dropped_events() == 0);
  const TraceEvents events = read(trace);
  for (const std::size_t rank : {0, 1}) {
    CAPTURE(rank);
    const auto count = [&](const char* stream, const std::string& label) {
      std::size_t n = 0;
      for (const auto& slice : events.stream(rank, stream).labels) n += slice.name == label;
      return n;
    };
    // Twenty steps of two micro-batches.
    CHECK(count("compute", "forward 0") == 40);
    CHECK(count("compute", "backward 2") == 40);
    CHECK(count("up", "upload 1") == 80);  // for forward and for backward
    CHECK(count("host", "keep gradients 3") == 40);
    CHECK(count("host", "update 4") == 20);
    // The copies are slices of their own stream, which take time.
    std::size_t copies = 0;
    std::int64_t copied_ns = 0;
    for (const auto& copy : events.stream(rank, "up").operations) {
      ++copies;
      copied_ns += copy.end_ns - copy.begin_ns;
    }
    CHECK(copies >= 5 * 60);
    CHECK(copied_ns > 0);
  }
}

}  // namespace
