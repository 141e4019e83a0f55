// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>

#include <concepts>
#include <cstdint>

// Instructions that C++ cannot say: two numbers of 16 bits at a time to fp32 and back, and 2^x. The
// emulated runtime of the tests has a header of the same name, in C++, which comes first there.
namespace shardexpr::nn::detail {

/// Widens two elements of T, one of bf16 and fp16, that lie side by side: `low` at the lower
/// address.
template <class T>
__device__ inline void widen_two(std::uint32_t two, float& low, float& high) {
  if constexpr (std::same_as<T, bf16>) {
    low = __builtin_bit_cast(float, two << 16);
    high = __builtin_bit_cast(float, two & 0xffff0000u);
  } else {
    static_assert(std::same_as<T, fp16>);
    asm("{\n\t.reg .b16 first, second;\n\t"
        "mov.b32 {first, second}, %2;\n\t"
        "cvt.f32.f16 %0, first;\n\t"
        "cvt.f32.f16 %1, second;\n\t}"
        : "=f"(low), "=f"(high)
        : "r"(two));
  }
}

/// The way back: to nearest, ties to even, infinity beyond the largest; a NaN loses its payload.
template <class T>
__device__ inline std::uint32_t round_two(float low, float high) {
  std::uint32_t two;
  if constexpr (std::same_as<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  } else {
    static_assert(std::same_as<T, fp16>);
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  }
  return two;
}

/// 2^x within 2 ulp; 0 where the result would be less than the smallest normal number.
/// Source:  PTX ISA, ex2.
__device__ inline float two_to(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

}  // namespace shardexpr::nn::detail
