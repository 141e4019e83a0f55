// SPDX-License-Identifier: Apache-2.0
// A GPT on a GPU. Without one it says so, and ends well.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>

#include "gpt_cases.hpp"

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
