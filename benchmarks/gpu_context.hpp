// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdio>
#include <string>

#include <benchmark/benchmark.h>
#include <cuda_runtime.h>

namespace shardexpr::benchmarks {

/// Says in the record which GPU the figures are of. False, with a line, where there is none.
inline bool describe_gpu() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::printf("SKIPPED: there is no GPU here: %s\n",
                error == cudaSuccess ? "CUDA finds none" : cudaGetErrorString(error));
    return false;
  }
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) return true;
  int driver = 0, runtime = 0;
  (void)cudaDriverGetVersion(&driver);
  (void)cudaRuntimeGetVersion(&runtime);
  benchmark::AddCustomContext("gpu", properties.name);
  benchmark::AddCustomContext("cuda_driver", std::to_string(driver));
  benchmark::AddCustomContext("cuda_runtime", std::to_string(runtime));
  return true;
}

}  // namespace shardexpr::benchmarks
