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

/// "GPU 0 (NVIDIA H200, compute capability 9.0)"
inline std::string cuda_name(int ordinal) {
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, ordinal), "ask for a GPU's properties");
  return "GPU " + std::to_string(ordinal) + " (" + properties.name + ", compute capability " +
         std::to_string(properties.major) + "." + std::to_string(properties.minor) + ")";
}

/// That the calling thread's current GPU runs the library's kernels, and that they were compiled
/// for it, of which `kernel` is one.
template <class... Parameters>
void check_cuda_kernels(int ordinal, void (*kernel)(Parameters...)) {
  int major = 0, minor = 0;
  cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal),
             "ask for a GPU's compute capability");
  cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal),
             "ask for a GPU's compute capability");
  if (major < 8)
    throw DeviceError(cuda_name(ordinal) +
                      " is too old for Cuda, which needs compute capability 8.0 or later; run on "
                      "such a GPU, or train on the Cpu");
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
      error == cudaErrorUnsupportedPtxVersion) {
    (void)cudaGetLastError();  // it is told
    const std::string architecture = std::to_string(major) + std::to_string(minor);
    throw DeviceError(cuda_name(ordinal) +
                      " is none that this program's kernels were compiled for; compile it with "
                      "nvcc -gencode arch=compute_" +
                      architecture + ",code=sm_" + architecture +
                      " (CMake: CMAKE_CUDA_ARCHITECTURES " + architecture + ")");
  }
  cuda_check(error, "look at a kernel");
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
