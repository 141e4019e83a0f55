// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/loop.hpp>
#include <shardexpr/nn/cpu/math.hpp>
#include <shardexpr/nn/cpu/matrix.hpp>
#include <shardexpr/nn/layer.hpp>

#include <cmath>
#include <cstddef>

namespace shardexpr::nn {

namespace detail {
template <class T>
void normalize_row(const T* __restrict__ x, T mean, T rstd, const T* __restrict__ w,
                   const T* __restrict__ b, std::size_t n, T* __restrict__ y) {
  for (std::size_t c = 0; c < n; ++c) y[c] = multiply_add((x[c] - mean) * rstd, w[c], b[c]);
}

// One row of backward: adds to dw and db, writes dx = rstd (g - mean(g) - xhat mean(g xhat)),
// g = dy w, plus the residual's gradient if there is one.
template <class T>
void layer_norm_backward_row(const T* __restrict__ x, T mean, T rstd, const T* __restrict__ w,
                             const T* __restrict__ dy, const T* residual, std::size_t n,
                             T* __restrict__ dw, T* __restrict__ db, T* dx) {
  T g_lane[lanes] = {}, gx_lane[lanes] = {};
  const auto one = [&](std::size_t c, std::size_t j) {
    const T xhat = (x[c] - mean) * rstd;
    g_lane[j] = multiply_add(dy[c], w[c], g_lane[j]);
    gx_lane[j] = multiply_add(dy[c] * w[c], xhat, gx_lane[j]);
  };
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j) one(i + j, j);
  for (std::size_t j = 0; i + j < n; ++j) one(i + j, j);
  const T g_mean = sum_lanes(g_lane) / static_cast<T>(n);
  const T gx_mean = sum_lanes(gx_lane) / static_cast<T>(n);

  for (std::size_t c = 0; c < n; ++c) {
    const T xhat = (x[c] - mean) * rstd;
    dw[c] = multiply_add(dy[c], xhat, dw[c]);
    db[c] += dy[c];
  }
  // dx may be the residual itself: each element is read before it is written.
  const auto gradient = [=](std::size_t c) {
    const T xhat = (x[c] - mean) * rstd;
    return multiply_add(-xhat, gx_mean, multiply_add(dy[c], w[c], -g_mean));
  };
  if (residual == nullptr) {
    for (std::size_t c = 0; c < n; ++c) dx[c] = rstd * gradient(c);
  } else {
    shardexpr::detail::for_independent(
        n, [&](std::size_t c) { dx[c] = multiply_add(rstd, gradient(c), residual[c]); });
  }
}

template <class T>
void layer_norm_backward(Tensor<const T> x, Tensor<const T> w, Tensor<const T> mean,
                         Tensor<const T> rstd, Tensor<const T> dy, const T* residual, Tensor<T> dw,
                         Tensor<T> db, Tensor<T> dx) {
  const std::size_t n = width_of(x);
  for (std::size_t r = 0; r < rows_of(x); ++r)
    layer_norm_backward_row(x.data + r * n, mean[r], rstd[r], w.data, dy.data + r * n,
                            residual == nullptr ? nullptr : residual + r * n, n, dw.data, db.data,
                            dx.data + r * n);
}
}  // namespace detail

/// Normalizes each row to mean 0 and variance 1, then computes y = xhat w + b.
///
/// Shapes:  x, y (..., n); w, b (n,); mean, rstd (...,), kept for backward.
/// Cost:    the variance is taken about the mean in a second pass: no cancellation.
/// Source:  Ba, Kiros & Hinton, Layer Normalization, 2016.
template <HostDevice D, class T>
void layer_norm_forward(const Context<D>& ctx, In<T> x, In<T> w, In<T> b,
                        Tensor<Accumulate<T>> mean, Tensor<Accumulate<T>> rstd, Tensor<T> y) {
  ctx.run(reads(x, w, b), writes(mean, rstd, y), [=] {
    const std::size_t n = detail::width_of(x);
    for (std::size_t r = 0; r < detail::rows_of(x); ++r) {
      const T* row = x.data + r * n;
      mean[r] = detail::sum_of(row, n) / static_cast<T>(n);
      const T variance = detail::sum_squares_about(row, mean[r], n) / static_cast<T>(n);
      rstd[r] = 1 / std::sqrt(variance + static_cast<T>(layer_norm_epsilon));
      detail::normalize_row(row, mean[r], rstd[r], w.data, b.data, n, y.data + r * n);
    }
  });
}

/// Computes y = xhat w + b again from the saved statistics, so that y need not be saved: the same
/// bits as in forward.
template <HostDevice D, class T>
void layer_norm_recompute(const Context<D>& ctx, In<T> x, In<T> w, In<T> b, In<Accumulate<T>> mean,
                          In<Accumulate<T>> rstd, Tensor<T> y) {
  ctx.run(reads(x, w, b, mean, rstd), writes(y), [=] {
    const std::size_t n = detail::width_of(x);
    for (std::size_t r = 0; r < detail::rows_of(x); ++r)
      detail::normalize_row(x.data + r * n, mean[r], rstd[r], w.data, b.data, n, y.data + r * n);
  });
}

/// Adds the gradients of w and b, and writes that of x.
///
/// Shapes:  x, dy, dx (..., n); w, dw, db (n,); mean, rstd (...,).
template <HostDevice D, class T>
void layer_norm_backward(const Context<D>& ctx, In<T> x, In<T> w, In<Accumulate<T>> mean,
                         In<Accumulate<T>> rstd, In<T> dy, Tensor<T> dw, Tensor<T> db,
                         Tensor<T> dx) {
  ctx.run(reads(x, w, mean, rstd, dy, dw, db), writes(dw, db, dx),
          [=] { detail::layer_norm_backward<T>(x, w, mean, rstd, dy, nullptr, dw, db, dx); });
}

/// As `layer_norm_backward`, and adds the gradient that went around the layer: dx = residual + ...
///
/// Shapes:  residual (..., n) may be dx itself.
template <HostDevice D, class T>
void layer_norm_residual_backward(const Context<D>& ctx, In<T> x, In<T> w, In<Accumulate<T>> mean,
                                  In<Accumulate<T>> rstd, In<T> dy, In<T> residual, Tensor<T> dw,
                                  Tensor<T> db, Tensor<T> dx) {
  ctx.run(reads(x, w, mean, rstd, dy, residual, dw, db), writes(dw, db, dx),
          [=] { detail::layer_norm_backward<T>(x, w, mean, rstd, dy, residual.data, dw, db, dx); });
}

}  // namespace shardexpr::nn
