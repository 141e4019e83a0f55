// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/cpu/matrix.hpp>
#include <shardexpr/nn/layer.hpp>

#include <cstddef>

namespace shardexpr::nn {

namespace detail {
// db += the sum of the rows of dy, four at a time so that db is loaded and stored less often.
template <class T>
void add_rows(const T* dy, std::size_t rows, std::size_t width, T* __restrict__ db) {
  std::size_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const T* d = dy + r * width;
    for (std::size_t c = 0; c < width; ++c)
      db[c] += (d[c] + d[width + c]) + (d[2 * width + c] + d[3 * width + c]);
  }
  for (; r < rows; ++r)
    for (std::size_t c = 0; c < width; ++c) db[c] += dy[r * width + c];
}
}  // namespace detail

/// Computes y = x w + b.
///
/// Shapes:  x (..., in), w (in, out), b (out,), y (..., out): the layout of Hugging Face's Conv1D.
/// Cost:    2 * rows * in * out FLOPs. y starts as b, so that the bias needs no pass of its own.
template <HostDevice D, class T>
void linear_forward(const Context<D>& ctx, In<T> x, In<T> w, In<T> b, Tensor<T> y) {
  ctx.run(reads(x, w, b), writes(y), [=] {
    const std::size_t width = detail::width_of(y);
    for (std::size_t r = 0; r < detail::rows_of(y); ++r)
      for (std::size_t c = 0; c < width; ++c) y[r * width + c] = b[c];
    detail::matrix(y).noalias() += detail::matrix(x) * detail::matrix(w);
  });
}

/// Computes y = residual + x w + b.
///
/// Shapes:  as `linear_forward`; residual (..., out) may be y itself.
template <HostDevice D, class T>
void linear_residual_forward(const Context<D>& ctx, In<T> residual, In<T> x, In<T> w, In<T> b,
                             Tensor<T> y) {
  ctx.run(reads(residual, x, w, b), writes(y), [=] {
    const std::size_t width = detail::width_of(y);
    for (std::size_t r = 0; r < detail::rows_of(y); ++r)
      for (std::size_t c = 0; c < width; ++c) y[r * width + c] = residual[r * width + c] + b[c];
    detail::matrix(y).noalias() += detail::matrix(x) * detail::matrix(w);
  });
}

/// Adds the gradients of a linear layer's parameters: dw += x^T dy, db += the sum of dy's rows.
///
/// Shapes:  x (..., in), dy (..., out), dw (in, out), db (out,).
template <HostDevice D, class T>
void linear_backward_params(const Context<D>& ctx, In<T> x, In<T> dy, Tensor<T> dw, Tensor<T> db) {
  ctx.run(reads(x, dy, dw, db), writes(dw, db), [=] {
    detail::matrix(dw).noalias() += detail::matrix(x).transpose() * detail::matrix(dy);
    detail::add_rows(dy.data, detail::rows_of(dy), detail::width_of(dy), db.data);
  });
}

/// Writes the gradient of a linear layer's input: dx = dy w^T.
///
/// Shapes:  dy (..., out), w (in, out), dx (..., in).
template <HostDevice D, class T>
void linear_backward_input(const Context<D>& ctx, In<T> dy, In<T> w, Tensor<T> dx) {
  ctx.run(reads(dy, w), writes(dx), [=] {
    detail::matrix(dx).noalias() = detail::matrix(dy) * detail::matrix(w).transpose();
  });
}

}  // namespace shardexpr::nn
