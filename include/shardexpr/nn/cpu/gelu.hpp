// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/cpu/math.hpp>
#include <shardexpr/nn/cpu/matrix.hpp>
#include <shardexpr/nn/layer.hpp>

#include <cstddef>

namespace shardexpr::nn {

namespace detail {
// 2 u, u = sqrt(2 / pi) (x + 0.044715 x^3): GELU's tanh form is x logistic(2 u), because
// (1 + tanh u) / 2 is logistic(2 u).
template <class T>
T gelu_argument(T x, T square) {
  constexpr T twice_root = static_cast<T>(1.5957691216057307117598);
  return twice_root * x * multiply_add(static_cast<T>(0.044715), square, T{1});
}
// d(2 u) / dx.
template <class T>
T gelu_argument_slope(T square) {
  constexpr T twice_root = static_cast<T>(1.5957691216057307117598);
  return twice_root * multiply_add(static_cast<T>(3 * 0.044715), square, T{1});
}
}  // namespace detail

/// Computes y = gelu(x) in the tanh form that GPT-2 uses ("gelu_new").
///
/// Shapes:  x, y equally many.
/// Source:  Hendrycks & Gimpel, Gaussian Error Linear Units, 2016.
template <HostDevice D, class T>
void gelu_forward(const Context<D>& ctx, In<T> x, Tensor<T> y) {
  ctx.for_each(x.count(), reads(x), writes(y), [x = x.data, y = y.data](std::size_t i) {
    const T v = x[i];
    y[i] = v * detail::logistic_of(detail::gelu_argument(v, v * v));
  });
}

/// Computes y = gelu(x) again, and the slope d gelu / dx beside it, with one exponential.
///
/// Shapes:  x, y, slope equally many; slope may be x itself.
template <HostDevice D, class T>
void gelu_value_and_slope(const Context<D>& ctx, In<T> x, Tensor<T> y, Tensor<T> slope) {
  ctx.for_each(x.count(), reads(x), writes(y, slope),
               [x = x.data, y = y.data, slope = slope.data](std::size_t i) {
                 const T v = x[i];
                 const T square = v * v;
                 const T s = detail::logistic_of(detail::gelu_argument(v, square));
                 const T bend = v * detail::gelu_argument_slope(square) * s;
                 y[i] = v * s;
                 slope[i] = multiply_add(bend, 1 - s, s);
               });
}

/// Multiplies element by element: y *= by.
template <HostDevice D, class T>
void multiply_in_place(const Context<D>& ctx, In<T> by, Tensor<T> y) {
  ctx.for_each(y.count(), reads(by, y), writes(y),
               [by = by.data, y = y.data](std::size_t i) { y[i] *= by[i]; });
}

}  // namespace shardexpr::nn
