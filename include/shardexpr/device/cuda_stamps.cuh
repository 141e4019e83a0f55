// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/cuda_clock.cuh>
#include <shardexpr/device/cuda_error.cuh>
#include <shardexpr/device/cuda_kernels.cuh>
#include <shardexpr/device/cuda_memory.cuh>
#include <shardexpr/device/trace.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include <cuda_runtime.h>

// How a GPU tells a trace when its streams come where.
namespace shardexpr::detail {

struct WriteTime {
  std::int64_t* to;
  __device__ void operator()() const { *to = gpu_time_ns(); }
};
inline void enqueue_stamp(cudaStream_t stream, std::int64_t* to) {
  cuda_launch(stream, 1, 1, "stamp a stream", run_once<WriteTime>, WriteTime{to});
}

/// Zeroed pinned memory for times, which nobody is charged for.
/// Errors:  std::bad_alloc, DeviceError.
inline std::shared_ptr<std::int64_t[]> pinned_times(std::size_t count) {
  const std::size_t size_bytes = count * sizeof(std::int64_t);
  const auto loan = std::make_shared<CudaLoan>(CudaMemory::host, size_bytes);
  std::memset(loan->memory, 0, size_bytes);
  return {loan, static_cast<std::int64_t*>(loan->memory)};
}

/// Asks the calling thread's current GPU for its time some times and believes the answer that took
/// the least: half of that is what it may be off.
inline ClockMatch match_gpu_clock() {
  using Clock = StreamTrace::Clock;
  const auto ns = [](Clock::time_point time) {
    return std::chrono::nanoseconds{time.time_since_epoch()}.count();
  };
  const auto answer = pinned_times(1);
  ClockMatch match{0, std::numeric_limits<std::int64_t>::max()};
  for (int tries = 0; tries < 16; ++tries) {
    const std::int64_t before = ns(Clock::now());
    enqueue_stamp(cudaStreamPerThread, answer.get());
    cuda_check(cudaStreamSynchronize(cudaStreamPerThread), "ask a GPU for its time");
    const std::int64_t half = (ns(Clock::now()) - before) / 2;
    if (half < match.uncertainty_ns) match = {before + half - answer[0], half};
  }
  return match;
}

}  // namespace shardexpr::detail
