// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/loop.hpp>
#include <shardexpr/nn/cpu/math.hpp>
#include <shardexpr/nn/cpu/rows.hpp>
#include <shardexpr/nn/layer.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

namespace shardexpr::nn {

namespace detail {
template <class T>
void normalize_row(const T* __restrict__ x, Accumulate<T> mean, Accumulate<T> rstd,
                   const T* __restrict__ w, const T* __restrict__ b, std::size_t n,
                   T* __restrict__ y) {
  for (std::size_t c = 0; c < n; ++c)
    y[c] = static_cast<T>(multiply_add<Accumulate<T>>((x[c] - mean) * rstd, w[c], b[c]));
}

// One row's part of dw and db, where they can take sums as they are.
template <class T>
void add_layer_norm_row(const T* __restrict__ x, T mean, T rstd, const T* __restrict__ dy,
                        std::size_t n, T* __restrict__ dw, T* __restrict__ db) {
  for (std::size_t c = 0; c < n; ++c) {
    const T xhat = (x[c] - mean) * rstd;
    dw[c] = multiply_add(dy[c], xhat, dw[c]);
    db[c] += dy[c];
  }
}

// All rows' part of dw and db: summed over the rows `layer_norm_columns` columns at a time, then
// added, rounded once.
inline constexpr std::size_t layer_norm_columns = 64;
template <class T, class G>
void add_layer_norm_columns(Tensor<const T> x, const Accumulate<T>* mean, const Accumulate<T>* rstd,
                            Tensor<const T> dy, G* dw, G* db) {
  using A = Accumulate<T>;
  const std::size_t n = width_of(x), rows = rows_of(x);
  for (std::size_t at = 0; at < n; at += layer_norm_columns) {
    A w_sum[layer_norm_columns] = {}, b_sum[layer_norm_columns] = {};
    const auto add = [&](std::size_t r, std::size_t width) {
      const T* x_row = x.data + r * n + at;
      const T* dy_row = dy.data + r * n + at;
      for (std::size_t c = 0; c < width; ++c) {
        const A xhat = (x_row[c] - mean[r]) * rstd[r];
        w_sum[c] = multiply_add<A>(dy_row[c], xhat, w_sum[c]);
        b_sum[c] += dy_row[c];
      }
    };
    const std::size_t width = std::min(n - at, layer_norm_columns);
    if (width == layer_norm_columns)  // so that the compiler knows the width
      for (std::size_t r = 0; r < rows; ++r) add(r, layer_norm_columns);
    else
      for (std::size_t r = 0; r < rows; ++r) add(r, width);
    for (std::size_t c = 0; c < width; ++c) {
      dw[at + c] = static_cast<G>(dw[at + c] + w_sum[c]);
      db[at + c] = static_cast<G>(db[at + c] + b_sum[c]);
    }
  }
}

// One row of backward: dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy w, plus the residual's
// gradient if there is one.
template <class T>
void layer_norm_backward_row(const T* __restrict__ x, Accumulate<T> mean, Accumulate<T> rstd,
                             const T* __restrict__ w, const T* __restrict__ dy, const T* residual,
                             std::size_t n, T* dx) {
  using A = Accumulate<T>;
  A g_lane[lanes] = {}, gx_lane[lanes] = {};
  const auto one = [&](std::size_t c, std::size_t j) __attribute__((always_inline)) {
    const A xhat = (x[c] - mean) * rstd;
    g_lane[j] = multiply_add<A>(dy[c], w[c], g_lane[j]);
    gx_lane[j] = multiply_add<A>(dy[c] * w[c], xhat, gx_lane[j]);
  };
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j) one(i + j, j);
  for (std::size_t j = 0; i + j < n; ++j) one(i + j, j);
  const A g_mean = sum_lanes(g_lane) / static_cast<A>(n);
  const A gx_mean = sum_lanes(gx_lane) / static_cast<A>(n);
  // dx may be the residual itself: each element is read before it is written.
  const auto gradient = [=](std::size_t c) __attribute__((always_inline)) {
    const A xhat = (x[c] - mean) * rstd;
    return multiply_add<A>(-xhat, gx_mean, multiply_add<A>(dy[c], w[c], -g_mean));
  };
  if (residual == nullptr) {
    for (std::size_t c = 0; c < n; ++c) dx[c] = static_cast<T>(rstd * gradient(c));
  } else {
    shardexpr::detail::for_independent(
        n, [&](std::size_t c) __attribute__((always_inline)) {
          dx[c] = static_cast<T>(multiply_add<A>(rstd, gradient(c), residual[c]));
        });
  }
}

template <class T, class G>
void layer_norm_backward(Tensor<const T> x, Tensor<const T> w, Tensor<const Accumulate<T>> mean,
                         Tensor<const Accumulate<T>> rstd, Tensor<const T> dy, const T* residual,
                         Tensor<G> dw, Tensor<G> db, Tensor<T> dx) {
  const std::size_t n = width_of(x);
  constexpr bool by_rows = std::is_same_v<T, Accumulate<T>> && std::is_same_v<T, G>;
  if constexpr (!by_rows) add_layer_norm_columns(x, mean.data, rstd.data, dy, dw.data, db.data);
  for (std::size_t r = 0; r < rows_of(x); ++r) {
    const T* x_row = x.data + r * n;
    const T* dy_row = dy.data + r * n;
    if constexpr (by_rows) add_layer_norm_row(x_row, mean[r], rstd[r], dy_row, n, dw.data, db.data);
    layer_norm_backward_row(x_row, mean[r], rstd[r], w.data, dy_row,
                            residual == nullptr ? nullptr : residual + r * n, n, dx.data + r * n);
  }
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
      using A = Accumulate<T>;
      mean[r] = detail::sum_of(row, n) / static_cast<A>(n);
      const A variance = detail::sum_squares_about(row, mean[r], n) / static_cast<A>(n);
      rstd[r] = 1 / std::sqrt(variance + static_cast<A>(layer_norm_epsilon));
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
/// Cost:    with 16-bit elements or gradients a second pass over x and dy: what is added to dw and
///          db is summed over all rows first, in Accumulate<T>, and rounded once.
template <HostDevice D, class T, class G>
void layer_norm_backward(const Context<D>& ctx, In<T> x, In<T> w, In<Accumulate<T>> mean,
                         In<Accumulate<T>> rstd, In<T> dy, Tensor<G> dw, Tensor<G> db,
                         Tensor<T> dx) {
  ctx.run(reads(x, w, mean, rstd, dy, dw, db), writes(dw, db, dx),
          [=] { detail::layer_norm_backward<T>(x, w, mean, rstd, dy, nullptr, dw, db, dx); });
}

/// As `layer_norm_backward`, and adds the gradient that went around the layer: dx = residual + ...
///
/// Shapes:  residual (..., n) may be dx itself.
template <HostDevice D, class T, class G>
void layer_norm_residual_backward(const Context<D>& ctx, In<T> x, In<T> w, In<Accumulate<T>> mean,
                                  In<Accumulate<T>> rstd, In<T> dy, In<T> residual, Tensor<G> dw,
                                  Tensor<G> db, Tensor<T> dx) {
  ctx.run(reads(x, w, mean, rstd, dy, residual, dw, db), writes(dw, db, dx),
          [=] { detail::layer_norm_backward<T>(x, w, mean, rstd, dy, residual.data, dw, db, dx); });
}

}  // namespace shardexpr::nn
