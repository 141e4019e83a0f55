// SPDX-License-Identifier: Apache-2.0
// The device Cuda over an emulated runtime: what its streams, events, threads and memory do, and
// what it says when CUDA fails.
#include <shardexpr/device/checked.hpp>
#include <shardexpr/device/cuda.cuh>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../comm/watchdog.hpp"
#include "../support/error_of.hpp"
#include "restore.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
using emulated::Faults;
using emulated::Restore;
using shardexpr::testing::Watchdog;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Order -------------------------------------------------------------------------------------------

TEST_CASE("operations of the GPU and of its host, in one stream, run in order") {
  const Watchdog watchdog{"order", seconds{60}};
  const Restore restore;
  emulated::machine.longest_delay = std::chrono::microseconds{200};
  sx::Cuda device;
  sx::Cuda::Stream stream{device, "both"};
  std::vector<int> log;
  std::vector<int> wanted;
  std::mt19937 random{3};
  for (int i = 0; i < 2000; ++i) {
    const auto note = [&log, i] { log.push_back(i); };
    if (random() % 2 == 0)
      device.run(stream, sx::reads(), sx::writes(), note);
    else
      device.host().run(stream, sx::reads(), sx::writes(), note);
    wanted.push_back(i);
  }
  device.synchronize(stream);
  CHECK(log == wanted);
}

TEST_CASE("enqueuing waits for nothing") {
  const Watchdog watchdog{"enqueuing", seconds{60}};
  sx::Cuda device;
  sx::Cuda::Stream stream{device, "held"}, other{device, "waits"};
  sx::Cuda::Event event;
  std::atomic<bool> go{false};
  std::atomic<int> done{0};
  const auto count = [&] { ++done; };
  device.run(stream, sx::reads(), sx::writes(), count);
  device.host().run(stream, sx::reads(), sx::writes(), [&] {
    while (!go) std::this_thread::yield();
  });
  device.run(stream, sx::reads(), sx::writes(), count);
  device.record(event, stream);
  device.wait(other, event);
  device.run(other, sx::reads(), sx::writes(), count);
  device.host().run(other, sx::reads(), sx::writes(), count);
  std::this_thread::sleep_for(milliseconds{20});
  CHECK(done == 1);
  go = true;
  device.synchronize(other);
  CHECK(done == 4);
}

TEST_CASE("an event stands for the point of its last record, a wait for what it found") {
  const Watchdog watchdog{"events", seconds{60}};
  // Who records and who waits: the GPU, or a thread of the host that the stream did not have yet.
  for (const int kinds : {0, 1, 2, 3}) {
    CAPTURE(kinds);
    const bool records_on_host = kinds % 2 != 0, waits_on_host = kinds / 2 != 0;
    sx::Cuda device;
    sx::Cuda::Stream first{device, "first"}, second{device, "second"}, waits{device, "waits"};
    sx::Cuda::Event event, never;
    std::atomic<bool> go{false}, reached{false};
    const auto enqueue = [&](sx::Cuda::Stream& stream, bool on_host, auto work) {
      if (on_host)
        device.host().run(stream, sx::reads(), sx::writes(), work);
      else
        device.run(stream, sx::reads(), sx::writes(), work);
    };
    device.wait(waits, never);  // nothing to wait for
    enqueue(first, records_on_host, [] {});
    device.record(event, first);
    device.wait(waits, event);
    enqueue(second, records_on_host, [&] {
      while (!go) std::this_thread::yield();
    });
    device.record(event, second);  // the wait above is not for this
    enqueue(waits, waits_on_host, [&] { reached = true; });
    device.synchronize(waits);
    CHECK(reached);
    reached = false;
    sx::Cuda::Stream fresh{device, "fresh"};
    device.wait(fresh, event);
    enqueue(fresh, waits_on_host, [&] { reached = true; });
    std::this_thread::sleep_for(milliseconds{10});
    CHECK_FALSE(reached);
    go = true;
    device.synchronize(fresh);
    CHECK(reached);
  }
}

TEST_CASE(
    "random graphs of operations of the GPU and its host give the values of a sequential run") {
  const Watchdog watchdog{"random graphs", seconds{200}};
  const Restore restore;
  emulated::machine.longest_delay = std::chrono::microseconds{30};
  constexpr std::size_t streams = 3, cells = 6, graphs = 300;
  sx::Cuda device;
  std::array<std::unique_ptr<sx::Cuda::Stream>, streams> stream;
  for (auto& s : stream) s = std::make_unique<sx::Cuda::Stream>(device, "random");
  std::mt19937 random{11};
  std::size_t wrong = 0;
  for (std::size_t graph = 0; graph < graphs; ++graph) {
    std::array<std::uint64_t, cells> cell{}, expected{};
    std::array<std::array<bool, streams>, cells> is_read{};
    std::array<std::size_t, cells> written_by;
    written_by.fill(streams);
    std::array<sx::Cuda::Event, streams> done;
    const std::size_t operations = 5 + random() % 20;
    for (std::size_t i = 0; i < operations; ++i) {
      const std::size_t s = random() % streams, from = random() % cells, to = random() % cells;
      const auto wait_for = [&](std::size_t other) {
        if (other == s || other == streams) return;
        device.record(done[other], *stream[other]);
        device.wait(*stream[s], done[other]);
      };
      wait_for(written_by[from]);
      wait_for(written_by[to]);
      for (std::size_t other = 0; other < streams; ++other)
        if (is_read[to][other]) wait_for(other);
      const std::uint64_t salt = random();
      const auto work = [&cell, from, to, salt] { cell[to] = cell[to] * 31 + cell[from] + salt; };
      if (random() % 2 == 0)
        device.run(*stream[s], sx::reads(), sx::writes(), work);
      else
        device.host().run(*stream[s], sx::reads(), sx::writes(), work);
      expected[to] = expected[to] * 31 + expected[from] + salt;
      is_read[from][s] = true;
      is_read[to] = {};
      written_by[to] = s;
    }
    for (auto& s : stream) device.synchronize(*s);
    wrong += cell != expected;
  }
  CHECK(wrong == 0);
}

// Failures ----------------------------------------------------------------------------------------

TEST_CASE("what the host throws is thrown by its stream and by those that wait for it, no other") {
  const Watchdog watchdog{"a host's failure", seconds{60}};
  sx::Cuda device;
  sx::Cuda::Stream fails{device, "fails"}, waits{device, "waits"}, apart{device, "apart"},
      gpu{device, "of the GPU alone"};
  sx::Cuda::Event event;
  bool ran = false, ran_apart = false;
  device.host().run(fails, sx::reads(), sx::writes(),
                    [] { throw std::runtime_error{"no such luck"}; });
  device.host().run(fails, sx::reads(), sx::writes(), [&] { ran = true; });
  device.record(event, fails);
  device.wait(waits, event);
  device.host().run(waits, sx::reads(), sx::writes(), [&] { ran = true; });
  device.run(waits, sx::reads(), sx::writes(), [] {});  // the GPU goes on
  device.wait(gpu, event);
  device.run(gpu, sx::reads(), sx::writes(), [] {});
  device.host().run(apart, sx::reads(), sx::writes(), [&] { ran_apart = true; });
  CHECK(error_of([&] { device.synchronize(fails); }) == "no such luck");
  CHECK(error_of([&] { device.synchronize(fails); }) == "no such luck");
  CHECK(error_of([&] { device.synchronize(waits); }) == "no such luck");
  CHECK(error_of([&] { device.synchronize(gpu); }) == "no such luck");
  CHECK(error_of([&] { device.synchronize(apart); }) == "");
  CHECK_FALSE(ran);
  CHECK(ran_apart);
  device.drain(fails);
}

TEST_CASE("a kernel that fails is told where the host waits, with CUDA's words") {
  const Watchdog watchdog{"a failed kernel", seconds{60}};
  const Restore restore;
  sx::Cuda device;
  sx::Cuda::Stream stream{device, "stream"};
  bool ran = false;
  std::atomic<bool> go{false};
  Faults::instance().fail("kernel", cudaErrorIllegalAddress, 1);
  device.run(stream, sx::reads(), sx::writes(), [&] {
    while (!go) std::this_thread::yield();
  });
  device.run(stream, sx::reads(), sx::writes(), [] {});
  device.host().run(stream, sx::reads(), sx::writes(), [&] { ran = true; });
  go = true;
  const std::string error = error_of([&] { device.synchronize(stream); });
  CHECK(error ==
        "CUDA: an operation before one of the host: an illegal memory access was encountered "
        "(cudaErrorIllegalAddress)");
  CHECK_FALSE(ran);
  CHECK(error_of([&] { device.run(stream, sx::reads(), sx::writes(), [] {}); }) ==
        "CUDA: wait for the host: an illegal memory access was encountered "
        "(cudaErrorIllegalAddress)");
  device.drain(stream);
}

TEST_CASE("each call of CUDA that fails is an error that names it") {
  const Restore restore;
  sx::Cuda device;
  sx::Cuda::Stream stream{device, "stream"};
  const auto a = device.allocate<float>(8, sx::Purpose::other);
  const auto h = device.host().allocate<float>(8, sx::Purpose::other);
  sx::Cuda::Event event;
  const auto check = [&](const char* call, const std::string& what, auto body) {
    CAPTURE(call);
    Faults::instance().fail(call, cudaErrorLaunchFailure);
    CHECK(error_of(body) == "CUDA: " + what + ": emulated failure (cudaErrorLaunchFailure)");
    Faults::instance().heal();
    CHECK(error_of([&] { device.synchronize(stream); }) == "");
  };
  check("cudaLaunchKernelEx", "start an operation",
        [&] { device.run(stream, sx::reads(), sx::writes(), [] {}); });
  check("cudaLaunchKernelEx", "start an element-wise operation",
        [&] { device.for_each(stream, 3, sx::reads(), sx::writes(), [](std::size_t) {}); });
  check("cudaLaunchKernelEx", "sum squares", [&] {
    device.sum_squares(stream, std::span<const float>{a.span()},
                       static_cast<sx::ExactSum*>(nullptr));
  });
  check("cudaMemcpyAsync", "copy",
        [&] { device.copy(stream, std::span<const float>{h.span()}, a.span()); });
  check("cudaMemsetAsync", "zero", [&] { device.fill_zero(stream, a.span()); });
  check("cudaEventRecord", "record an event", [&] { device.record(event, stream); });
  check("cudaStreamCreateWithFlags", "make a stream", [&] {
    sx::Cuda::Stream other{device, "other"};
  });
  check("cudaHostRegister", "pin memory of the host",
        [&] { (void)device.host().allocate<float>(9999, sx::Purpose::other); });
  check("cudaSetDevice", "choose a device", [&] { sx::Cuda other{1}; });
}

TEST_CASE("a driver without waits for memory is told what is wanted") {
  const Watchdog watchdog{"no waits", seconds{60}};
  const Restore restore;
  sx::Cuda device;
  sx::Cuda::Stream stream{device, "stream"};
  device.host().run(stream, sx::reads(), sx::writes(), [] {});
  Faults::instance().fail("cuStreamWaitValue32", cudaErrorNotSupported);
  CHECK(error_of([&] { device.run(stream, sx::reads(), sx::writes(), [] {}); }) ==
        "CUDA: the driver does not let streams wait for memory (cuStreamWaitValue32); on a virtual "
        "GPU ask for one that does");
}

TEST_CASE("no GPU, no such GPU, a driver that is too old") {
  const Restore restore;
  CHECK(error_of([] { sx::Cuda device{2}; }) ==
        "there is no GPU 2: this process sees 2, the last is 1");
  CHECK(error_of([] { sx::Cuda device{-1}; }) ==
        "there is no GPU -1: this process sees 2, the last is 1");
  emulated::machine.has_stream_waits = false;
  CHECK(error_of([] { sx::Cuda device; }) ==
        "CUDA: the driver lacks cuStreamWaitValue32; install one of CUDA 12 or later");
  emulated::machine.devices = 0;
  CHECK(error_of([] { sx::Cuda device; }) ==
        "there is no GPU for Cuda{0}: no CUDA-capable device is detected; run where there is one, "
        "or train on the Cpu");
  Faults::instance().fail("cudaGetDeviceCount", cudaErrorInsufficientDriver);
  CHECK(error_of([] { sx::Cuda device; }) ==
        "there is no GPU for Cuda{0}: the driver is older than the runtime; run where there is "
        "one, or train on the Cpu");
}

TEST_CASE("a GPU that is too old, or that no kernel was compiled for") {
  const Restore restore;
  emulated::machine.generation = 7;
  emulated::machine.minor = 5;
  CHECK(error_of([] { sx::Cuda device{1}; }) ==
        "GPU 1 (emulated GPU, compute capability 7.5) is too old for Cuda, which needs compute "
        "capability 8.0 or later; run on such a GPU, or train on the Cpu");
  emulated::machine.generation = 8;
  emulated::machine.minor = 0;
  CHECK(error_of([] { sx::Cuda device; }) == "");
  emulated::machine.generation = 12;
  emulated::machine.minor = 1;
  for (const cudaError_t error : {cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction,
                                  cudaErrorUnsupportedPtxVersion}) {
    Faults::instance().fail("cudaFuncGetAttributes", error);
    CHECK(error_of([] { sx::Cuda device; }) ==
          "GPU 0 (emulated GPU, compute capability 12.1) is none that this program's kernels were "
          "compiled for; compile it with nvcc -gencode arch=compute_121,code=sm_121 (CMake: "
          "CMAKE_CUDA_ARCHITECTURES 121)");
    CHECK(cudaGetLastError() == cudaSuccess);
  }
  Faults::instance().fail("cudaFuncGetAttributes", cudaErrorLaunchFailure);
  CHECK(error_of([] { sx::Cuda device; }) ==
        "CUDA: look at a kernel: emulated failure (cudaErrorLaunchFailure)");
  for (const char* call : {"cudaDeviceGetAttribute", "cudaGetDeviceProperties"}) {
    Faults::instance().heal();
    emulated::machine.generation = 7;
    Faults::instance().fail(call, cudaErrorLaunchFailure);
    CHECK(error_of([] { sx::Cuda device; }).find("emulated failure") != std::string::npos);
  }
}

// Memory ------------------------------------------------------------------------------------------

TEST_CASE("a GPU tells what could be allocated there, what is kept included") {
  const Restore restore;
  emulated::machine.memory_bytes = 10'000;
  sx::Cuda device, other{1};
  CHECK(device.available_bytes() == 10'000);
  {
    const auto a = device.allocate<char>(6000, sx::Purpose::other);
    CHECK(device.available_bytes() == 4000);
    CHECK(other.available_bytes() == 10'000);
    { const auto h = device.host().allocate<char>(500, sx::Purpose::other); }  // is no GPU's
    CHECK(device.available_bytes() == 4000);
  }
  CHECK(emulated::Memory::instance().used_bytes(0) == 6000);
  CHECK(device.available_bytes() == 10'000);
  const auto b = device.allocate<char>(10'000, sx::Purpose::other);
  CHECK(device.available_bytes() == 0);
  Faults::instance().fail("cudaMemGetInfo", cudaErrorLaunchFailure);
  CHECK(error_of([&] { (void)device.available_bytes(); }) ==
        "CUDA: ask for free memory: emulated failure (cudaErrorLaunchFailure)");
  CHECK(sx::Checked<sx::Cuda>{}.available_bytes() == 0);
}
TEST_CASE("the host beside a GPU tells what Linux says, and what it keeps pinned") {
  std::istringstream meminfo{
      "MemTotal:       16000 kB\nMemFree: 5 kB\nMemAvailable:    1234 kB\nBuffers: 7 kB\n"};
  CHECK(sx::detail::available_host_bytes(meminfo) == 1234 * 1024);
  std::istringstream nothing{"MemTotal: 3 kB\n"}, other{"MemAvailable: 3 pages\n"};
  constexpr std::size_t no_limit = std::numeric_limits<std::size_t>::max();
  CHECK(sx::detail::available_host_bytes(nothing) == no_limit);
  CHECK(sx::detail::available_host_bytes(other) == no_limit);
  // This machine's own, roughly: others use it too.
  sx::Cuda device;
  CHECK(device.host().available_bytes() > 1'000'000);
  CHECK(device.host().available_bytes() < (std::size_t{1} << 50));
}

TEST_CASE("memory is zeroed, charged, kept for who asks for as much, and given back in the end") {
  const Restore restore;
  auto& memory = emulated::Memory::instance();
  {
    sx::Cuda device{1};
    const float* at = nullptr;
    {
      const auto a = device.allocate<float>(1000, sx::Purpose::other);
      const auto h = device.host().allocate<float>(500, sx::Purpose::other);
      CHECK(device.account().live_bytes() == 4000);
      CHECK(device.host().account().live_bytes() == 2000);
      CHECK(memory.used_bytes(1) == 4000);
      CHECK(memory.used_bytes(0) == 0);
      CHECK(memory.pinned_count() == 1);
      at = a.data();
      for (std::size_t i = 0; i < 1000; ++i) {
        CHECK(a.data()[i] == 0);
        a.data()[i] = 1;
      }
      for (std::size_t i = 0; i < 500; ++i) h.data()[i] = 1;
    }
    CHECK(device.account().live_bytes() == 0);
    CHECK(memory.used_bytes(1) == 4000);  // kept
    const auto again = device.allocate<float>(1000, sx::Purpose::other);
    const auto host_again = device.host().allocate<float>(500, sx::Purpose::other);
    CHECK(again.data() == at);
    CHECK(again.data()[999] == 0);
    CHECK(host_again.data()[499] == 0);
    CHECK(memory.used_bytes(1) == 4000);
    CHECK(memory.pinned_count() == 1);
    CHECK(reinterpret_cast<std::uintptr_t>(host_again.data()) % sx::host_alignment_bytes == 0);
  }
  CHECK(memory.used_bytes(1) == 0);
  CHECK(memory.pinned_count() == 0);
}

TEST_CASE("when memory is out, what is kept goes first; then it is std::bad_alloc, and no charge") {
  const Restore restore;
  emulated::machine.memory_bytes = 10'000;
  sx::Cuda device;
  { const auto kept = device.allocate<char>(6000, sx::Purpose::other); }
  const auto a = device.allocate<char>(8000, sx::Purpose::other);
  CHECK(emulated::Memory::instance().used_bytes(0) == 8000);
  CHECK_THROWS_AS((void)device.allocate<char>(3000, sx::Purpose::other), std::bad_alloc);
  CHECK(device.account().live_bytes() == 8000);
  sx::Cuda::Stream stream{device, "stream"};  // the error was told, and is not met again
  device.fill_zero(stream, a.span());
  device.synchronize(stream);
}

TEST_CASE("a buffer goes while another stream of the GPU waits for this thread") {
  const Watchdog watchdog{"a buffer goes", seconds{60}};
  sx::Cuda device, peer;
  sx::Cuda::Stream stream{peer, "peer"};
  std::atomic<bool> go{false};
  peer.host().run(stream, sx::reads(), sx::writes(), [&] {
    while (!go) std::this_thread::yield();
  });
  peer.run(stream, sx::reads(), sx::writes(), [] {});
  { const auto a = device.allocate<float>(1000, sx::Purpose::other); }
  { const auto h = device.host().allocate<float>(1000, sx::Purpose::other); }
  const auto b = device.allocate<float>(2000, sx::Purpose::other);
  go = true;
  peer.synchronize(stream);
  CHECK(b.count() == 2000);
}

// Values ------------------------------------------------------------------------------------------

template <class T>
std::array<std::uint64_t, 2> squares_on(auto& device, const std::vector<T>& values) {
  typename std::remove_reference_t<decltype(device)>::Stream stream{device, "sums"};
  const auto a = device.template allocate<T>(values.size(), sx::Purpose::other);
  const auto sum = device.template allocate<sx::ExactSum>(1, sx::Purpose::other);
  device.copy(stream, std::span<const T>{values}, a.span());
  device.sum_squares(stream, std::span<const T>{a.span()}, sum.data());
  const double one = [&] {
    device.synchronize(stream);
    return sum.data()->value();
  }();
  device.sum_squares(stream, std::span<const T>{a.span()}, sum.data());  // adds
  device.synchronize(stream);
  return {std::bit_cast<std::uint64_t>(one), std::bit_cast<std::uint64_t>(sum.data()->value())};
}
TEST_CASE_TEMPLATE("sums of squares have the Cpu's bits", T, float, sx::bf16, sx::fp16) {
  sx::Cpu cpu;
  sx::Cuda cuda;
  std::mt19937 random{5};
  std::normal_distribution<float> normal{0, 3};
  for (const std::size_t count : {1, 15, 63, 64, 65, 1000, 4096, 100'001}) {
    CAPTURE(count);
    std::vector<T> values(count);
    for (T& value : values)
      value = static_cast<T>(std::ldexp(normal(random), static_cast<int>(random() % 8)));
    CHECK(squares_on(cuda, values) == squares_on(cpu, values));
    for (const float special :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      values[count / 2] = static_cast<T>(special);
      const auto found = std::bit_cast<double>(squares_on(cuda, values)[0]);
      CHECK((std::isnan(special) ? std::isnan(found) : std::isinf(found)));
    }
  }
}

TEST_CASE("a check of Cuda sees the accesses that it sees of the Cpu") {
  const Watchdog watchdog{"checked", seconds{60}};
  sx::Checked<sx::Cuda> device{sx::CheckOptions{}};
  sx::Checked<sx::Cuda>::Stream compute{device, "compute"}, copies{device, "copies"};
  sx::Checked<sx::Cuda>::Event event;
  const auto a = device.allocate<float>(100, sx::Purpose::other);
  const auto h = device.host().allocate<float>(100, sx::Purpose::other);
  device.fill_zero(compute, a.span());
  CHECK(error_of([&] {
          device.copy(copies, std::span<const float>{a.span()}, h.span());
        }).find("race") != std::string::npos);
  device.record(event, compute);
  device.wait(copies, event);
  CHECK(error_of([&] { device.copy(copies, std::span<const float>{a.span()}, h.span()); }) == "");
  CHECK(error_of([&] {
          device.host().run(compute, sx::reads(h), sx::writes(), [] {});
        }).find("race") != std::string::npos);
  device.synchronize(compute);
  device.synchronize(copies);
}

}  // namespace
