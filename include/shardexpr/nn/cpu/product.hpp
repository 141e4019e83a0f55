// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/nn/cpu/native_product.hpp>
#include <shardexpr/nn/cpu/product_onednn.hpp>
#include <shardexpr/nn/cpu/product_tiles.hpp>
#include <shardexpr/nn/cpu/rows.hpp>

#include <algorithm>
#include <cstddef>
#include <type_traits>

// Every matrix product of the layers. fp32 and double are a BLAS's or Eigen's, but for large ones
// of fp32 where oneDNN is the faster; other dtypes are multiplied exactly, summed in fp32 and
// rounded once.
namespace shardexpr::nn::detail {

/// Whether a product overwrites its result or adds to it.
enum class Into { set, add };

/// Whether these are multiplied as they are.
template <class A, class B, class C>
inline constexpr bool is_native_product = std::is_same_v<A, B>&& std::is_same_v<A, C> &&
                                          (std::is_same_v<A, float> || std::is_same_v<A, double>);

template <Into into, class Left, class Right, class C>
auto product_of(const Left& a, const Right& b, const Rows<C>& c, float factor,
                const typename Left::Element* row) {
  using A = typename Left::Element;
  static_assert(std::is_same_v<A, typename Right::Element>, "factors of one dtype");
  const auto& left = stored(a);
  const auto& right = stored(b);
  return Product<A, C>{.a = {left.data, left.stride, Left::is_transposed},
                       .b = {right.data, right.stride, Right::is_transposed},
                       .c = c.data,
                       .c_stride = c.stride,
                       .m = c.rows,
                       .n = c.columns,
                       .k = Left::is_transposed ? left.rows : left.columns,
                       .factor = factor,
                       .row = row,
                       .adds = into == Into::add};
}

/// Of fp32: computes a large product by oneDNN and returns true, or returns false. Large is what is
/// at least `least` in each size: below, as in attention's products, a BLAS is as fast or faster.
template <Into into, class Left, class Right, class C>
bool multiply_large([[maybe_unused]] const Left& a, [[maybe_unused]] const Right& b,
                    [[maybe_unused]] const Rows<C>& c, [[maybe_unused]] float factor = 1,
                    [[maybe_unused]] const C* row = nullptr) {
#if defined(SHARDEXPR_ONEDNN)
  if constexpr (std::is_same_v<C, float>) {
    constexpr std::size_t least = 192;
    const auto product = product_of<into>(a, b, c, factor, row);
    return product.m >= least && product.n >= least && product.k >= least &&
           OnednnProducts::of_this_thread().multiply(product);
  }
#endif
  return false;
}

template <Into into, class Left, class Right, class C>
void multiply_converted(const Left& a, const Right& b, const Rows<C>& c, float factor,
                        const typename Left::Element* row) {
  using A = typename Left::Element;
  const Product<A, C> product = product_of<into>(a, b, c, factor, row);
#if defined(SHARDEXPR_ONEDNN)
  if constexpr (std::is_same_v<A, bf16> && (std::is_same_v<C, bf16> || std::is_same_v<C, float>))
    if (OnednnProducts::of_this_thread().multiply(product)) return;
#endif
  multiply_in_tiles(product);
}

/// A product that `is_native_product`.
template <Into into, class Left, class Right, class C>
void multiply_native(C factor, const Left& a, const Right& b, const Rows<C>& c) {
  const Product<C, C> of = product_of<into>(a, b, c, 1, nullptr);  // `factor` may be a double
  native_product<C>(factor, of.a, of.b, c, of.k, of.adds);
}

/// c = a b or c += a b.
///
/// Shapes:  a (m, k), b (k, n), each a `Rows` or the transpose of one; c (m, n), apart from both,
///          of another dtype if need be.
/// Cost:    2 m n k FLOPs. Of fp32 and double: `native_product`'s; of large ones of fp32 oneDNN's,
///          where SHARDEXPR_ONEDNN is defined and the processor has AVX-512. Of bf16 into
///          bf16 or fp32: oneDNN's, where it has AVX-512 BF16. Else see `multiply_in_tiles`.
template <Into into, class Left, class Right, class C>
void multiply(const Left& a, const Right& b, const Rows<C>& c) {
  if constexpr (is_native_product<typename Left::Element, typename Right::Element, C>) {
    if (multiply_large<into>(a, b, c)) return;
    multiply_native<into>(C{1}, a, b, c);
  } else {
    multiply_converted<into>(a, b, c, 1.0f, nullptr);
  }
}

/// c = factor a b or c += factor a b; the sum is scaled before it is rounded.
template <Into into, class Factor, class Left, class Right, class C>
void multiply_scaled(Factor factor, const Left& a, const Right& b, const Rows<C>& c) {
  if constexpr (is_native_product<typename Left::Element, typename Right::Element, C>) {
    if (multiply_large<into>(a, b, c, static_cast<float>(factor))) return;
    multiply_native<into>(static_cast<C>(factor), a, b, c);
  } else {
    multiply_converted<into>(a, b, c, factor, nullptr);
  }
}

/// c = a b + row: `row` (n,) is added to each row, before the sum is rounded. fp32 and double begin
/// with it, so that it needs no pass of its own, where oneDNN does not add it.
template <class Left, class Right, class C>
void multiply_plus_row(const Left& a, const Right& b, const C* row, const Rows<C>& c) {
  if constexpr (is_native_product<typename Left::Element, typename Right::Element, C>) {
    if (multiply_large<Into::set>(a, b, c, 1, row)) return;
    for (std::size_t r = 0; r < c.rows; ++r)
      for (std::size_t i = 0; i < c.columns; ++i) c.data[r * c.stride + i] = row[i];
    multiply<Into::add>(a, b, c);
  } else {
    multiply_converted<Into::set>(a, b, c, 1.0f, row);
  }
}

/// c = a b + row + base: `base` has the shape and the stride of c, and may be c.
template <class Left, class Right, class C>
void multiply_plus_row(const Left& a, const Right& b, const C* row, const C* base,
                       const Rows<C>& c) {
  if constexpr (is_native_product<typename Left::Element, typename Right::Element, C>) {
    for (std::size_t r = 0; r < c.rows; ++r)
      for (std::size_t i = 0; i < c.columns; ++i)
        c.data[r * c.stride + i] = base[r * c.stride + i] + row[i];
    multiply<Into::add>(a, b, c);
  } else {
    if (base != c.data)
      for (std::size_t r = 0; r < c.rows; ++r)
        std::copy_n(base + r * c.stride, c.columns, c.data + r * c.stride);
    multiply_converted<Into::add>(a, b, c, 1.0f, row);
  }
}

}  // namespace shardexpr::nn::detail
