// SPDX-License-Identifier: Apache-2.0
// Matrix products of layers by cuBLASLt, on a GPU. Without one they say so, and end well.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>

#include "product_cases.hpp"

int main(int argc, char** argv) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::printf("SKIPPED: there is no GPU here: %s\n",
                error == cudaSuccess ? "CUDA finds none" : cudaGetErrorString(error));
    return 0;
  }
  return doctest::Context(argc, argv).run();
}
