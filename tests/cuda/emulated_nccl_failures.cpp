// SPDX-License-Identifier: Apache-2.0
// What ends collectives by NCCL: peers that do not come, leave or call something else, and NCCL
// itself. Each test wants the same reason in every rank, and an end of all that waits.
#include <shardexpr/comm/launched.hpp>
#include <shardexpr/comm/nccl.cuh>
#include <shardexpr/device/cuda.cuh>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../comm/free_port.hpp"
#include "../comm/watchdog.hpp"
#include "nccl_world.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

using std::chrono::milliseconds;

struct Gpus {
  Gpus() { emulated::machine.devices = 8; }
  ~Gpus() {
    emulated::machine = {};
    emulated::nccl.version = NCCL_VERSION_CODE;
    emulated::nccl.registers = true;
    emulated::nccl.is_silent = false;
    emulated::Faults::instance().heal();
  }
};
constexpr NcclOptions quick{.to_meet = milliseconds{20'000}, .collective = milliseconds{400}};
/// Where nothing is to be found stuck, however slow the machine.
constexpr NcclOptions patient{.to_meet = milliseconds{20'000}, .collective = milliseconds{60'000}};

struct Rank {
  Nccl& comm;
  Cuda& device;
  Cuda::Stream& stream;
  std::span<float> full, part;

  Context<Cuda> ctx() const { return {device, stream}; }
  void reduce() const {
    comm.reduce_scatter(ctx(), std::span<const float>{full}, part, Reduction::mean);
  }
};

/// What `body` threw in each rank of a job that meets by TCP; empty: nothing.
std::vector<std::string> outcomes(std::size_t world, std::function<void(const Rank&)> body,
                                  const NcclOptions& options = quick) {
  const std::uint16_t port = free_port();
  std::vector<std::string> texts(world);
  run_ranks(world, [&](std::size_t rank) {
    try {
      Cuda device{static_cast<int>(rank)};
      Cuda::Stream stream{device, "collectives"};
      const Launched launched{
          .rank = rank, .world = world, .address = "127.0.0.1", .port = port, .job = "test"};
      Nccl comm{device.ordinal(), launched, options};
      auto full = device.allocate<float>(world * 64, Purpose::other);
      auto part = device.allocate<float>(64, Purpose::other);
      body({comm, device, stream, full.span(), part.span()});
      device.synchronize(stream);
    } catch (const CommError& error) {
      texts[rank] = error.what();
    } catch (const std::runtime_error& error) {
      texts[rank] = std::string{"its own: "} + error.what();
    }
  });
  CHECK(emulated::nccl.alive == 0);
  return texts;
}

TEST_CASE("a job that meets by TCP works, and leaves in peace") {
  const Watchdog watchdog{"a job that meets by TCP"};
  const Gpus gpus;
  for (const std::string& text : outcomes(
           3,
           [](const Rank& rank) {
             for (int i = 0; i < 10; ++i) rank.reduce();
             rank.device.synchronize(rank.stream);
             Nccl split = rank.comm.split(static_cast<int>(rank.comm.rank() / 2), 0);
             split.barrier(rank.ctx());
           },
           patient))
    CHECK(text == "");
}

TEST_CASE("a rank that does not come is named in every rank") {
  const Watchdog watchdog{"a rank that does not come"};
  const Gpus gpus;
  emulated::nccl.is_silent = true;
  const auto texts = outcomes(3, [](const Rank& rank) {
    rank.reduce();
    if (rank.comm.rank() == 1) {
      for (;;) {
        rank.device.synchronize(rank.stream);  // throws in the end
        std::this_thread::sleep_for(milliseconds{5});
      }
    }
    rank.reduce();
  });
  for (std::size_t r = 0; r < 3; ++r) {
    CAPTURE(texts[r]);
    CHECK(texts[r].starts_with("rank " + std::to_string(r) +
                               ": reduce_scatter #2 of 64 fp32 (mean) of world in rank "));
    CHECK(texts[r].find(" has not ended within 0.4 s; rank 1 has not come to it: its last call is "
                        "reduce_scatter #1 of 64 fp32 (mean)") != std::string::npos);
  }
}

TEST_CASE("a rank that calls something else is named") {
  const Watchdog watchdog{"a rank that calls something else"};
  const Gpus gpus;
  emulated::nccl.is_silent = true;
  const auto texts = outcomes(2, [](const Rank& rank) {
    Nccl one = rank.comm.split(0, 0);
    if (rank.comm.rank() == 0) one.all_reduce(rank.ctx(), rank.part, Reduction::sum);
    rank.device.synchronize(rank.stream);
    std::this_thread::sleep_for(milliseconds{200});
    rank.reduce();
    one.barrier(rank.ctx());
    rank.device.synchronize(rank.stream);
  });
  for (const std::string& text : texts) {
    CAPTURE(text);
    CHECK(text.find(": all_reduce #1 of 64 fp32 (sum) of world/1.0 in rank 0 has not ended within "
                    "0.4 s; rank 1 calls barrier #1 in its place") != std::string::npos);
  }
}

TEST_CASE("an exception of one rank ends the others") {
  const Watchdog watchdog{"an exception of one rank"};
  const Gpus gpus;
  emulated::nccl.is_silent = true;
  for (const std::size_t leaver : {0, 2}) {
    const auto texts = outcomes(
        3,
        [&](const Rank& rank) {
          if (rank.comm.rank() == leaver) throw std::runtime_error("no more data");
          rank.reduce();
        },
        patient);
    for (std::size_t r = 0; r < 3; ++r) {
      CAPTURE(texts[r]);
      if (r == leaver)
        CHECK(texts[r] == "its own: no more data");
      else
        CHECK(texts[r].starts_with("rank " + std::to_string(r) + ": rank " +
                                   std::to_string(leaver) +
                                   " left, by an exception of its own; see its messages"));
    }
  }
}

TEST_CASE("what waits for a collective that failed learns of it, and is not run") {
  const Watchdog watchdog{"what waits for a collective"};
  const Gpus gpus;
  emulated::nccl.is_silent = true;
  std::atomic<int> ran{0};
  std::vector<std::string> elsewhere(2);
  outcomes(2, [&](const Rank& rank) {
    if (rank.comm.rank() == 1) {
      std::this_thread::sleep_for(milliseconds{1500});
      return;
    }
    Cuda::Stream other{rank.device, "behind"};
    Cuda::Event event;
    rank.reduce();
    rank.device.record(event, rank.stream);
    rank.device.wait(other, event);
    rank.device.host().run(other, reads(), writes(), [&] { ++ran; });
    try {
      rank.device.synchronize(other);
    } catch (const CommError& error) {
      elsewhere[0] = error.what();
    }
    Cuda::Stream third{rank.device, "later"};
    rank.device.wait(third, event);
    try {
      rank.device.synchronize(third);
    } catch (const CommError& error) {
      elsewhere[1] = error.what();
    }
  });
  CHECK(ran == 0);
  for (const std::string& text : elsewhere)
    CHECK(text.find("reduce_scatter #1 of 64 fp32 (mean) of world in rank 0 has not ended") !=
          std::string::npos);
}

TEST_CASE("what NCCL refuses or reports has its name in every rank") {
  const Watchdog watchdog{"what NCCL refuses"};
  const Gpus gpus;
  {
    emulated::Faults::instance().fail("ncclReduceScatter", cudaErrorIllegalAddress, 3);
    const auto texts = outcomes(
        2,
        [](const Rank& rank) {
          for (int i = 0; i < 4; ++i) {
            rank.reduce();
            rank.device.synchronize(rank.stream);
          }
        },
        patient);
    for (const std::string& text : texts) {
      CAPTURE(text);
      CHECK(text.find("reduce_scatter #2 of 64 fp32 (mean) of world in rank ") !=
            std::string::npos);
      CHECK(text.find(": NCCL: unhandled cuda error; NCCL_DEBUG=WARN says more") !=
            std::string::npos);
    }
  }
  emulated::Faults::instance().heal();
  {
    // A peer's process is gone, says NCCL, and nobody else says anything.
    Share share{2};
    std::vector<std::string> texts(2);
    run_ranks(2, [&](std::size_t rank) {
      try {
        Cuda device{static_cast<int>(rank)};
        Cuda::Stream stream{device, "collectives"};
        Nccl comm{static_cast<int>(rank), rank, 2,
                  [&](std::span<std::byte> bytes) { share(rank, bytes); }};
        auto values = device.allocate<float>(8, Purpose::other);
        comm.barrier(Context<Cuda>{device, stream});
        device.synchronize(stream);
        if (rank == 1) throw CommError("its own");
        comm.all_reduce(Context<Cuda>{device, stream}, values.span(), Reduction::sum);
        device.synchronize(stream);
      } catch (const CommError& error) {
        texts[rank] = error.what();
      }
    });
    CAPTURE(texts[0]);
    CHECK(texts[0].starts_with("rank 0: all_reduce #2 of 8 fp32 (sum) of world"));
    CHECK(texts[0].find(": NCCL: remote process exited or there was a network error; "
                        "NCCL_DEBUG=WARN says more") != std::string::npos);
  }
}

std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}
void start_alone(const NcclOptions& options = quick) {
  const Nccl comm{0, 0, 2, [](std::span<std::byte>) {}, options};
}

TEST_CASE("what does not start says why") {
  const Watchdog watchdog{"what does not start"};
  const Gpus gpus;
  CHECK(refusal(
            [] { start_alone({.to_meet = milliseconds{50}, .collective = milliseconds{400}}); }) ==
        "rank 0: start of world in rank 0: not every rank has come within 0.05 s; see whether all "
        "started "
        "and reach each other (NCCL_SOCKET_IFNAME)");
  CHECK(refusal([] {
          const Nccl comm{9, 0, 1, [](std::span<std::byte>) {}};
        }) == "there is no GPU 9: this process sees 8, the last is 7");
  CHECK(refusal([] {
          const Nccl comm{0, 2, 2, [](std::span<std::byte>) {}};
        }) == "rank 2 is not below the number of ranks, 2");
  CHECK(refusal([] { const Nccl comm{nullptr}; }) ==
        "Nccl of a null ncclComm_t; give one that has started");
  emulated::Faults::instance().fail("ncclCommInitRankConfig", cudaErrorIllegalAddress);
  CHECK(refusal([] { start_alone(); }) ==
        "rank 0: start of world in rank 0: NCCL: emulated failure; NCCL_DEBUG=WARN says more");
  emulated::nccl.version = NCCL_VERSION(2, 19, 3);
  CHECK(refusal([] { start_alone(); }) ==
        "rank 0: this program was built with NCCL 2.28.9, but has loaded 2.19.3; put the newer "
        "library first, or build with the older one's header");
  emulated::nccl.version = NCCL_VERSION(2, 29, 1);
  CHECK(refusal([] {
          const Nccl comm{0, 1, 2, [](std::span<std::byte> bytes) {
                            reinterpret_cast<detail::NcclGreeting*>(bytes.data())->version =
                                NCCL_VERSION(2, 28, 9);
                          }};
        }) == "rank 1 has NCCL 2.29.1, rank 0 has 2.28.9; install one version on all machines");
  CHECK(emulated::nccl.alive == 0);
}

TEST_CASE("buffers are registered where NCCL can, and serve where it cannot") {
  const Watchdog watchdog{"buffers"};
  const Gpus gpus;
  const auto gathers = [] {
    launch_nccl<Nccl, Cuda>(2, [](Nccl& comm, Cuda& device) {
      Cuda::Stream stream{device, "collectives"};
      const Context<Cuda> ctx{device, stream};
      auto buffer = comm.gather_buffer<float>(device, 128);
      auto part = put(ctx, std::vector<float>(64, static_cast<float>(comm.rank() + 1)));
      comm.gather(ctx, std::span<const float>{part.span()}, buffer.span());
      CHECK(get(ctx, buffer.span())[0] == 1);
      CHECK(get(ctx, buffer.span())[64] == 2);
      comm.barrier(ctx);
      device.synchronize(stream);
      if (comm.rank() == 0) CHECK(emulated::nccl.registered == (emulated::nccl.registers ? 2 : 0));
      comm.barrier(ctx);
      device.synchronize(stream);
    });
    CHECK(emulated::nccl.registered == 0);
  };
  gathers();
  emulated::nccl.registers = false;
  gathers();
}

TEST_CASE("a user's communicator is copied, and left alone") {
  const Watchdog watchdog{"a user's communicator"};
  const Gpus gpus;
  ncclUniqueId id;
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  run_ranks(2, [&](std::size_t rank) {
    Cuda device{static_cast<int>(rank)};
    const detail::CudaCurrent current{static_cast<int>(rank)};
    Cuda::Stream stream{device, "collectives"};
    ncclComm_t users = nullptr;
    ncclConfig_t config{.blocking = 1};
    (void)ncclCommInitRankConfig(&users, 2, id, static_cast<int>(rank), &config);
    for (ncclResult_t state = ncclInProgress; state != ncclSuccess;)
      (void)ncclCommGetAsyncError(users, &state);
    {
      Nccl comm{users};
      CHECK(comm.rank() == rank);
      CHECK(comm.size() == 2);
      auto sum = put(Context<Cuda>{device, stream}, std::vector<float>{static_cast<float>(rank)});
      comm.all_reduce(Context<Cuda>{device, stream}, sum.span(), Reduction::sum);
      CHECK(get(Context<Cuda>{device, stream}, sum.span())[0] == 1);
    }
    CHECK(emulated::nccl.alive >= 1);
    CHECK(ncclCommDestroy(users) == ncclSuccess);
  });
  CHECK(emulated::nccl.alive == 0);
}

TEST_CASE("sums of 16 bits hold a room, which the plan can count") {
  const Watchdog watchdog{"room"};
  const Gpus gpus;
  CHECK(Nccl::room_bytes<float>(8, 1'000'000) == 0);
  CHECK(Nccl::room_bytes<bf16>(1, 1'000'000) == 0);
  CHECK(Nccl::room_bytes<bf16>(8, 100) == 8 * 104 * 2);
  CHECK(Nccl::room_bytes<bf16>(8, 100'000'000) == 16_MiB);
  CHECK(Nccl::room_bytes<bf16>(1024, 100'000'000) == 64_MiB);
  CHECK(NcclInRankOrder::room_bytes<float>(8, 100) == 8 * 104 * 4);
  launch_nccl<Nccl, Cuda>(2, [](Nccl& comm, Cuda& device) {
    Cuda::Stream stream{device, "collectives"};
    const Context<Cuda> ctx{device, stream};
    // Beyond the largest room: in several rounds.
    const std::size_t n = 4'500'000;
    auto full = device.allocate<bf16>(2 * n, Purpose::other);
    auto part = device.allocate<bf16>(n, Purpose::other);
    {
      const std::vector<bf16> ones(2 * n, static_cast<bf16>(static_cast<float>(comm.rank() + 1)));
      device.copy(stream, std::span<const bf16>{ones}, full.span());
      device.synchronize(stream);
    }
    {
      const auto room = comm.reserve<bf16>(device, n);
      CHECK(device.account().live_bytes(Purpose::full_gradients) == 16_MiB);
      comm.reduce_scatter(ctx, std::span<const bf16>{full.span()}, part.span(), Reduction::sum);
      const auto sum = get(ctx, part.span());
      CHECK(std::all_of(sum.begin(), sum.end(),
                        [](bf16 value) { return static_cast<float>(value) == 3; }));
    }
    CHECK(device.account().live_bytes(Purpose::full_gradients) == 0);
    // Without a reservation it makes its own.
    comm.all_reduce(ctx, part.span().first(1001), Reduction::mean);
    CHECK(static_cast<float>(get(ctx, part.span())[1000]) == 3);
    CHECK(device.account().live_bytes(Purpose::full_gradients) == 2 * 504 * 2);
  });
}

}  // namespace
}  // namespace shardexpr::testing
