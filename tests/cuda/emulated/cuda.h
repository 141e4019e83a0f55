// SPDX-License-Identifier: Apache-2.0
#pragma once
// The part of CUDA's driver interface that the library asks the runtime for.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string_view>
#include <thread>

#include "cuda_runtime.h"

enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_NOT_SUPPORTED = 801 };
using CUdeviceptr = unsigned long long;
using CUstream = cudaStream_t;
using cuuint32_t = std::uint32_t;
inline constexpr unsigned CU_STREAM_WAIT_VALUE_GEQ = 0;

namespace emulated {

inline CUresult stream_wait_value(CUstream stream, CUdeviceptr word, cuuint32_t value, unsigned) {
  if (const cudaError_t met = Faults::instance().meet("cuStreamWaitValue32"); met != cudaSuccess)
    return static_cast<CUresult>(met);  // the codes are the same
  stream->enqueue([word = reinterpret_cast<cuuint32_t*>(word), value] {
    // Within half the range, as the driver counts.
    while (static_cast<std::int32_t>(std::atomic_ref<cuuint32_t>{*word}.load() - value) < 0)
      std::this_thread::sleep_for(std::chrono::microseconds{20});
  });
  return CUDA_SUCCESS;
}

inline CUresult stream_write_value(CUstream stream, CUdeviceptr word, cuuint32_t value, unsigned) {
  if (const cudaError_t met = Faults::instance().meet("cuStreamWriteValue32"); met != cudaSuccess)
    return static_cast<CUresult>(met);
  stream->enqueue([word = reinterpret_cast<cuuint32_t*>(word), value] {
    std::atomic_ref<cuuint32_t>{*word}.store(value);
  });
  return CUDA_SUCCESS;
}

}  // namespace emulated

inline cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                                    unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
  EMULATED_CALL("cudaGetDriverEntryPointByVersion");
  const std::string_view name{symbol};
  *function =
      !emulated::machine.has_stream_waits ? nullptr
      : name == "cuStreamWaitValue32"     ? reinterpret_cast<void*>(&emulated::stream_wait_value)
      : name == "cuStreamWriteValue32"    ? reinterpret_cast<void*>(&emulated::stream_write_value)
                                          : nullptr;
  *result = *function != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
