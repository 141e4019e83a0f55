// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/reduction_room.hpp>

#include <cstddef>

// What a plan asks devices and communicators, without their headers: those need nvcc or an MPI. A
// test compares plans with those of the real ones.
namespace planner {

/// Of `Cuda`: its host's memory is another one, and its layers are kernels.
struct CudaFacts {
  static constexpr bool shares_memory = false;
};

/// Of `Nccl`: ranks gather into memory of their own, and add up 16 bits themselves.
struct NcclFacts {
  static constexpr bool gather_is_shared = false;
  template <class T>
  static constexpr std::size_t room_bytes(std::size_t world, std::size_t count) {
    return sizeof(T) == 2 ? shardexpr::detail::ReductionRoom::bytes_for<T>(world, count) : 0;
  }
};

/// Of `Mpi`: ranks of a machine gather into one buffer and read each other's gradients. Where all
/// are on one machine, also of `Threads`.
struct MpiFacts {
  static constexpr bool gather_is_shared = true;
  template <class T>
  static constexpr std::size_t room_bytes(std::size_t world, std::size_t count,
                                          std::size_t node_ranks) {
    return node_ranks == world ? 0 : shardexpr::detail::ReductionRoom::bytes_for<T>(world, count);
  }
};

}  // namespace planner
