// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/nn/cpu/product.hpp>
#include <shardexpr/nn/cpu/rows.hpp>
#include <shardexpr/nn/layer.hpp>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace shardexpr::nn {

namespace detail {
// db += the sum of the first `width` columns of dy, rows `stride` apart, four at a time so that db
// is loaded and stored less often.
template <class T, class G>
void add_rows(const T* dy, std::size_t rows, std::size_t stride, std::size_t width,
              G* __restrict__ db) {
  std::size_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const T* d = dy + r * stride;
    for (std::size_t c = 0; c < width; ++c)
      db[c] += (d[c] + d[stride + c]) + (d[2 * stride + c] + d[3 * stride + c]);
  }
  for (; r < rows; ++r)
    for (std::size_t c = 0; c < width; ++c) db[c] += dy[r * stride + c];
}
// The same for a db that cannot take sums as they are: summed in A, rounded once.
template <class A, class T, class G>
void add_rows_rounded(const T* dy, std::size_t rows, std::size_t width, G* db) {
  constexpr std::size_t columns = 256;
  for (std::size_t at = 0; at < width; at += columns) {
    const std::size_t count = std::min(width - at, columns);
    A sum[columns] = {};
    add_rows(dy + at, rows, width, count, sum);
    for (std::size_t c = 0; c < count; ++c) db[at + c] = static_cast<G>(db[at + c] + sum[c]);
  }
}
}  // namespace detail

/// Computes y = x w + b.
///
/// Shapes:  x (..., in), w (in, out), b (out,), y (..., out): the layout of Hugging Face's Conv1D.
/// Cost:    2 * rows * in * out FLOPs.
template <HostDevice D, class T>
void linear_forward(const Context<D>& ctx, In<T> x, In<T> w, In<T> b, Tensor<T> y) {
  ctx.run(reads(x, w, b), writes(y), [=] {
    detail::multiply_plus_row(detail::rows(x), detail::rows(w), b.data, detail::rows(y));
  });
}

/// Computes y = residual + x w + b.
///
/// Shapes:  as `linear_forward`; residual (..., out) may be y itself.
template <HostDevice D, class T>
void linear_residual_forward(const Context<D>& ctx, In<T> residual, In<T> x, In<T> w, In<T> b,
                             Tensor<T> y) {
  ctx.run(reads(residual, x, w, b), writes(y), [=] {
    detail::multiply_plus_row(detail::rows(x), detail::rows(w), b.data, residual.data,
                              detail::rows(y));
  });
}

/// Adds the gradients of a linear layer's parameters: dw += x^T dy, db += the sum of dy's rows.
///
/// Shapes:  x (..., in), dy (..., out), dw (in, out), db (out,).
template <HostDevice D, class X, class G>
void linear_backward_params(const Context<D>& ctx, In<std::remove_const_t<X>> x, Tensor<X> dy,
                            Tensor<G> dw, Tensor<G> db) {
  using A = Accumulate<std::remove_const_t<X>>;
  ctx.run(reads(x, dy, dw, db), writes(dw, db), [=] {
    detail::multiply<detail::Into::add>(detail::transposed(detail::rows(x)), detail::rows(dy),
                                        detail::rows(dw));
    const std::size_t rows = detail::rows_of(dy), width = detail::width_of(dy);
    if constexpr (sizeof(G) < sizeof(A))
      detail::add_rows_rounded<A>(dy.data, rows, width, db.data);
    else
      detail::add_rows(dy.data, rows, width, width, db.data);
  });
}

/// Writes the gradient of a linear layer's input: dx = dy w^T.
///
/// Shapes:  dy (..., out), w (in, out), dx (..., in).
template <HostDevice D, class T>
void linear_backward_input(const Context<D>& ctx, In<T> dy, In<T> w, Tensor<T> dx) {
  ctx.run(reads(dy, w), writes(dx), [=] {
    detail::multiply<detail::Into::set>(detail::rows(dy), detail::transposed(detail::rows(w)),
                                        detail::rows(dx));
  });
}

}  // namespace shardexpr::nn
