// SPDX-License-Identifier: Apache-2.0
// Processes joined by NCCL, on the GPUs that are there. Where one GPU serves two of them they call
// themselves two machines (NCCL_HOSTID), which NCCL up to 2.29 asks for: that says nothing of
// speed. Started by itself the program starts the processes.
#define DOCTEST_CONFIG_IMPLEMENT
#include <shardexpr/comm/launched.hpp>
#include <shardexpr/comm/nccl.cuh>
#include <shardexpr/device/cuda.cuh>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>

#include "../comm/conformance.hpp"
#include "../comm/free_port.hpp"
#include "../comm/watchdog.hpp"
#include "gpu_trainers.hpp"
#include <sys/wait.h>
#include <unistd.h>

namespace shardexpr::testing {
template <>
inline constexpr bool sums_in_rank_order<Nccl> = false;
}  // namespace shardexpr::testing

namespace {

namespace sx = shardexpr;
using sx::testing::Watchdog;

constexpr std::size_t world = 2;

int gpu_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}
/// This process's rank: `body(comm, device)`.
template <class Comm, class Body>
void as_this_rank(Body body) {
  const sx::Launched launched = sx::launched_by_environment();
  sx::Cuda device{static_cast<int>(launched.local_rank) % gpu_count()};
  Comm comm{device.ordinal(), launched};
  body(comm, device);
}

template <class Comm>
struct ProcessWorld {
  static std::size_t sharers(const auto&) { return 1; }  // each has a buffer of its own

  template <class Body>
  static void run(Body body) {
    as_this_rank<Comm>([&](Comm& comm, sx::Cuda& device) {
      sx::Cuda::Stream stream{device, "collectives"};
      body(comm, sx::Context<sx::Cuda>{device, stream});
    });
  }
};
TEST_CASE_TEMPLATE("Nccl between processes conforms", Comm, sx::Nccl, sx::NcclInRankOrder) {
  const Watchdog watchdog{"conformance of Nccl", std::chrono::seconds{200}};
  sx::testing::conformance<ProcessWorld<Comm>>();
}

template <class Comm>
struct ByProcesses {
  template <class Body>
  void operator()(std::size_t, Body body) const {
    as_this_rank<Comm>(body);
  }
};
template <class Comm, class... Ps>
void check_trainers() {
  const auto got = gpu::train_by<sx::Sharded<line::Line, Ps..., sx::On<sx::Cuda>, sx::Over<Comm>>>(
      ByProcesses<Comm>{}, world);
  if (sx::launched_by_environment().rank != 0) return;
  const auto wanted = gpu::train<sx::Cuda, Ps...>(world);
  if constexpr (std::is_same_v<Comm, sx::NcclInRankOrder>)
    CHECK(got == wanted);
  else
    gpu::check_near(got, wanted);
}
TEST_CASE("trainers over Nccl between processes agree with Threads") {
  const Watchdog watchdog{"trainers over Nccl", std::chrono::seconds{200}};
  check_trainers<sx::NcclInRankOrder, sx::NoShard>();
  check_trainers<sx::NcclInRankOrder, sx::FullShard, sx::OffloadAll>();
  check_trainers<sx::NcclInRankOrder, sx::FullShard, sx::MixedPrecision<sx::bf16, sx::bf16>>();
  check_trainers<sx::Nccl, sx::FullShard>();
}

/// Rank 1 is killed between two collectives; rank 0 is to learn it, and say so.
int die_or_tell() {
  const Watchdog watchdog{"a killed process", std::chrono::seconds{60}};
  int status = 1;
  try {
    as_this_rank<sx::Nccl>([&](sx::Nccl& comm, sx::Cuda& device) {
      sx::Cuda::Stream stream{device, "collectives"};
      const sx::Context<sx::Cuda> ctx{device, stream};
      auto values = device.allocate<float>(1000, sx::Purpose::other);
      comm.all_reduce(ctx, values.span(), sx::Reduction::sum);
      device.synchronize(stream);
      if (comm.rank() == 1) ::raise(SIGKILL);
      comm.all_reduce(ctx, values.span(), sx::Reduction::sum);
      device.synchronize(stream);
    });
  } catch (const sx::CommError& error) {
    const std::string text = error.what();
    std::printf("a killed process: %s\n", text.c_str());
    status = text.find("rank 1 has gone") != std::string::npos ? 0 : 1;
  }
  return status;
}

/// Starts this program as every rank of a job. 0 if all but `victim` end well.
int start_ranks(char** argv, const char* mode, std::size_t victim = world) {
  const std::string port = std::to_string(sx::testing::free_port());
  const bool shares_a_gpu = gpu_count() < static_cast<int>(world);
  pid_t children[world];
  for (std::size_t rank = 0; rank < world; ++rank) {
    children[rank] = ::fork();
    if (children[rank] != 0) continue;
    const std::string number = std::to_string(rank);
    ::setenv("RANK", number.c_str(), 1);
    ::setenv("LOCAL_RANK", number.c_str(), 1);
    ::setenv("WORLD_SIZE", std::to_string(world).c_str(), 1);
    ::setenv("MASTER_ADDR", "127.0.0.1", 1);
    ::setenv("MASTER_PORT", port.c_str(), 1);
    ::setenv("SHARDEXPR_TEST_MODE", mode, 1);
    if (shares_a_gpu) ::setenv("NCCL_HOSTID", ("shardexpr-" + number).c_str(), 1);
    ::execv("/proc/self/exe", argv);
    ::_exit(127);
  }
  int result = 0;
  for (std::size_t rank = 0; rank < world; ++rank) {
    int status = 0;
    ::waitpid(children[rank], &status, 0);
    if (rank != victim && status != 0) result = 1;
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  if (gpu_count() == 0) {
    std::printf("SKIPPED: there is no GPU here\n");
    return 0;
  }
  const char* const mode = std::getenv("SHARDEXPR_TEST_MODE");
  if (mode == nullptr) return start_ranks(argv, "tests") | start_ranks(argv, "death", 1);
  if (std::string{mode} == "death") return die_or_tell();
  return doctest::Context(argc, argv).run();
}
