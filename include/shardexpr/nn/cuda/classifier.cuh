// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/product.cuh>
#include <shardexpr/nn/layer.hpp>

#include <cstddef>

#include <cuda_runtime.h>

// The classifier of a GPU. Rows of logits are `logits_stride` apart; what lies behind the
// vocabulary in a row is never read, nor written.
namespace shardexpr::nn {

namespace detail {
/// What a product's sums are multiplied by, and what is there before: for both of a backward.
struct ClassifierScalars {
  static constexpr std::size_t factor = 0, one = 1, zero = 2, count = 3;
  const float* dloss;
  float rows;
  float* to;
  SHARDEXPR_HOST_DEVICE void operator()() const {
    to[factor] = dloss[0] / rows;
    to[one] = 1;
    to[zero] = 0;
  }
};

/// The rows of a tensor, of which the first `vocabulary` elements count.
template <class T>
constexpr CudaMatrix<T> logits_matrix(const Tensor<T>& logits, std::size_t vocabulary) {
  CudaMatrix<T> m = cuda_matrix(logits);
  m.columns = vocabulary;
  return m;
}
}  // namespace detail

/// Computes the logits of a classifier whose rows are the embedding's: logits = x table^T.
///
/// Shapes:  x (..., C), table (V, C), logits (..., logits_stride(V)).
template <KernelDevice D, detail::KernelDtype T>
void classifier_forward(const LayerContext<D>& on, In<T> x, In<T> table, Tensor<T> logits) {
  const auto& workspace = on.scratch.workspace;
  on.enqueue(reads(x, table), writes(logits, workspace), [&](cudaStream_t stream) {
    detail::enqueue_product(
        stream,
        detail::product_of<T, T>(detail::cuda_matrix(x), detail::cuda_matrix(table).transposed(),
                                 detail::logits_matrix(logits, table.shape[0]), workspace));
  });
}

/// Adds the gradient of the table and writes that of x, from what `cross_entropy_forward` left in
/// the logits. `dloss` scales both. Of a frozen table, whose gradient has no memory, it computes
/// nothing.
///
/// Shapes:  error (..., logits_stride(V)), x, dx (..., C), table, dtable (V, C), dloss (). dx may
///          be x itself.
/// Order:   sums are fp32; they are scaled, and that is rounded once with what was there.
template <KernelDevice D, detail::KernelDtype T, detail::KernelDtype G>
void classifier_backward(const LayerContext<D>& on, In<T> error, In<float> dloss, In<T> x,
                         In<T> table, Tensor<G> dtable, Tensor<T> dx) {
  using Scalars = detail::ClassifierScalars;
  const auto& workspace = on.scratch.workspace;
  const std::size_t vocabulary = table.shape[0], rows = detail::rows_of(error);
  const Tensor<float> scalars{on.scratch.sums.data, shape(Scalars::count)};
  on.run(reads(dloss), writes(scalars),
         Scalars{dloss.data, static_cast<float>(rows), scalars.data});
  const auto e = detail::logits_matrix(error, vocabulary);
  if (dtable.data != nullptr)
    on.enqueue(reads(error, x, dtable, scalars), writes(dtable, workspace),
               [&](cudaStream_t stream) {
                 auto p = detail::product_of<T, G>(e.transposed(), detail::cuda_matrix(x),
                                                   detail::cuda_matrix(dtable), workspace);
                 p.base = dtable.data;
                 p.alpha = scalars.data + Scalars::factor;
                 p.beta = scalars.data + Scalars::one;
                 detail::enqueue_product(stream, p);
               });
  on.enqueue(reads(error, table, scalars), writes(dx, workspace), [&](cudaStream_t stream) {
    auto p =
        detail::product_of<T, T>(e, detail::cuda_matrix(table), detail::cuda_matrix(dx), workspace);
    p.alpha = scalars.data + Scalars::factor;
    p.beta = scalars.data + Scalars::zero;
    detail::enqueue_product(stream, p);
  });
}

}  // namespace shardexpr::nn
