// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <type_traits>

// g++ 12 takes the AVX-512 intrinsics' undefined operands for mistakes (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace shardexpr::nn::detail {

template <class T>
using Matrix =
    Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A (rows, columns) row-major matrix in memory that somebody else owns; rows are `stride` apart.
template <class T>
using MatrixView = Eigen::Map<std::conditional_t<std::is_const_v<T>, const Matrix<T>, Matrix<T>>,
                              Eigen::Unaligned, Eigen::OuterStride<>>;

template <class T>
MatrixView<T> matrix(T* data, std::size_t rows, std::size_t columns, std::size_t stride) {
  return {data, static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(columns),
          Eigen::OuterStride<>(static_cast<Eigen::Index>(stride))};
}

}  // namespace shardexpr::nn::detail
