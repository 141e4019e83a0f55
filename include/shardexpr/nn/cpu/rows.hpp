// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/nn/layer.hpp>

#include <cstddef>
#include <type_traits>

// How the layers of the CPU name matrices in memory.
namespace shardexpr::nn::detail {

/// A (rows, columns) row-major matrix in memory that somebody else owns; rows are `stride` apart.
template <class T>
struct Rows {
  using Element = std::remove_const_t<T>;
  static constexpr bool is_transposed = false;
  T* data;
  std::size_t rows, columns, stride;
};
/// The transpose of `of`.
template <class T>
struct Transposed {
  using Element = std::remove_const_t<T>;
  static constexpr bool is_transposed = true;
  Rows<T> of;
};

/// A tensor as the matrix of its last axis by all others.
template <class T>
Rows<T> rows(const Tensor<T>& t) {
  return {t.data, rows_of(t), width_of(t), width_of(t)};
}
template <class T>
Transposed<T> transposed(const Rows<T>& of) {
  return {of};
}
template <class T>
const Rows<T>& stored(const Rows<T>& a) {
  return a;
}
template <class T>
const Rows<T>& stored(const Transposed<T>& a) {
  return a.of;
}

/// One factor of a product as it lies in memory: row-major, rows `stride` apart. Transposed, a
/// (m, k) matrix lies as (k, m).
template <class T>
struct Factor {
  const T* data;
  std::size_t stride;
  bool is_transposed;
};

}  // namespace shardexpr::nn::detail
