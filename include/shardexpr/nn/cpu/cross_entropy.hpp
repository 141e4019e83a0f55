// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/nn/cpu/embedding.hpp>
#include <shardexpr/nn/cpu/math.hpp>
#include <shardexpr/nn/cpu/matrix.hpp>
#include <shardexpr/nn/layer.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

namespace shardexpr::nn {

/// Computes the logits of a classifier whose rows are the embedding's: logits = x table^T.
///
/// Shapes:  x (..., C), table (V, C), logits (..., V).
template <HostDevice D, class T>
void classifier_forward(const Context<D>& ctx, In<T> x, In<T> table, Tensor<T> logits) {
  ctx.run(reads(x, table), writes(logits), [=] {
    detail::matrix(logits).noalias() = detail::matrix(x) * detail::matrix(table).transpose();
  });
}

/// Computes loss = the mean over rows of -log softmax(logits)[target], and turns the logits into
/// softmax minus one-hot: the gradient, but for the factor that only backward knows.
///
/// Shapes:  logits (..., V), targets (rows,), loss ().
/// Errors:  throws Error if a target is negative or not below V.
/// Cost:    one exponential a logit; backward then needs none.
template <HostDevice D, class T>
void cross_entropy_forward(const Context<D>& ctx, Tensor<T> logits, const std::int32_t* targets,
                           Tensor<Accumulate<T>> loss) {
  const std::size_t width = detail::width_of(logits), rows = detail::rows_of(logits);
  ctx.run(reads(logits, std::span{targets, rows}), writes(logits, loss), [=] {
    double total = 0;  // rows in order
    for (std::size_t r = 0; r < rows; ++r) {
      T* row = logits.data + r * width;
      const std::size_t target = detail::checked_token(targets[r], width);
      const T largest = detail::max_of(row, width);
      const T right = row[target] - largest;
      detail::exp_row(row, width, T{1}, largest);
      const T sum = detail::sum_of(row, width);
      detail::scale_row(row, width, 1 / sum);
      row[target] -= 1;
      total += static_cast<double>(std::log(sum) - right);
    }
    loss[0] = static_cast<Accumulate<T>>(total / static_cast<double>(rows));
  });
}

/// Adds the gradient of the table and writes that of x, from what `cross_entropy_forward` left in
/// the logits. `dloss` scales both.
///
/// Shapes:  error (..., V), x, dx (..., C), table, dtable (V, C), dloss (). dx may be x itself.
template <HostDevice D, class T>
void classifier_backward(const Context<D>& ctx, In<T> error, In<Accumulate<T>> dloss, In<T> x,
                         In<T> table, Tensor<T> dtable, Tensor<T> dx) {
  ctx.run(reads(error, dloss, x, table, dtable), writes(dtable, dx), [=] {
    const T factor = static_cast<T>(dloss[0]) / static_cast<T>(detail::rows_of(error));
    const auto e = detail::matrix(error);
    detail::matrix(dtable).noalias() += (factor * e.transpose()) * detail::matrix(x);
    detail::matrix(dx).noalias() = (factor * e) * detail::matrix(table);
  });
}

}  // namespace shardexpr::nn
