// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a record of figures must say beside them: the machine, the compiler, the libraries.
#include <shardexpr/nn/cpu/blas.hpp>

#include <cstdlib>
#include <fstream>
#include <string>

#include <benchmark/benchmark.h>
#include <sys/utsname.h>
#include <unistd.h>
#if !defined(__CUDACC__)
#include <Eigen/Core>
#endif
#if defined(SHARDEXPR_ONEDNN)
#include <oneapi/dnnl/dnnl.h>
#endif
#if defined(SHARDEXPR_OPENBLAS)
extern "C" char* openblas_get_config();
#endif

namespace shardexpr::benchmarks {

inline std::string processor_name() {
  std::ifstream file{"/proc/cpuinfo"};
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

/// Adds to the context of --benchmark_out. SHARDEXPR_COMMIT says what was built.
inline void add_context() {
  const auto add = [](const char* key, const std::string& value) {
    benchmark::AddCustomContext(key, value);
  };
  add("processor", processor_name());
  add("memory_bytes", std::to_string(static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
                                     static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE))));
  utsname system{};
  if (uname(&system) == 0) add("kernel", std::string{system.sysname} + " " + system.release);
#if defined(__clang__)
  add("compiler", __VERSION__);
#else
  add("compiler", std::string{"g++ "} + __VERSION__);
#endif
#if !defined(__CUDACC__)  // nvcc must not see it
  add("eigen", std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) +
                   "." + std::to_string(EIGEN_MINOR_VERSION));
#endif
#if defined(SHARDEXPR_OPENBLAS)
  add("blas", openblas_get_config());
#endif
#if defined(SHARDEXPR_ONEDNN)
  const dnnl_version_t* version = dnnl_version();
  add("onednn", std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
                    std::to_string(version->patch));
#endif
  if (const char* commit = std::getenv("SHARDEXPR_COMMIT")) add("commit", commit);
}

}  // namespace shardexpr::benchmarks
