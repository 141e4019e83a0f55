// SPDX-License-Identifier: Apache-2.0
#pragma once
// Ranks joined by NCCL: threads of this process, each with a GPU of its own.
#include <shardexpr/comm/nccl.cuh>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/cuda.cuh>

#include <algorithm>
#include <cstddef>
#include <span>
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

/// Runs `body(comm)` in as many threads, whose `Threads` tell NCCL's id.
template <class Body>
void launch_nccl(std::size_t ranks, Body body) {
  launch(ranks, [&](Threads& threads) {
    Cpu host;
    Cpu::Stream stream;
    const auto share = [&](std::span<std::byte> bytes) {
      threads.broadcast(Context<Cpu>{host, stream}, bytes, 0);
    };
    const std::size_t rank = threads.rank();
    Nccl comm{static_cast<int>(rank), rank, ranks, share};
    body(comm);
  });
}

}  // namespace shardexpr::benchmarks
