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

/// A GPU that this process has.
inline int cuda_ordinal(int ordinal) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0)
    throw DeviceError("there is no GPU for Cuda{" + std::to_string(ordinal) + "}: " +
                      (error == cudaSuccess ? "CUDA finds none" : cudaGetErrorString(error)) +
                      "; run where there is one, or train on the Cpu");
  if (ordinal < 0 || ordinal >= count)
    throw DeviceError("there is no GPU " + std::to_string(ordinal) + ": this process sees " +
                      std::to_string(count) + ", the last is " + std::to_string(count - 1));
  return ordinal;
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
