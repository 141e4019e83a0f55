// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/meeting_point.hpp>
#include <shardexpr/comm/nccl_channel.cuh>
#include <shardexpr/comm/watch.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/device/cuda_error.cuh>
#include <shardexpr/device/cuda_memory.cuh>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <cuda_runtime.h>
#include <nccl.h>

// How communicators of NCCL begin: for a job, from a user's, from another one.

namespace shardexpr {

/// How long ranks wait for each other.
struct NcclOptions {
  std::chrono::milliseconds to_meet{300'000};     ///< until every rank has come, at the start
  std::chrono::milliseconds collective{600'000};  ///< that a collective may take once it has begun
};

namespace detail {

/// What rank 0 tells the others before there is a communicator.
struct NcclGreeting {
  ncclUniqueId id;
  int version;
};

/// Zeroed memory of a GPU that nobody is charged for.
inline std::shared_ptr<void> device_memory(int gpu, std::size_t size_bytes) {
  const CudaCurrent current{gpu};
  const auto loan = std::make_shared<CudaLoan>(gpu, size_bytes);
  cuda_zero(loan->memory, size_bytes);
  return {loan, loan->memory};
}
inline void nccl_check(ncclResult_t result, const char* what) {
  if (result != ncclSuccess) throw CommError(std::string{what} + ": " + nccl_text(result, nullptr));
}
inline ncclConfig_t nccl_config() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

/// A channel over `comm`, whose making said `result`, when it has started.
inline std::shared_ptr<NcclChannel> nccl_channel(ncclComm_t comm, std::string name, int gpu,
                                                 const std::shared_ptr<NcclWatch>& watch,
                                                 ncclResult_t result,
                                                 std::chrono::milliseconds patience) {
  auto channel = std::make_shared<NcclChannel>(comm, std::move(name), gpu, watch);
  watch->add(channel);
  try {
    channel->await_start(result, patience);
  } catch (...) {
    watch->remove(*channel);
    throw;
  }
  return channel;
}
/// The channel of a new job.
template <class Share>
std::shared_ptr<NcclChannel> nccl_start(int gpu, std::size_t rank, std::size_t world, Share& share,
                                        const NcclOptions& options) {
  if (rank >= world)
    throw ConfigError("rank " + std::to_string(rank) + " is not below the number of ranks, " +
                      std::to_string(world));
  const CudaCurrent current{gpu};
  int version = 0;
  nccl_check(ncclGetVersion(&version), "ask for NCCL's version");
  if (version < NCCL_VERSION_CODE)
    throw CommError("rank " + std::to_string(rank) + ": this program was built with NCCL " +
                    nccl_version_text(NCCL_VERSION_CODE) + ", but has loaded " +
                    nccl_version_text(version) +
                    "; put the newer library first, or build with the older one's header");
  NcclGreeting greeting{};
  greeting.version = version;
  if (rank == 0) nccl_check(ncclGetUniqueId(&greeting.id), "make NCCL's id of a job");
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span{&greeting, 1});
  Lines lines;
  if constexpr (std::is_same_v<decltype(share(bytes)), Lines>)
    lines = share(bytes);
  else
    share(bytes);
  const auto watch = std::make_shared<NcclWatch>(rank, std::move(lines), options.collective);
  if (greeting.version != version) {
    const std::string why = "rank " + std::to_string(rank) + " has NCCL " +
                            nccl_version_text(version) + ", rank 0 has " +
                            nccl_version_text(greeting.version) +
                            "; install one version on all machines";
    watch->fail(why);
    throw CommError(why);
  }
  ncclConfig_t config = nccl_config();
  ncclComm_t comm = nullptr;
  const ncclResult_t result = ncclCommInitRankConfig(&comm, static_cast<int>(world), greeting.id,
                                                     static_cast<int>(rank), &config);
  return nccl_channel(comm, "world", gpu, watch, result, options.to_meet);
}
inline std::size_t nccl_ask(ncclComm_t users, ncclResult_t (*ask)(ncclComm_t, int*)) {
  int count = 0;
  if (users == nullptr) throw ConfigError("Nccl of a null ncclComm_t; give one that has started");
  nccl_check(ask(users, &count), "ask a communicator of NCCL");
  return static_cast<std::size_t>(count);
}
/// The channel of a copy of a user's communicator.
inline std::shared_ptr<NcclChannel> nccl_copy(ncclComm_t users, const NcclOptions& options) {
  const std::size_t rank = nccl_ask(users, ncclCommUserRank);
  const int gpu = static_cast<int>(nccl_ask(users, ncclCommCuDevice));
  const CudaCurrent current{gpu};
  const auto watch = std::make_shared<NcclWatch>(rank, Lines{}, options.collective);
  ncclConfig_t config = nccl_config();
  ncclComm_t comm = nullptr;
  ncclResult_t result = ncclCommSplit(users, 0, static_cast<int>(rank), &comm, &config);
  const auto deadline = std::chrono::steady_clock::now() + options.to_meet;
  while (result == ncclInProgress && std::chrono::steady_clock::now() < deadline)
    nccl_check(ncclCommGetAsyncError(users, &result), "copy a communicator of NCCL");
  nccl_check(result, "copy a communicator of NCCL");
  return nccl_channel(comm, "world", gpu, watch, ncclInProgress, options.to_meet);
}

/// A rank's place in a part of a communicator.
struct NcclPart {
  std::size_t rank, size;
  std::shared_ptr<NcclChannel> channel;
};
/// The part of the ranks with an equal color, ordered by (key, rank): the `number`-th of `channel`.
inline NcclPart nccl_split(NcclChannel& channel, const Call& call, std::size_t number,
                           std::size_t rank, std::size_t size, int color, int key) {
  struct Choice {
    std::int64_t color, key, job_rank;
  };
  const CudaCurrent current{channel.gpu()};
  const cudaStream_t on = cudaStreamPerThread;
  std::vector<Choice> all(size);
  all[rank] = {color, key, static_cast<std::int64_t>(channel.watch().rank())};
  const auto memory = device_memory(channel.gpu(), size * sizeof(Choice));
  auto* const mine = static_cast<Choice*>(memory.get()) + rank;
  cuda_check(cudaMemcpyAsync(mine, &all[rank], sizeof(Choice), cudaMemcpyDefault, on), "split");
  channel.begin(call, on);
  channel.enqueue(call, [&](ncclComm_t comm) {
    return ncclAllGather(mine, memory.get(), sizeof(Choice), ncclUint8, comm, on);
  });
  channel.end(call, on);
  cuda_check(
      cudaMemcpyAsync(all.data(), memory.get(), size * sizeof(Choice), cudaMemcpyDefault, on),
      "split");
  cuda_check(cudaStreamSynchronize(on), "split");
  channel.failure()->rethrow();

  std::vector<std::size_t> ranks;
  for (std::size_t peer = 0; peer < size; ++peer)
    if (all[peer].color == color) ranks.push_back(peer);
  std::stable_sort(ranks.begin(), ranks.end(),
                   [&](std::size_t a, std::size_t b) { return all[a].key < all[b].key; });
  const auto place =
      static_cast<std::size_t>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
  // NCCL's colors are not negative: the first rank stands for them.
  ncclConfig_t config = nccl_config();
  ncclComm_t comm = nullptr;
  channel.enqueue(call, [&](ncclComm_t parent) {
    return ncclCommSplit(parent, static_cast<int>(ranks.front()), static_cast<int>(place), &comm,
                         &config);
  });
  const std::string name = channel.name() + '/' + std::to_string(number) + '.' +
                           std::to_string(all[ranks.front()].job_rank);
  return {place, ranks.size(),
          nccl_channel(comm, name, channel.gpu(), channel.shared_watch(), ncclInProgress,
                       channel.watch().patience())};
}

}  // namespace detail
}  // namespace shardexpr
