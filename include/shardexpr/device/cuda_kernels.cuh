// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/exact_sum.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/pack.hpp>
#include <shardexpr/device/cuda_error.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

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
__device__ void each_of(const Functor& functor, std::size_t count) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride)
    functor(i);
}

/// The same by packs, and the rest, less than a pack, by elements. Each block takes a stretch that
/// its threads share out pack by pack.
template <PackFunctor Functor>
__device__ void packs_of(const Functor& functor, std::size_t count) {
  constexpr std::size_t n = Functor::pack_elements, at_once = packs_at_once<Functor>;
  const std::size_t packs = count / n, threads = blockDim.x;
  const std::size_t stride = std::size_t{gridDim.x} * threads * at_once;
  const std::size_t thread = std::size_t{blockIdx.x} * threads + threadIdx.x;
  for (std::size_t first = std::size_t{blockIdx.x} * threads * at_once + threadIdx.x; first < packs;
       first += stride) {
    if (first + (at_once - 1) * threads < packs) {
      decltype(functor.load(first)) loaded[at_once];
      for (std::size_t k = 0; k < at_once; ++k) loaded[k] = functor.load((first + k * threads) * n);
      for (std::size_t k = 0; k < at_once; ++k)
        functor.finish((first + k * threads) * n, loaded[k]);
    } else {
      for (std::size_t pack = first; pack < packs; pack += threads)
        functor.finish(pack * n, functor.load(pack * n));
    }
  }
  const std::size_t last = packs * n + thread;
  if (last < count) functor(last);
}

template <class Functor>
__global__ void __launch_bounds__(cuda_block_threads)
    run_each(const __grid_constant__ Functor functor, std::size_t count) {
  if constexpr (requires(std::size_t n) { functor.prepare(n); }) {
    const auto prepared = functor.prepare(count);
    each_of(prepared, count);
  } else {
    each_of(functor, count);
  }
}

/// `run_each` for a functor that says that it can be run by packs.
template <class Functor>
__global__ void __launch_bounds__(cuda_block_threads)
    run_packs(const __grid_constant__ Functor functor, std::size_t count) {
  if constexpr (requires(std::size_t n) { functor.prepare(n); }) {
    const auto prepared = functor.prepare(count);
    packs_of(prepared, count);
  } else {
    packs_of(functor, count);
  }
}

template <class Functor>
struct prepared_of {
  using type = Functor;
};
template <class Functor>
  requires requires(const Functor& functor, std::size_t& count) { functor.prepare(count); }
struct prepared_of<Functor> {
  using type = decltype(std::declval<const Functor&>().prepare(std::declval<std::size_t&>()));
};

/// Enqueues a functor for each element: by packs where it has them and its arrays allow it, in as
/// many blocks as there is work for, which come and go; else in at most `most_blocks`.
template <class Functor>
void launch_each(cudaStream_t stream, std::size_t count, const Functor& functor,
                 std::size_t most_blocks, const char* what) {
  const auto blocks = [&](std::size_t of_a_block, std::size_t most) {
    return static_cast<unsigned>(std::min((count + of_a_block - 1) / of_a_block, most));
  };
  using Prepared = typename prepared_of<Functor>::type;
  if constexpr (PackFunctor<Prepared>)
    if (functor.can_pack()) {
      constexpr std::size_t of_a_block =
          cuda_block_threads * packs_at_once<Prepared> * Prepared::pack_elements;
      constexpr std::size_t most = 0x7fffffff;  // a launch's
      return cuda_launch(stream, blocks(of_a_block, most), cuda_block_threads, what,
                         run_packs<Functor>, functor, count);
    }
  cuda_launch(stream, blocks(cuda_block_threads, most_blocks), cuda_block_threads, what,
              run_each<Functor>, functor, count);
}

template <class From, class To>
struct CastElement {
  static constexpr std::size_t pack_elements = pack_elements_of<From, To>;
  const From* from;
  To* to;
  SHARDEXPR_HOST_DEVICE static To cast(From value) {
    return static_cast<To>(static_cast<float>(value));
  }
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const { to[i] = cast(from[i]); }
  bool can_pack() const { return begin_packs<pack_elements>(from, to); }
  SHARDEXPR_HOST_DEVICE auto load(std::size_t first) const {
    return load_pack<pack_elements>(from + first);
  }
  SHARDEXPR_HOST_DEVICE void finish(std::size_t first,
                                    const Pack<From, pack_elements>& loaded) const {
    Pack<To, pack_elements> result;
    for (std::size_t i = 0; i < pack_elements; ++i) result.value[i] = cast(loaded.value[i]);
    store_pack(to + first, result);
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
