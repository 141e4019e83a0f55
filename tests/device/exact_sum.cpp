// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/core/exact_sum.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

double sum_of(const std::vector<double>& terms) {
  ExactSum sum;
  for (double term : terms) sum.add(term);
  return sum.value();
}

/// Non-negative, with exponents from `low` to `high`.
std::vector<double> terms(std::mt19937_64& random, std::size_t count, int low, int high) {
  std::vector<double> x(count);
  for (double& term : x) {
    const double significand = 1 + static_cast<double>(random() >> 12) * 0x1p-52;
    term = std::ldexp(significand, low + static_cast<int>(random() % (high - low + 1)));
  }
  return x;
}

bool same(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

}  // namespace

TEST_CASE("ExactSum of one term is the term") {
  CHECK(ExactSum{}.value() == 0);
  CHECK(same(sum_of({0.0}), 0.0));
  std::mt19937_64 random{1};
  for (double term : terms(random, 5000, -260, 290)) CHECK(same(sum_of({term}), term));
  // Squares of the extreme fp32 numbers.
  const double largest = std::numeric_limits<float>::max();
  const double smallest = std::numeric_limits<float>::denorm_min();
  CHECK(same(sum_of({largest * largest}), largest * largest));
  CHECK(same(sum_of({smallest * smallest}), smallest * smallest));
}

TEST_CASE("ExactSum does not depend on order") {
  std::mt19937_64 random{2};
  for (int repeat = 0; repeat < 50; ++repeat) {
    auto x = terms(random, 300, -290, 250);
    const double expected = sum_of(x);
    for (int order = 0; order < 5; ++order) {
      std::shuffle(x.begin(), x.end(), random);
      CHECK(same(sum_of(x), expected));
    }
    std::sort(x.begin(), x.end());
    CHECK(same(sum_of(x), expected));
  }
}

TEST_CASE("ExactSum does not depend on how terms are split over ranks") {
  std::mt19937_64 random{3};
  for (int repeat = 0; repeat < 50; ++repeat) {
    const auto x = terms(random, 500, -300, 240);
    const double expected = sum_of(x);
    for (std::size_t ranks : {1, 2, 3, 7}) {
      std::vector<ExactSum> part(ranks);
      for (double term : x) part[random() % ranks].add(term);
      if (repeat % 2) part[0].normalize();
      ExactSum total;
      for (const ExactSum& sum : part) total.add(sum);
      CHECK(same(total.value(), expected));
    }
  }
}

TEST_CASE("ExactSum agrees with a wider sum to the last bit or two") {
#if defined(__SIZEOF_FLOAT128__)
  using Wide = __float128;
#else
  using Wide = long double;
#endif
  std::mt19937_64 random{4};
  for (int repeat = 0; repeat < 200; ++repeat) {
    const auto x = terms(random, 1000, -20, 20);
    Wide wide = 0;
    for (double term : x) wide += term;
    const double expected = static_cast<double>(wide);
    CHECK(std::abs(sum_of(x) - expected) <= expected * 0x1p-52);
  }
}

TEST_CASE("ExactSum keeps small terms beside a huge one") {
  const std::vector<double> tiny(1 << 20, 0x1p-40);
  ExactSum sum;
  sum.add(1.0);
  for (double term : tiny) sum.add(term);
  CHECK(sum.value() == 1.0 + 0x1p-20);
  ExactSum naive;
  naive.add(0x1p100);
  naive.add(0x1p-200);
  CHECK(naive.value() == 0x1p100);
  // Exact in the small part too: a double would have lost it.
  ExactSum carry;
  carry.add(0x1p53);
  carry.add(1.0);
  carry.add(1.0);
  CHECK(carry.value() == 0x1p53 + 2);
}

TEST_CASE("ExactSum drops what lies below 2^-320, term by term") {
  CHECK(sum_of({0x1p-320}) == 0x1p-320);
  CHECK(sum_of({0x1p-321}) == 0);
  CHECK(sum_of({0x1p-321, 0x1p-321}) == 0);
  CHECK(sum_of({0x1p-320 + 0x1p-321}) == 0x1p-320);
  CHECK(sum_of({std::numeric_limits<double>::denorm_min()}) == 0);
}

TEST_CASE("ExactSum passes infinities and NaNs on") {
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(sum_of({1.0, infinity, 2.0}) == infinity);
  CHECK(std::isnan(sum_of({1.0, nan, infinity})));
  CHECK(sum_of({0x1p1000}) == infinity);  // beyond any sum of fp32 squares
  ExactSum a, b;
  a.add(infinity);
  b.add(1.0);
  b.add(a);
  CHECK(b.value() == infinity);
  ExactSum c;
  c.add(nan);
  b.add(c);
  CHECK(std::isnan(b.value()));
}

}  // namespace shardexpr::testing
