// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/product_plans.cuh>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include <cublasLt.h>

// Every matrix product of a GPU's layers but attention's, by cuBLASLt.
namespace shardexpr::nn::detail {

/// A (rows, columns) row-major matrix in a GPU's memory, rows `stride` apart; or its transpose.
template <class T>
struct CudaMatrix {
  T* data = nullptr;
  std::size_t rows = 0, columns = 0, stride = 0;
  bool is_transposed = false;

  constexpr CudaMatrix transposed() const { return {data, columns, rows, stride, !is_transposed}; }
};
/// A tensor as the matrix of its last axis by all others.
template <class T>
constexpr CudaMatrix<T> cuda_matrix(const Tensor<T>& t) {
  return {t.data, rows_of(t), width_of(t), width_of(t)};
}

/// One product, and what becomes of it: out = epilogue(alpha left right + beta base).
struct CudaProduct {
  ProductKey key;
  const void *left = nullptr, *right = nullptr;
  void* out = nullptr;
  const void* base = nullptr;    // as out, and may be out; null: nothing is added
  const void* bias = nullptr;    // a row
  void* aux = nullptr;           // what gelu is given: written by `gelu`, read by `gelu_slope`
  const float* alpha = nullptr;  // in the GPU's memory, as beta; null: alpha is 1
  const float* beta = nullptr;   // 1 with a base, 0 without
  void* workspace = nullptr;
};

/// left right -> out, without an epilogue.
///
/// Shapes:  left (m, k), right (k, n), out (m, n), not transposed.
/// Errors:  DeviceError where shapes do not fit.
template <KernelDtype T, KernelDtype Out>
CudaProduct product_of(const CudaMatrix<const T>& left, const CudaMatrix<const T>& right,
                       const CudaMatrix<Out>& out, const Tensor<std::byte>& workspace) {
  CudaProduct p{.key = {.in = product_dtype<T>,
                        .out = product_dtype<Out>,
                        .left_is_transposed = left.is_transposed,
                        .right_is_transposed = right.is_transposed,
                        .rows = left.rows,
                        .columns = right.columns,
                        .inner = left.columns,
                        .left_stride = left.stride,
                        .right_stride = right.stride,
                        .out_stride = out.stride,
                        .workspace_bytes = workspace.data == nullptr ? 0 : workspace.count()},
                .left = left.data,
                .right = right.data,
                .out = out.data,
                .workspace = workspace.data};
  if (left.columns != right.rows || out.rows != left.rows || out.columns != right.columns)
    throw DeviceError("a product of " + product_text(p.key) +
                      " does not fit: the second factor has " + std::to_string(right.rows) +
                      " rows, the result is (" + std::to_string(out.rows) + ", " +
                      std::to_string(out.columns) + ")");
  return p;
}

/// Whether cuBLASLt can keep, or read, what gelu was given in rows of so many columns.
constexpr bool takes_gelu(std::size_t columns) { return columns % 8 == 0; }

/// Enqueues a product, if there is an algorithm for it; the GPU of `stream` is the current one.
///
/// Order:   the same algorithm for all products of the same dtypes, shapes, strides and epilogue,
///          whatever the addresses; sums are fp32, their order is the algorithm's.
/// Errors:  DeviceError where cuBLASLt refuses, or an operand is not aligned to 16 bytes.
/// Cost:    on the host a search and one call of cuBLASLt, two or three with pointers of an
///          epilogue; allocates nothing once the kind of product is known.
inline bool enqueue_if_possible(cudaStream_t stream, CudaProduct p) {
  shardexpr::detail::cuda_check(cudaGetDevice(&p.key.gpu), "the thread's device");
  p.key.has_scalars_on_device = p.alpha != nullptr;
  for (const void* operand : {p.left, p.right, static_cast<const void*>(p.out), p.base, p.bias,
                              static_cast<const void*>(p.aux)})
    if (reinterpret_cast<std::uintptr_t>(operand) % ProductKey::alignment_bytes != 0)
      throw DeviceError("a product of " + product_text(p.key) +
                        ": an operand does not begin at a multiple of 16 bytes; let it begin where "
                        "a buffer does, or a parameter");
  // cuBLASLt wants its workspace at a multiple of 256 bytes, where buffers begin.
  static_assert(buffer_alignment_bytes % 256 == 0);
  if (reinterpret_cast<std::uintptr_t>(p.workspace) % 256 != 0)
    throw DeviceError("a product of " + product_text(p.key) +
                      ": the workspace does not begin at a multiple of 256 bytes, as buffers do");

  const auto [handle, plan] = ProductPlans::instance().find(p.key);
  if (!plan.exists) return false;
  const float one = 1, host_beta = p.base == nullptr ? 0.0f : 1.0f;
  std::unique_lock lock{plan.mutex, std::defer_lock};
  const auto point = [&, &to = plan](cublasLtMatmulDescAttributes_t attribute, const void* at) {
    product_check(cublasLtMatmulDescSetAttribute(&to.operation, attribute, &at, sizeof at),
                  "describe a product", p.key);
  };
  if (p.bias != nullptr || p.aux != nullptr) lock.lock();
  if (p.bias != nullptr) point(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  if (p.aux != nullptr) point(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux);
  product_check(
      cublasLtMatmul(handle, &plan.operation, p.alpha == nullptr ? &one : p.alpha, p.right,
                     &plan.right, p.left, &plan.left, p.alpha == nullptr ? &host_beta : p.beta,
                     p.base == nullptr ? p.out : p.base, &plan.out, p.out, &plan.out,
                     &plan.algorithm, p.workspace, p.key.workspace_bytes, stream),
      "multiply", p.key);
  return true;
}

/// The same for a product that every GPU has.
/// Errors:  DeviceError, also where there is no algorithm.
inline void enqueue_product(cudaStream_t stream, const CudaProduct& p) {
  if (!enqueue_if_possible(stream, p))
    throw DeviceError("cuBLASLt has no algorithm for a product of " + product_text(p.key) +
                      " in a workspace of " + std::to_string(p.key.workspace_bytes) +
                      " bytes on this GPU");
}

}  // namespace shardexpr::nn::detail
