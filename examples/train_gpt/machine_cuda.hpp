// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/cuda.cuh>

#include <cstddef>
#include <string>
#include <utility>

#include "options.hpp"
#include "report.hpp"
#include <cuda_runtime.h>

namespace sx = shardexpr;

namespace machine {

/// What strategies that name no device train on.
using Device = sx::Cuda;
inline constexpr const char* device_name = "Cuda";

/// How many GPUs this process sees.
/// Errors:  BadInput if none: the program is of no use here.
inline std::size_t gpu_count() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0)
    throw BadInput(std::string{"there is no GPU: "} +
                   (error == cudaSuccess ? "CUDA finds none" : cudaGetErrorString(error)) +
                   "; run where there is one, or train_gpt on the processor");
  return static_cast<std::size_t>(count);
}

/// Memory of a GPU that nobody has taken, in bytes.
inline double free_bytes(std::size_t gpu) {
  const sx::detail::CudaCurrent current{static_cast<int>(gpu)};
  std::size_t free = 0, total = 0;
  sx::detail::cuda_check(cudaMemGetInfo(&free, &total), "ask for the GPU's memory");
  return static_cast<double>(free);
}

/// Before ranks start.
/// Errors:  BadInput for --async, and where there is no GPU.
inline void make_ready(const Options& o) {
  if (o.async) throw BadInput("--async: streams of a GPU always are; leave it out");
  (void)gpu_count();
}

/// The GPU of one rank: ranks go round the GPUs, and where there are more ranks they share.
template <class D, class... Before>
D make_device(const Options&, std::size_t rank, Before&&... before) {
  return D(std::forward<Before>(before)..., static_cast<int>(rank % gpu_count()));
}

/// Refuses before allocating what cannot be held; bytes of one rank. What CUDA keeps for itself and
/// its libraries, some hundreds of MiB, is not known beforehand.
/// Errors:  BadInput, with the numbers.
inline void check_fits(const char* needs, double device_bytes, double host_bytes,
                       std::size_t ranks) {
  const std::size_t gpus = gpu_count();
  for (std::size_t gpu = 0; gpu < gpus && gpu < ranks; ++gpu)
    check_fits_in("the free memory of GPU " + std::to_string(gpu), free_bytes(gpu), needs,
                  device_bytes, (ranks - gpu + gpus - 1) / gpus);
  check_fits_in("this machine", machine_bytes(), needs, host_bytes, ranks);
}

}  // namespace machine
