// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bf16.hpp>
#include <shardexpr/core/fp16.hpp>
#include <shardexpr/core/macros.hpp>

#include <string_view>
#include <type_traits>

namespace shardexpr {

/// IEEE binary32: the dtype of masters, moments and sums.
using fp32 = float;

/// The dtype in which sums, statistics and losses over elements of `T` are kept: at least
/// fp32. double stays double, for the finite-difference tests.
template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, fp32>;

/// A dtype as plans, logs and messages write it.
template <class T>
inline constexpr std::string_view dtype_name = "unknown";
template <>
inline constexpr std::string_view dtype_name<fp32> = "fp32";
template <>
inline constexpr std::string_view dtype_name<bf16> = "bf16";
template <>
inline constexpr std::string_view dtype_name<fp16> = "fp16";
template <>
inline constexpr std::string_view dtype_name<double> = "fp64";

namespace detail {

/// Stores the bits of a 16-bit value: copied as a structure, it keeps g++ from vectorizing.
template <class T>
SHARDEXPR_HOST_DEVICE void store(T& to, T value) {
  if constexpr (requires { to.bits; })
    to.bits = value.bits;
  else
    to = value;
}

}  // namespace detail

}  // namespace shardexpr
