// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cuda_error.cuh>
#include <shardexpr/nn/layer.hpp>

#include <concepts>
#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

#include <cuda_runtime.h>

#if defined(__CUDACC__)
/// Before a loop over registers: an array that is indexed by anything but a constant is memory.
#define SHARDEXPR_UNROLL _Pragma("unroll")
#else
#define SHARDEXPR_UNROLL
#endif

// How the layers of a GPU start their kernels.
namespace shardexpr::nn::detail {

/// What layers on a GPU compute in. Sums are fp32.
template <class T>
concept KernelDtype = std::same_as<T, float> || std::same_as<T, bf16> || std::same_as<T, fp16>;

/// Threads of a kernel: blocks, threads of each, bytes that a block's threads share beyond what the
/// kernel declares.
struct Grid {
  std::size_t x = 1, y = 1;
  unsigned threads = 256;
  std::size_t shared_bytes = 0;
};

/// Lets a kernel have more shared memory than every GPU gives unasked, on the thread's device; asks
/// for it once.
/// Errors:  DeviceError, where the device has not as much.
inline void allow_shared_bytes(const void* kernel, std::size_t size_bytes, const char* what) {
  if (size_bytes <= 48_KiB) return;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, std::size_t> allowed;
  int device = 0;
  shardexpr::detail::cuda_check(cudaGetDevice(&device), what);
  const std::scoped_lock lock{mutex};
  std::size_t& now = allowed[{kernel, device}];
  if (now >= size_bytes) return;
  shardexpr::detail::cuda_check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(size_bytes)),
      what);
  now = size_bytes;
}

/// Enqueues a kernel on the context's stream, which reads and writes what it says.
/// Errors:  DeviceError; `what` says what failed.
template <class D, std::size_t R, std::size_t W, class... Parameters, class... Arguments>
void launch(const Context<D>& on, const Reads<R>& reads, const Writes<W>& writes, const char* what,
            const Grid& grid, void (*kernel)(Parameters...), Arguments... arguments) {
  on.enqueue(reads, writes, [&](cudaStream_t stream) {
    cudaLaunchConfig_t config{};
    config.gridDim = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1};
    config.blockDim = {grid.threads, 1, 1};
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = stream;
    allow_shared_bytes(reinterpret_cast<const void*>(kernel), grid.shared_bytes, what);
    shardexpr::detail::cuda_check(cudaLaunchKernelEx(&config, kernel, arguments...), what);
  });
}

}  // namespace shardexpr::nn::detail
