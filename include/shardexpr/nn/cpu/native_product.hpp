// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/cpu/rows.hpp>

#include <cstddef>
#if defined(SHARDEXPR_OPENBLAS)
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include <cblas.h>
#else
#include <shardexpr/nn/cpu/matrix.hpp>
#endif

// Products of fp32 and of double: a BLAS's where there is one, else Eigen's. A BLAS is called
// itself and not through Eigen, whose templates would be compiled for nothing in every file that
// trains.
namespace shardexpr::nn::detail {

/// c = factor op(a) op(b), and + c if it `adds`: op(a) (c.rows, k), op(b) (k, c.columns), c apart
/// from both. T is float or double.
///
/// Cost:    2 m n k FLOPs: OpenBLAS's in the calling thread, where SHARDEXPR_OPENBLAS is defined;
///          else Eigen's, which packs into memory of its own.
template <class T>
void native_product(T factor, const Factor<T>& a, const Factor<T>& b, const Rows<T>& c,
                    std::size_t k, bool adds);

#if defined(SHARDEXPR_OPENBLAS)

/// Errors:  std::length_error for what a BLAS of 32-bit sizes cannot count.
inline blasint blas_size(std::size_t n) {
  if (n > static_cast<std::size_t>(std::numeric_limits<blasint>::max()))
    throw std::length_error("a matrix has " + std::to_string(n) +
                            " rows or columns, more than this BLAS counts: use smaller batches");
  return static_cast<blasint>(n);
}

template <class T>
void native_product(T factor, const Factor<T>& a, const Factor<T>& b, const Rows<T>& c,
                    std::size_t k, bool adds) {
  const std::size_t m = c.rows, n = c.columns;
  // A call of a BLAS costs more than so few products do.
  if (m + n + k < 20) {
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        T sum = 0;
        for (std::size_t l = 0; l < k; ++l)
          sum += a.data[a.is_transposed ? l * a.stride + i : i * a.stride + l] *
                 b.data[b.is_transposed ? j * b.stride + l : l * b.stride + j];
        T& to = c.data[i * c.stride + j];
        to = adds ? to + factor * sum : factor * sum;
      }
    return;
  }
  const auto gemm = [&](auto* function) {
    function(CblasRowMajor, a.is_transposed ? CblasTrans : CblasNoTrans,
             b.is_transposed ? CblasTrans : CblasNoTrans, blas_size(m), blas_size(n), blas_size(k),
             factor, a.data, blas_size(a.stride), b.data, blas_size(b.stride), adds ? T{1} : T{0},
             c.data, blas_size(c.stride));
  };
  if constexpr (std::is_same_v<T, float>)
    gemm(cblas_sgemm);
  else
    gemm(cblas_dgemm);
}

#else

template <class T>
void native_product(T factor, const Factor<T>& a, const Factor<T>& b, const Rows<T>& c,
                    std::size_t k, bool adds) {
  auto to = matrix(c.data, c.rows, c.columns, c.stride);
  const auto times = [&](const auto& left, const auto& right) {
    if (adds)
      to.noalias() += (factor * left) * right;
    else
      to.noalias() = (factor * left) * right;
  };
  const auto right = [&](const auto& left) {
    if (b.is_transposed)
      times(left, matrix(b.data, c.columns, k, b.stride).transpose());
    else
      times(left, matrix(b.data, k, c.columns, b.stride));
  };
  if (a.is_transposed)
    right(matrix(a.data, k, c.rows, a.stride).transpose());
  else
    right(matrix(a.data, c.rows, k, a.stride));
}

#endif

}  // namespace shardexpr::nn::detail
