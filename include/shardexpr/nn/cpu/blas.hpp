// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(SHARDEXPR_OPENBLAS)
extern "C" void openblas_set_num_threads(int count);
#endif

namespace shardexpr::nn {

/// Tells OpenBLAS to compute in the thread that calls it. Call it once, before ranks start.
///
/// Ranks are threads that use one core each: a library that starts its own threads below them would
/// share those cores between W * W threads, and its sums would depend on how many there are.
///
/// Order:   process-wide; not to be called while products run.
/// Cost:    a no-op unless SHARDEXPR_OPENBLAS is defined. The CMake target defines it together with
///          EIGEN_USE_BLAS, which makes Eigen, where units of one's own use it, hand its products
///          to the library, too.
inline void use_one_blas_thread() {
#if defined(SHARDEXPR_OPENBLAS)
  openblas_set_num_threads(1);
#endif
}

}  // namespace shardexpr::nn
