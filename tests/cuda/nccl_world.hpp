// SPDX-License-Identifier: Apache-2.0
#pragma once
// Ranks over the emulated NCCL: threads of this process, each with a GPU of its own.
#include <shardexpr/comm/nccl.cuh>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "../comm/conformance.hpp"

namespace shardexpr::testing {

/// Gives every rank the bytes of rank 0.
class Share {
 public:
  explicit Share(std::size_t world) : world_{world} {}
  void operator()(std::size_t rank, std::span<std::byte> bytes) {
    std::unique_lock lock{mutex_};
    if (rank == 0) bytes_.assign(bytes.begin(), bytes.end());
    if (rank == 0) changed_.notify_all();
    changed_.wait(lock, [this] { return !bytes_.empty(); });
    std::copy(bytes_.begin(), bytes_.end(), bytes.begin());
    if (++done_ == world_) bytes_.clear();
  }

 private:
  const std::size_t world_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte> bytes_;
  std::size_t done_ = 0;
};

/// Runs `body(rank)` in as many threads; throws what the first of them threw.
template <class Body>
void run_ranks(std::size_t world, Body body) {
  std::vector<std::exception_ptr> errors(world);
  {
    std::vector<std::jthread> threads;
    for (std::size_t rank = 0; rank < world; ++rank)
      threads.emplace_back([&, rank] {
        try {
          body(rank);
        } catch (...) {
          errors[rank] = std::current_exception();
        }
      });
  }
  for (const std::exception_ptr& error : errors)
    if (error != nullptr) std::rethrow_exception(error);
}

/// `body(comm, device)` in every rank.
template <class Comm, class Device, class Body>
void launch_nccl(std::size_t world, Body body, const NcclOptions& options = {}) {
  Share share{world};
  run_ranks(world, [&](std::size_t rank) {
    Device device{static_cast<int>(rank)};
    Comm comm{static_cast<int>(rank), rank, world,
              [&](std::span<std::byte> bytes) { share(rank, bytes); }, options};
    body(comm, device);
  });
}

template <>
inline constexpr bool sums_in_rank_order<Nccl> = false;

template <class Comm, std::size_t world>
struct NcclWorld {
  static std::size_t sharers(const auto&) { return 1; }  // each has a buffer of its own

  template <class Body>
  static void run(Body body) {
    launch_nccl<Comm, Cuda>(world, [&](Comm& comm, Cuda& device) {
      Cuda::Stream stream{device, "collectives"};
      body(comm, Context<Cuda>{device, stream});
    });
  }
};

}  // namespace shardexpr::testing
