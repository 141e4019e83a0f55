// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/nn/cpu/math.hpp>
#include <shardexpr/nn/cpu/product.hpp>
#include <shardexpr/nn/cpu/rows.hpp>
#include <shardexpr/nn/layer.hpp>
#include <shardexpr/nn/token.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace shardexpr::nn {

namespace detail {
// -log softmax(row)[target]; turns the row into softmax minus one-hot.
template <class T>
Accumulate<T> cross_entropy_row(T* row, std::size_t width, std::size_t target) {
  using A = Accumulate<T>;
  const A largest = max_of(row, width);
  const A right = row[target] - largest;
  A sum{};
  if constexpr (std::is_same_v<T, A>) {
    exp_row(row, width, A{1}, largest);
    sum = sum_of(row, width);
    scale_row(row, width, 1 / sum);
    row[target] -= 1;
  } else {  // a row of 16 bits cannot hold the exponentials: compute them twice
    sum = sum_exp_of(row, width, largest);
    const A factor = 1 / sum;
    for (std::size_t c = 0; c < width; ++c)
      row[c] = static_cast<T>(exp_of(row[c] - largest) * factor);
    row[target] = static_cast<T>(exp_of(right) * factor - 1);  // of 1, rounded, nothing is left
  }
  return std::log(sum) - right;
}
}  // namespace detail

/// Computes the logits of a classifier whose rows are the embedding's: logits = x table^T.
///
/// Shapes:  x (..., C), table (V, C), logits (..., V).
template <HostDevice D, class T>
void classifier_forward(const Context<D>& ctx, In<T> x, In<T> table, Tensor<T> logits) {
  ctx.run(reads(x, table), writes(logits), [=] {
    detail::multiply<detail::Into::set>(detail::rows(x), detail::transposed(detail::rows(table)),
                                        detail::rows(logits));
  });
}

/// Computes loss = the mean over rows of -log softmax(logits)[target], and turns the logits into
/// softmax minus one-hot: the gradient, but for the factor that only backward knows.
///
/// Shapes:  logits (..., V), targets (rows,), loss (). The vocabulary is V.
/// Errors:  throws Error if a target is negative or not below V.
/// Cost:    one exponential a logit, of 16 bits two; backward then needs none.
template <HostDevice D, class T>
void cross_entropy_forward(const Context<D>& ctx, Tensor<T> logits, std::size_t vocabulary,
                           const std::int32_t* targets, Tensor<Accumulate<T>> loss) {
  const std::size_t width = vocabulary, rows = detail::rows_of(logits);
  ctx.run(reads(logits, std::span{targets, rows}), writes(logits, loss), [=] {
    double total = 0;  // rows in order
    for (std::size_t r = 0; r < rows; ++r) {
      T* row = logits.data + r * width;
      const std::size_t target = detail::checked_token(targets[r], width);
      total += static_cast<double>(detail::cross_entropy_row(row, width, target));
    }
    loss[0] = static_cast<Accumulate<T>>(total / static_cast<double>(rows));
  });
}

/// Adds the gradient of the table and writes that of x, from what `cross_entropy_forward` left in
/// the logits. `dloss` scales both.
///
/// Shapes:  error (..., V), x, dx (..., C), table, dtable (V, C), dloss (). dx may be x itself.
template <HostDevice D, class T, class G>
void classifier_backward(const Context<D>& ctx, In<T> error, In<Accumulate<T>> dloss, In<T> x,
                         In<T> table, Tensor<G> dtable, Tensor<T> dx) {
  using detail::Into;
  ctx.run(reads(error, dloss, x, table, dtable), writes(dtable, dx), [=] {
    const auto factor = dloss[0] / static_cast<Accumulate<T>>(detail::rows_of(error));
    const auto e = detail::rows(error);
    detail::multiply_scaled<Into::add>(factor, detail::transposed(e), detail::rows(x),
                                       detail::rows(dtable));
    detail::multiply_scaled<Into::set>(factor, e, detail::rows(table), detail::rows(dx));
  });
}

}  // namespace shardexpr::nn
