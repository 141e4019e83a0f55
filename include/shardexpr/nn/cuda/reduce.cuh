// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cmath>

#include <cuda_runtime.h>

// Sums and maxima over the threads of a warp or of a block, in one order; and sums of those before.
namespace shardexpr::nn::detail {

inline constexpr unsigned warp_threads = 32;

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// Every lane of the warp gets the bits of the first one. Without the last exchange they might
/// differ: of a value that is a product, each lane's compiler may contract its own.
template <class T, class Combine>
__device__ inline T reduce_warp(T value, Combine combine) {
  for (unsigned mask = warp_threads / 2; mask > 0; mask /= 2)
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, mask));
  return __shfl_sync(0xffffffffu, value, 0);
}

/// Every thread of a block of `Threads`, whole warps, gets the same bits. `between` is shared
/// memory for a value of each warp, and may be used again when the block has met.
template <unsigned Threads, class T, class Combine>
__device__ inline T reduce_block(T value, Combine combine, T neutral,
                                 T (&between)[Threads / warp_threads]) {
  constexpr unsigned warps = Threads / warp_threads;
  static_assert(Threads % warp_threads == 0 && warps <= warp_threads);
  value = reduce_warp(value, combine);
  if constexpr (warps > 1) {
    const unsigned lane = threadIdx.x % warp_threads;
    if (lane == 0) between[threadIdx.x / warp_threads] = value;
    __syncthreads();
    value = reduce_warp(lane < warps ? between[lane] : neutral, combine);
  }
  return value;
}

/// What the lanes before this one have in all. Of whole numbers.
template <class Number>
__device__ inline Number sum_of_lanes_before(Number mine) {
  const unsigned lane = threadIdx.x % warp_threads;
  Number sum = mine;
  for (unsigned by = 1; by < warp_threads; by *= 2) {
    const Number other = __shfl_sync(0xffffffffu, sum, lane >= by ? lane - by : lane);
    if (lane >= by) sum += other;
  }
  return sum - mine;
}

/// What the threads of a block of `Threads` before this one have in all.
template <unsigned Threads, class Number>
__device__ inline Number sum_of_threads_before(Number mine,
                                               Number (&of_warps)[Threads / warp_threads]) {
  Number sum = sum_of_lanes_before(mine);
  if (threadIdx.x % warp_threads == warp_threads - 1)
    of_warps[threadIdx.x / warp_threads] = sum + mine;
  __syncthreads();
  for (unsigned w = 0; w < threadIdx.x / warp_threads; ++w) sum += of_warps[w];
  return sum;
}

}  // namespace shardexpr::nn::detail
