// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/nn/cuda/column_sums.cuh>
#include <shardexpr/nn/cuda/gelu.cuh>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/product.cuh>
#include <shardexpr/nn/layer.hpp>

#include <type_traits>

#include <cuda_runtime.h>

// Linear layers of a GPU; with gelu, see gelu.cuh. `on.scratch.workspace` is cuBLASLt's.
namespace shardexpr::nn {

/// Computes y = x w + b.
///
/// Shapes:  x (..., in), w (in, out), b (out,), y (..., out): the layout of Hugging Face's Conv1D.
/// Errors:  DeviceError where cuBLASLt refuses; operands begin at multiples of 16 bytes.
/// Cost:    2 * rows * in * out FLOPs; b is added in the product's epilogue.
template <KernelDevice D, detail::KernelDtype T>
void linear_forward(const LayerContext<D>& on, In<T> x, In<T> w, In<T> b, Tensor<T> y) {
  const auto& workspace = on.scratch.workspace;
  on.enqueue(reads(x, w, b), writes(y, workspace), [&](cudaStream_t stream) {
    auto p = detail::product_of<T, T>(detail::cuda_matrix(x), detail::cuda_matrix(w),
                                      detail::cuda_matrix(y), workspace);
    p.key.epilogue = detail::Epilogue::bias;
    p.bias = b.data;
    detail::enqueue_product(stream, p);
  });
}

/// Computes y = residual + x w + b.
///
/// Shapes:  as `linear_forward`; residual (..., out) may be y itself.
template <KernelDevice D, detail::KernelDtype T>
void linear_residual_forward(const LayerContext<D>& on, In<T> residual, In<T> x, In<T> w, In<T> b,
                             Tensor<T> y) {
  const auto& workspace = on.scratch.workspace;
  on.enqueue(reads(residual, x, w, b), writes(y, workspace), [&](cudaStream_t stream) {
    auto p = detail::product_of<T, T>(detail::cuda_matrix(x), detail::cuda_matrix(w),
                                      detail::cuda_matrix(y), workspace);
    p.key.epilogue = detail::Epilogue::bias;
    p.bias = b.data;
    p.base = residual.data;
    detail::enqueue_product(stream, p);
  });
}

/// Adds the gradients of a linear layer's parameters: dw += x^T dy, db += the sum of dy's rows. Of
/// a frozen parameter, whose gradient has no memory, nothing is computed.
///
/// Shapes:  x (..., in), dy (..., out), dw (in, out), db (out,).
/// Order:   sums are fp32, and rounded once with what was there.
template <KernelDevice D, class X, detail::KernelDtype G>
  requires detail::KernelDtype<std::remove_const_t<X>>
void linear_backward_params(const LayerContext<D>& on, In<std::remove_const_t<X>> x, Tensor<X> dy,
                            Tensor<G> dw, Tensor<G> db) {
  using T = std::remove_const_t<X>;
  const auto& workspace = on.scratch.workspace;
  const Tensor<const T> d{dy.data, dy.shape};
  if (dw.data != nullptr)
    on.enqueue(reads(x, d, dw), writes(dw, workspace), [&](cudaStream_t stream) {
      auto p = detail::product_of<T, G>(detail::cuda_matrix(x).transposed(), detail::cuda_matrix(d),
                                        detail::cuda_matrix(dw), workspace);
      p.base = dw.data;
      detail::enqueue_product(stream, p);
    });
  if (db.data != nullptr) detail::add_column_sums(on, d, db);
}

/// Writes the gradient of a linear layer's input: dx = dy w^T.
///
/// Shapes:  dy (..., out), w (in, out), dx (..., in).
template <KernelDevice D, detail::KernelDtype T>
void linear_backward_input(const LayerContext<D>& on, In<T> dy, In<T> w, Tensor<T> dx) {
  const auto& workspace = on.scratch.workspace;
  on.enqueue(reads(dy, w), writes(dx, workspace), [&](cudaStream_t stream) {
    detail::enqueue_product(stream, detail::product_of<T, T>(detail::cuda_matrix(dy),
                                                             detail::cuda_matrix(w).transposed(),
                                                             detail::cuda_matrix(dx), workspace));
  });
}

}  // namespace shardexpr::nn
