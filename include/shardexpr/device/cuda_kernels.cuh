// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/exact_sum.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/device/cuda_error.cuh>

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

// The kernels that functors of the engine run in.

namespace shardexpr::detail {

inline constexpr unsigned cuda_block_threads = 256;

/// Enqueues a kernel of a row of blocks.
template <class... Parameters, class... Arguments>
void cuda_launch(cudaStream_t stream, unsigned blocks, unsigned threads, const char* what,
                 void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = {blocks, 1, 1};
  config.blockDim = {threads, 1, 1};
  config.stream = stream;
  cuda_check(cudaLaunchKernelEx(&config, kernel, arguments...), what);
}

template <class Work>
__global__ void run_once(Work work) {
  work();
}

template <class Functor>
__global__ void __launch_bounds__(cuda_block_threads) run_each(Functor functor, std::size_t count) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  const std::size_t first = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if constexpr (requires(std::size_t n) { functor.prepare(n); }) {
    const auto prepared = functor.prepare(count);
    for (std::size_t i = first; i < count; i += stride) prepared(i);
  } else {
    for (std::size_t i = first; i < count; i += stride) functor(i);
  }
}

template <class From, class To>
struct CastElement {
  const From* from;
  To* to;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    to[i] = static_cast<To>(static_cast<float>(from[i]));
  }
};

/// Adds the squares of `values` to the limbs of a sum: a half warp takes a block of 64, each lane
/// every sixteenth value and then by halves, which is the order of `Cpu::sum_squares`; blocks are
/// added exactly, in any order. `normalize` is to follow.
template <class T>
__global__ void __launch_bounds__(cuda_block_threads)
    add_squares(const T* values, std::size_t count, ExactSum* sum) {
  constexpr unsigned lanes = 16;
  __shared__ unsigned long long limbs[ExactSum::limbs];
  __shared__ double special;
  for (unsigned k = threadIdx.x; k < ExactSum::limbs; k += blockDim.x) limbs[k] = 0;
  if (threadIdx.x == 0) special = 0;
  __syncthreads();

  const unsigned lane = threadIdx.x % lanes;
  const std::size_t blocks = (count + block_elements - 1) / block_elements;
  const std::size_t halves = std::size_t{gridDim.x} * (blockDim.x / lanes);
  const std::size_t first = std::size_t{blockIdx.x} * (blockDim.x / lanes) + threadIdx.x / lanes;
  // All lanes of a warp go round equally often: they meet in the shuffles.
  for (std::size_t round = 0; round * halves < blocks; ++round) {
    const std::size_t block = first + round * halves;
    double squares = 0;
    for (unsigned i = lane; i < block_elements; i += lanes) {
      const std::size_t at = block * block_elements + i;
      if (at < count) {
        const double x = static_cast<double>(static_cast<float>(values[at]));
        squares = __fma_rn(x, x, squares);  // the product is exact: the sum is rounded once
      }
    }
    for (unsigned width = lanes / 2; width > 0; width /= 2)
      squares += __shfl_down_sync(0xffffffff, squares, width, lanes);
    if (lane == 0 && block < blocks)
      ExactSum::split(
          squares,
          [&](int k, std::int64_t value) {
            atomicAdd(&limbs[k], static_cast<unsigned long long>(value));
          },
          [&](double value) { atomicAdd(&special, value); });
  }
  __syncthreads();

  auto* total = reinterpret_cast<unsigned long long*>(sum->limb_data());
  for (unsigned k = threadIdx.x; k < ExactSum::limbs; k += blockDim.x)
    if (limbs[k] != 0) atomicAdd(&total[k], limbs[k]);
  if (threadIdx.x == 0 && special != 0) atomicAdd(sum->special_data(), special);
}

struct NormalizeSum {
  ExactSum* sum;
  SHARDEXPR_HOST_DEVICE void operator()() const { sum->normalize(); }
};

}  // namespace shardexpr::detail
