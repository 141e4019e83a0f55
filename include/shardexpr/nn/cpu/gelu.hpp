// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/nn/cpu/linear.hpp>
#include <shardexpr/nn/cpu/math.hpp>
#include <shardexpr/nn/cpu/rows.hpp>
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
  const T* const x_at = x.data;
  T* const y_at = y.data;
  ctx.for_each(
      x.count(), reads(x), writes(y), [=](std::size_t i) __attribute__((always_inline)) {
        const Accumulate<T> v = x_at[i];
        y_at[i] = static_cast<T>(v * detail::logistic_of(detail::gelu_argument(v, v * v)));
      });
}

/// Computes y = gelu(x) again, and leaves the slope d gelu / dx in x, for
/// `linear_gelu_backward_input`: one exponential for both.
///
/// Shapes:  x, y equally many.
template <HostDevice D, class T>
void gelu_rebuild(const Context<D>& ctx, Tensor<T> x, Tensor<T> y) {
  T* const x_at = x.data;
  T* const y_at = y.data;
  const auto one = [=](std::size_t i) __attribute__((always_inline)) {
    using A = Accumulate<T>;
    const A v = x_at[i];
    const A square = v * v;
    const A s = detail::logistic_of(detail::gelu_argument(v, square));
    const A bend = v * detail::gelu_argument_slope(square) * s;
    y_at[i] = static_cast<T>(v * s);
    x_at[i] = static_cast<T>(multiply_add(bend, 1 - s, s));
  };
  ctx.for_each(x.count(), reads(x), writes(x, y), one);
}

/// Multiplies element by element: y *= by.
template <HostDevice D, class T>
void multiply_in_place(const Context<D>& ctx, In<T> by, Tensor<T> y) {
  const T* const by_at = by.data;
  T* const y_at = y.data;
  const auto one = [=](std::size_t i) __attribute__((always_inline)) {
    y_at[i] = static_cast<T>(y_at[i] * by_at[i]);
  };
  ctx.for_each(y.count(), reads(by, y), writes(y), one);
}

/// Computes y = gelu(x w + b), and keeps what gelu was given.
///
/// Shapes:  as `linear_forward`; before, y (..., out).
template <HostDevice D, class T>
void linear_gelu_forward(const Context<D>& ctx, In<T> x, In<T> w, In<T> b, Tensor<T> before,
                         Tensor<T> y) {
  linear_forward(ctx, x, w, b, before);
  gelu_forward(ctx, before, y);
}

/// Writes the gradient of what gelu was given: dx = (dy w^T) gelu'(x), from what `gelu_rebuild`
/// left in x.
///
/// Shapes:  dy (..., out), w (in, out), rebuilt, dx (..., in).
template <HostDevice D, class T>
void linear_gelu_backward_input(const Context<D>& ctx, In<T> dy, In<T> w, In<T> rebuilt,
                                Tensor<T> dx) {
  linear_backward_input(ctx, dy, w, dx);
  multiply_in_place(ctx, rebuilt, dx);
}

}  // namespace shardexpr::nn
