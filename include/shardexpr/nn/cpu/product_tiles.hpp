// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/nn/cpu/native_product.hpp>
#include <shardexpr/nn/cpu/rows.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace shardexpr::nn::detail {

/// c = factor a b + row, and + c if it `adds`: a (m, k), b (k, n), c (m, n), row (n,) or null.
template <class T, class C>
struct Product {
  Factor<T> a, b;
  C* c;
  std::size_t c_stride, m, n, k;
  float factor = 1;
  const T* row = nullptr;
  bool adds = false;
};

/// The scratch of a thread that multiplies what `native_product` cannot: 768 KiB, taken once.
struct ProductTiles {
  static constexpr std::size_t side = 256;
  alignas(64) float a[side * side], b[side * side], c[side * side];

  static ProductTiles& of_this_thread() {
    thread_local const auto tiles = std::make_unique_for_overwrite<ProductTiles>();
    return *tiles;
  }
};

/// Widens the tile of op(f) that begins at (row, column) and has that many rows and columns; it is
/// stored as `f` is, without gaps.
template <class T>
void widen_tile(const Factor<T>& f, std::size_t row, std::size_t column, std::size_t rows,
                std::size_t columns, float* __restrict__ to) {
  if (f.is_transposed) {
    std::swap(row, column);
    std::swap(rows, columns);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const T* __restrict__ from = f.data + (row + r) * f.stride + column;
    for (std::size_t c = 0; c < columns; ++c) to[r * columns + c] = from[c];
  }
}

/// Rounds a tile of sums into c.
template <class T, class C>
void store_tile(const Product<T, C>& p, std::size_t row, std::size_t column, std::size_t rows,
                std::size_t columns, float* tile) {
  for (std::size_t r = 0; r < rows; ++r) {
    float* __restrict__ sum = tile + r * columns;
    C* __restrict__ c = p.c + (row + r) * p.c_stride + column;
    if (p.factor != 1)
      for (std::size_t i = 0; i < columns; ++i) sum[i] *= p.factor;
    if (p.row != nullptr)
      for (std::size_t i = 0; i < columns; ++i) sum[i] += p.row[column + i];
    if (p.adds)
      for (std::size_t i = 0; i < columns; ++i) sum[i] += c[i];
    for (std::size_t i = 0; i < columns; ++i) c[i] = static_cast<C>(sum[i]);
  }
}

/// Computes a product of what `native_product` does not multiply: tiles of a and b are widened to
/// fp32 and multiplied by it, sums are kept in fp32 and rounded once.
///
/// Cost:    fp32's product, and widening each element of b ceil(m / 256) times, of a once where
///          k <= 256, else ceil(n / 256) times. 768 KiB of scratch in each thread that ever
///          computes one.
template <class T, class C>
void multiply_in_tiles(const Product<T, C>& p) {
  static_assert(!std::is_same_v<T, double> && !std::is_same_v<C, double>, "tiles are of fp32");
  constexpr std::size_t side = ProductTiles::side;
  ProductTiles& tiles = ProductTiles::of_this_thread();
  for (std::size_t i = 0; i < p.m; i += side)
    for (std::size_t j = 0; j < p.n; j += side) {
      const std::size_t rows = std::min(p.m - i, side), columns = std::min(p.n - j, side);
      for (std::size_t l = 0; l < p.k; l += side) {
        const std::size_t depth = std::min(p.k - l, side);
        if (j == 0 || p.k > side) widen_tile(p.a, i, l, rows, depth, tiles.a);
        widen_tile(p.b, l, j, depth, columns, tiles.b);
        native_product<float>(1, {tiles.a, p.a.is_transposed ? rows : depth, p.a.is_transposed},
                              {tiles.b, p.b.is_transposed ? depth : columns, p.b.is_transposed},
                              {tiles.c, rows, columns, columns}, depth, l > 0);
      }
      store_tile(p, i, j, rows, columns, tiles.c);
    }
}

}  // namespace shardexpr::nn::detail
