// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/loop.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

// Arithmetic on rows, whose results are the same bits wherever the row lies in memory and whichever
// loop the compiler makes of it: sums run in a fixed number of lanes, exp is a formula of our own.
// 16-bit elements are widened as they are loaded: sums are Accumulate<T>. What a loop calls is
// inlined by order, here and in the layers: of fp16's conversions clang takes a few for too long,
// and a loop with a call in it does not vectorize.
namespace shardexpr::nn::detail {

// e^x as a product that is not yet carried out: e^r 2^n, n the nearest integer to x / ln 2.
struct SplitExp {
  float e_to_r, two_to_n;
};
[[gnu::always_inline]] inline SplitExp split_exp(float x) {
  constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the integer
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = multiply_add(x, 1.44269504f, round_to_integer);
  const float n = shifted - round_to_integer;
  float r = multiply_add(n, -0.693359375f, x);  // ln 2 in two parts: the first product is exact
  r = multiply_add(n, 2.12194440e-4f, r);
  float p = multiply_add(r, 1.0f / 5040, 1.0f / 720);  // Taylor: the first dropped term is 5e-9
  p = multiply_add(p, r, 1.0f / 120);
  p = multiply_add(p, r, 1.0f / 24);
  p = multiply_add(p, r, 1.0f / 6);
  p = multiply_add(p, r, 0.5f);
  p = multiply_add(p, r, 1.0f);
  p = multiply_add(p, r, 1.0f);
  const auto exponent = std::bit_cast<std::uint32_t>(shifted) << 23;
  return {p, std::bit_cast<float>(exponent + 0x3f800000u)};
}

/// e^x for training: within 2 ulp for x in [-87, 88], clamped outside. A loop over it vectorizes,
/// which a loop over std::exp does not; vector and scalar iterations give the same bits. It must be
/// inlined for that: left to itself, g++ calls it for every element.
[[gnu::always_inline]] inline float exp_of(float x) {
  const SplitExp e = split_exp(x);
  return e.e_to_r * e.two_to_n;
}
inline double exp_of(double x) { return std::exp(x); }

/// The logistic function 1 / (1 + e^-x). The sum takes the product in, so that no compiler chooses
/// whether to.
[[gnu::always_inline]] inline float logistic_of(float x) {
  const SplitExp e = split_exp(-x);
  return 1 / multiply_add(e.e_to_r, e.two_to_n, 1.0f);
}
inline double logistic_of(double x) { return 1 / (1 + std::exp(-x)); }

inline constexpr std::size_t lanes = 16;

/// The lanes of a sum, added pairwise in one fixed order.
template <class T>
T sum_lanes(T (&lane)[lanes]) {
  for (std::size_t width = lanes / 2; width > 0; width /= 2)
    for (std::size_t j = 0; j < width; ++j) lane[j] += lane[j + width];
  return lane[0];
}

template <class T>
Accumulate<T> sum_of(const T* x, std::size_t n) {
  Accumulate<T> lane[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j) lane[j] += x[i + j];
  for (std::size_t j = 0; i + j < n; ++j) lane[j] += x[i + j];
  return sum_lanes(lane);
}

template <class T>
Accumulate<T> dot_of(const T* x, const T* y, std::size_t n) {
  using A = Accumulate<T>;
  A lane[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j) lane[j] = multiply_add<A>(x[i + j], y[i + j], lane[j]);
  for (std::size_t j = 0; i + j < n; ++j) lane[j] = multiply_add<A>(x[i + j], y[i + j], lane[j]);
  return sum_lanes(lane);
}

/// The sum of (x - mean)^2.
template <class T>
Accumulate<T> sum_squares_about(const T* x, Accumulate<T> mean, std::size_t n) {
  Accumulate<T> lane[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j)
      lane[j] = multiply_add(x[i + j] - mean, x[i + j] - mean, lane[j]);
  for (std::size_t j = 0; i + j < n; ++j)
    lane[j] = multiply_add(x[i + j] - mean, x[i + j] - mean, lane[j]);
  return sum_lanes(lane);
}

/// The largest of n > 0 values.
template <class T>
Accumulate<T> max_of(const T* x, std::size_t n) {
  using A = Accumulate<T>;
  const auto larger = [](A a, A b) { return a > b ? a : b; };
  A lane[lanes];
  for (std::size_t j = 0; j < lanes; ++j) lane[j] = x[0];
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j) lane[j] = larger(x[i + j], lane[j]);
  for (std::size_t j = 0; i + j < n; ++j) lane[j] = larger(x[i + j], lane[j]);
  A m = lane[0];
  for (std::size_t j = 1; j < lanes; ++j) m = larger(lane[j], m);
  return m;
}

/// The sum of exp(x - shift).
template <class T>
Accumulate<T> sum_exp_of(const T* x, std::size_t n, Accumulate<T> shift) {
  Accumulate<T> lane[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j) lane[j] += exp_of(x[i + j] - shift);
  for (std::size_t j = 0; i + j < n; ++j) lane[j] += exp_of(x[i + j] - shift);
  return sum_lanes(lane);
}

/// Turns a row of scores into exp(scale * x - shift).
template <class T>
void exp_row(T* x, std::size_t n, T scale, T shift) {
  for (std::size_t i = 0; i < n; ++i) x[i] = exp_of(multiply_add(x[i], scale, -shift));
}

template <class T>
void scale_row(T* x, std::size_t n, T by) {
  for (std::size_t i = 0; i < n; ++i) x[i] *= by;
}
/// As above, rounded into another row, which may be `x` itself.
template <class A, class T>
void scale_row(const A* x, std::size_t n, A by, T* to) {
  shardexpr::detail::for_independent(
      n, [=](std::size_t i) __attribute__((always_inline)) { to[i] = static_cast<T>(x[i] * by); });
}

}  // namespace shardexpr::nn::detail
