// SPDX-License-Identifier: Apache-2.0
// A user's program for a GPU: it compiles and links where there is none, and says so there.
#include <shardexpr/core/macros.hpp>
#include <shardexpr/device/cuda.cuh>
#if defined(WITH_NCCL)
#include <shardexpr/comm/nccl.cuh>
#endif

#include <cstdio>
#include <span>

#include <cublasLt.h>

namespace sx = shardexpr;

int main() {
  std::printf("shardexpr %d.%d.%d, cuBLASLt %zu\n", SHARDEXPR_VERSION_MAJOR,
              SHARDEXPR_VERSION_MINOR, SHARDEXPR_VERSION_PATCH, cublasLtGetVersion());
#if defined(WITH_NCCL)
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return 1;
  std::printf("NCCL %d\n", version);
#endif
  try {
    sx::Cuda device;
    sx::Cuda::Stream stream{device, "stream"};
    const auto a = device.allocate<float>(1000, sx::Purpose::other);
    const auto b = device.allocate<sx::bf16>(1000, sx::Purpose::other);
    device.cast(stream, std::span<const float>{a.span()}, b.span());
    device.synchronize(stream);
  } catch (const sx::DeviceError& error) {
    std::printf("%s\n", error.what());
  }
}
