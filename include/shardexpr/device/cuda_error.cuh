// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>

#include <string>

#include <cuda_runtime.h>

namespace shardexpr::detail {

/// "CUDA: copy: an illegal memory access was encountered (cudaErrorIllegalAddress)"
inline std::string cuda_text(cudaError_t error, const char* what) {
  return std::string{"CUDA: "} + what + ": " + cudaGetErrorString(error) + " (" +
         cudaGetErrorName(error) + ")";
}

/// Errors:  throws DeviceError; std::bad_alloc is the allocator's.
inline void cuda_check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw DeviceError(cuda_text(error, what));
}

/// The calling thread's device for as long as this lives.
class CudaCurrent {
 public:
  explicit CudaCurrent(int ordinal) {
    cuda_check(cudaGetDevice(&before_), "the thread's device");
    if (before_ != ordinal) cuda_check(cudaSetDevice(ordinal), "choose a device");
    ordinal_ = ordinal;
  }
  CudaCurrent(const CudaCurrent&) = delete;
  CudaCurrent& operator=(const CudaCurrent&) = delete;
  ~CudaCurrent() {
    if (before_ != ordinal_) (void)cudaSetDevice(before_);
  }

 private:
  int before_ = 0, ordinal_ = 0;
};

}  // namespace shardexpr::detail
