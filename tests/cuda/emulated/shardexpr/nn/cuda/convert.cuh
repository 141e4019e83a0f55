// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>

// What include/shardexpr/nn/cuda/convert.cuh says in PTX, in C++.
namespace shardexpr::nn::detail {

template <class T>
void widen_two(std::uint32_t two, float& low, float& high) {
  static_assert(std::same_as<T, bf16> || std::same_as<T, fp16>);
  low = __builtin_bit_cast(T, static_cast<std::uint16_t>(two));
  high = __builtin_bit_cast(T, static_cast<std::uint16_t>(two >> 16));
}

template <class T>
std::uint32_t round_two(float low, float high) {
  static_assert(std::same_as<T, bf16> || std::same_as<T, fp16>);
  return static_cast<std::uint32_t>(T{low}.bits) | static_cast<std::uint32_t>(T{high}.bits) << 16;
}

inline float two_to(float x) { return x < -126.0f ? 0.0f : std::exp2(x); }

}  // namespace shardexpr::nn::detail
