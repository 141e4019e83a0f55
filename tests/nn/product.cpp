// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/nn/cpu/product.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
#include <type_traits>
#include <vector>

#include "rounding.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
namespace nn = shardexpr::nn::detail;
using harness::sum_loss;
using harness::Worst;

constexpr float padding = 3.0f;  // between rows; nobody may touch it

/// A matrix whose rows lie `stride` apart, the first one `offset` elements from the allocation.
template <class T>
struct Padded {
  std::size_t rows, columns, stride, offset;
  std::vector<T> memory;

  Padded(std::size_t rows_, std::size_t columns_, std::size_t gap, std::uint64_t seed,
         std::size_t offset_ = 0)
      : rows{rows_},
        columns{columns_},
        stride{columns_ + gap},
        offset{offset_},
        memory(offset_ + rows_ * stride + 1, static_cast<T>(padding)) {
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c)
        memory[offset + r * stride + c] = static_cast<T>(
            static_cast<float>(sx::initial_value(seed, 17, r * columns + c, sx::normal(1))));
  }
  T& at(std::size_t r, std::size_t c) { return memory[offset + r * stride + c]; }
  double value(std::size_t r, std::size_t c) const {
    return static_cast<double>(memory[offset + r * stride + c]);
  }
  nn::Rows<const T> read() const { return {memory.data() + offset, rows, columns, stride}; }
  nn::Rows<T> write() { return {memory.data() + offset, rows, columns, stride}; }

  bool padding_is_whole() const {
    for (std::size_t i = 0; i < memory.size(); ++i) {
      const bool inside = i >= offset && i < offset + rows * stride;
      if (inside && (i - offset) % stride < columns) continue;
      if (static_cast<float>(memory[i]) != padding) return false;
    }
    return true;
  }
  std::vector<float> values() const {
    std::vector<float> all;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c) all.push_back(static_cast<float>(value(r, c)));
    return all;
  }
};

enum class Kind { set, add, set_scaled, add_scaled, row, row_and_base };
constexpr Kind kinds[] = {Kind::set,        Kind::add, Kind::set_scaled,
                          Kind::add_scaled, Kind::row, Kind::row_and_base};

/// Elements between the rows of each matrix.
struct Gaps {
  std::size_t a = 0, b = 0, c = 0;
};

/// One product with its factors.
template <class T, class C>
struct Case {
  std::size_t m, n, k;
  Gaps gap;
  bool a_transposed, b_transposed;
  Kind kind;
  std::size_t offset = 0;

  Padded<T> a{a_transposed ? k : m, a_transposed ? m : k, gap.a, 1, offset};
  Padded<T> b{b_transposed ? n : k, b_transposed ? k : n, gap.b, 2, offset};
  Padded<C> c{m, n, gap.c, 3, offset};
  Padded<C> base{m, n, gap.c, 4, offset};
  std::vector<C> row = [&] {
    const Padded<C> r{1, n, 0, 5};
    return std::vector<C>(r.memory.begin(), r.memory.begin() + static_cast<std::ptrdiff_t>(n));
  }();
  static constexpr float factor = 0.37f;

  template <class Left, class Right>
  void run(const Left& left, const Right& right) {
    switch (kind) {
      case Kind::set:
        nn::multiply<nn::Into::set>(left, right, c.write());
        break;
      case Kind::add:
        nn::multiply<nn::Into::add>(left, right, c.write());
        break;
      case Kind::set_scaled:
        nn::multiply_scaled<nn::Into::set>(sx::Accumulate<T>{factor}, left, right, c.write());
        break;
      case Kind::add_scaled:
        nn::multiply_scaled<nn::Into::add>(sx::Accumulate<T>{factor}, left, right, c.write());
        break;
      default:
        if constexpr (std::is_same_v<T, C>) {  // a bias has the dtype of the layer
          if (kind == Kind::row)
            nn::multiply_plus_row(left, right, row.data(), c.write());
          else
            nn::multiply_plus_row(left, right, row.data(), base.memory.data() + offset, c.write());
        }
    }
  }
  void run() {
    if (a_transposed && b_transposed)
      run(nn::transposed(a.read()), nn::transposed(b.read()));
    else if (a_transposed)
      run(nn::transposed(a.read()), b.read());
    else if (b_transposed)
      run(a.read(), nn::transposed(b.read()));
    else
      run(a.read(), b.read());
  }

  bool exists() const {
    return std::is_same_v<T, C> || (kind != Kind::row && kind != Kind::row_and_base);
  }

  /// a b in double, and the sum of the absolute values of its terms.
  struct Exact {
    std::vector<double> sum, size;
  };
  Exact exact() const {
    Exact e{std::vector<double>(m * n), std::vector<double>(m * n)};
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t l = 0; l < k; ++l) {
        const double x = a_transposed ? a.value(l, i) : a.value(i, l);
        for (std::size_t j = 0; j < n; ++j) {
          const double term = x * (b_transposed ? b.value(j, l) : b.value(l, j));
          e.sum[i * n + j] += term;
          e.size[i * n + j] += std::abs(term);
        }
      }
    return e;
  }

  /// The largest error of the result as a part of what `rounding.hpp` allows.
  double worst(const Exact& exact) {
    const Padded<C> before{m, n, gap.c, 3, offset};
    run();
    const bool is_scaled = kind == Kind::set_scaled || kind == Kind::add_scaled;
    const double scale = is_scaled ? static_cast<double>(factor) : 1;
    Worst worst;
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        double sum = scale * exact.sum[i * n + j], size = scale * exact.size[i * n + j];
        const auto add = [&](double x) {
          sum += x;
          size += std::abs(x);
        };
        if (kind == Kind::row || kind == Kind::row_and_base) add(static_cast<double>(row[j]));
        if (kind == Kind::row_and_base) add(base.value(i, j));
        if (kind == Kind::add || kind == Kind::add_scaled) add(before.value(i, j));
        // k products and sums (those of 16 bits are exact, but count), a factor, two more sums.
        worst.see(c.at(i, j), sum, sum_loss<sx::Accumulate<T>>(size, 2 * k + 3));
      }
    CHECK(a.padding_is_whole());
    CHECK(b.padding_is_whole());
    CHECK(c.padding_is_whole());
    return worst.ratio();
  }
};

struct Size {
  std::size_t m, n, k;
};
// One, odd, a block's, and beyond a tile of 256 in each direction.
constexpr Size sizes[] = {{1, 1, 1},    {1, 7, 3},      {5, 1, 9},     {3, 17, 1},
                          {37, 21, 11}, {64, 64, 64},   {257, 19, 33}, {31, 261, 65},
                          {9, 70, 515}, {259, 258, 300}};

template <class T, class C>
void test_products() {
  for (const Size& s : sizes)
    for (const bool a_transposed : {false, true})
      for (const bool b_transposed : {false, true}) {
        const auto exact =
            Case<T, C>{s.m, s.n, s.k, {}, a_transposed, b_transposed, Kind::set}.exact();
        for (const Gaps gap : {Gaps{0, 0, 0}, Gaps{5, 0, 0}, Gaps{0, 7, 0}, Gaps{0, 0, 3}})
          for (const Kind kind : kinds) {
            CAPTURE(s.m);
            CAPTURE(s.n);
            CAPTURE(s.k);
            CAPTURE(gap.a);
            CAPTURE(gap.b);
            CAPTURE(gap.c);
            CAPTURE(a_transposed);
            CAPTURE(b_transposed);
            CAPTURE(static_cast<int>(kind));
            Case<T, C> product{s.m, s.n, s.k, gap, a_transposed, b_transposed, kind};
            if (product.exists()) CHECK(product.worst(exact) <= 1);
          }
      }
}

TEST_CASE("products of bf16 are sums in fp32, rounded once") {
  test_products<sx::bf16, sx::bf16>();
  test_products<sx::bf16, float>();
}
TEST_CASE("products of fp16 are sums in fp32, rounded once") {
  test_products<sx::fp16, sx::fp16>();
  test_products<sx::fp16, float>();
}
TEST_CASE("products of fp32 and double; of fp32 into bf16") {
  test_products<float, float>();
  test_products<double, double>();
  test_products<float, sx::bf16>();
}

// A sum in bf16 or fp16 would stand still: 1 + 2^-12 is 1 in both.
TEST_CASE("a product adds small to large in fp32") {
  const auto sum = [](auto one) {
    using T = decltype(one);
    std::vector<T> ones(4096, one), small(4096, static_cast<T>(0x1p-12f));
    T c = one;
    nn::multiply<nn::Into::add>(nn::Rows<const T>{ones.data(), 1, 4096, 4096},
                                nn::Rows<const T>{small.data(), 4096, 1, 1},
                                nn::Rows<T>{&c, 1, 1, 1});
    return static_cast<float>(c);
  };
  CHECK(sum(sx::bf16{1.0f}) == 2);
  CHECK(sum(sx::fp16{1.0f}) == 2);
}

// Not the address, not the thread, not what was multiplied before.
template <class T, class C>
void test_same_bits(std::span<const Size> of = sizes) {
  for (const Size& s : of) {
    CAPTURE(s.m);
    const auto bits = [&](std::size_t offset) {
      std::vector<float> all;
      for (const bool a_transposed : {false, true})
        for (const bool b_transposed : {false, true}) {
          Case<T, C> product{s.m,          s.n,          s.k,       {1, 2, 1},
                             a_transposed, b_transposed, Kind::add, offset};
          product.run();
          for (float x : product.c.values()) all.push_back(x);
        }
      return all;
    };
    const auto first = bits(0);
    for (const std::size_t offset : {1u, 3u, 8u}) CHECK(bits(offset) == first);
    std::vector<float> elsewhere;
    std::thread{[&] { elsewhere = bits(0); }}.join();
    CHECK(elsewhere == first);
  }
}

TEST_CASE_TEMPLATE("products of several threads do not meet", T, sx::bf16, sx::fp16) {
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&wrong, t] {
      const std::size_t n = 64;
      const std::vector<T> a(n * n, static_cast<T>(static_cast<float>(t + 1)));
      const std::vector<T> b(n * n, static_cast<T>(1.0f));
      std::vector<float> c(n * n);
      for (int i = 0; i < 2000; ++i) {
        nn::multiply<nn::Into::set>(nn::Rows<const T>{a.data(), n, n, n},
                                    nn::Rows<const T>{b.data(), n, n, n},
                                    nn::Rows<float>{c.data(), n, n, n});
        for (float x : c) wrong[t] += x != static_cast<float>(n * (t + 1));
      }
    });
  for (auto& thread : threads) thread.join();
  for (int count : wrong) CHECK(count == 0);
}

TEST_CASE("products do not depend on address or thread") {
  test_same_bits<sx::bf16, sx::bf16>();
  test_same_bits<sx::bf16, float>();
  test_same_bits<sx::fp16, float>();
#if defined(SHARDEXPR_ONEDNN)
  if (nn::OnednnProducts::of_this_thread().is_fast<float>())
    test_same_bits<float, float>(std::span{sizes}.last(1));
#endif
}

}  // namespace
