// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>

namespace shardexpr {

/// a * b + c, contracted on purpose where the target can, and nowhere else: left to the compiler,
/// two instantiations of one formula may round differently, and strategies would no longer agree to
/// the bit.
template <class T>
SHARDEXPR_HOST_DEVICE constexpr T multiply_add(T a, T b, T c) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__ARM_FEATURE_FMA)
  if constexpr (sizeof(T) == 4)
    return __builtin_fmaf(a, b, c);
  else
    return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace shardexpr
