// SPDX-License-Identifier: Apache-2.0
#pragma once
// Ranks joined by NCCL: threads of this process, each with a GPU of its own.
#include <shardexpr/comm/nccl.cuh>
#include <shardexpr/cuda.cuh>

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <exception>
#include <span>
#include <thread>
#include <vector>

#include <cuda_runtime.h>

namespace shardexpr::benchmarks {

/// 0 where CUDA finds none.
inline std::size_t gpu_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? static_cast<std::size_t>(count) : 0;
}
/// With how many ranks a strategy runs: one where there is one GPU, else two, and four where there
/// are those; strategies that need groups of two with four alone.
inline std::vector<std::size_t> rank_counts(std::size_t gpus, bool needs_groups) {
  if (gpus >= 4) return needs_groups ? std::vector<std::size_t>{4} : std::vector<std::size_t>{2, 4};
  if (needs_groups || gpus == 0) return {};
  return {std::min<std::size_t>(gpus, 2)};
}

/// Runs `body(comm)` in as many threads; throws what the first of them threw.
template <class Body>
void launch_nccl(std::size_t ranks, Body body) {
  std::vector<std::byte> id;  // rank 0's, by which NCCL joins them
  std::barrier shared{static_cast<std::ptrdiff_t>(ranks)};
  const auto share = [&](std::size_t rank, std::span<std::byte> bytes) {
    if (rank == 0) id.assign(bytes.begin(), bytes.end());
    shared.arrive_and_wait();
    std::copy(id.begin(), id.end(), bytes.begin());
    shared.arrive_and_wait();  // it may be shared again
  };
  std::vector<std::exception_ptr> errors(ranks);
  {
    std::vector<std::jthread> threads;
    for (std::size_t rank = 0; rank < ranks; ++rank)
      threads.emplace_back([&, rank] {
        try {
          Nccl comm{static_cast<int>(rank), rank, ranks,
                    [&](std::span<std::byte> bytes) { share(rank, bytes); }};
          body(comm);
        } catch (...) {
          errors[rank] = std::current_exception();
        }
      });
  }
  for (const std::exception_ptr& error : errors)
    if (error != nullptr) std::rethrow_exception(error);
}

}  // namespace shardexpr::benchmarks
