// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <vector>

#include "harness.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
namespace nn = shardexpr::nn;
using harness::context;
using harness::gradient_error;
using harness::Owned;
using harness::random;
using sx::shape;

template <class T>
struct Attention {
  std::size_t batch, length, embed, heads;
  Owned<T> qkv{harness::random<T>(shape(batch, length, 3 * embed), "qkv")};
  Owned<T> scores{shape(2, nn::attention_rows, length)};
  Owned<T> lse{shape(batch, heads, length)};
  Owned<T> out{shape(batch, length, embed)}, dout{random<T>(out.view.shape, "dout")};
  Owned<T> dqkv{qkv.view.shape};

  void forward() { nn::attention_forward(context(), qkv, heads, scores.view, lse, out.view); }
  void backward() {
    for (T& d : dqkv.view.span()) d = 7;  // it is written, not added to
    nn::attention_backward(context(), qkv, heads, lse, out, dout, scores.view, dqkv.view);
  }
  double objective() {
    forward();
    double sum = 0;
    for (std::size_t i = 0; i < out.count(); ++i) sum += out[i] * dout[i];
    return sum;
  }
  // The formula, row by row.
  double expected(std::size_t b, std::size_t t, std::size_t c) const {
    const std::size_t head = embed / heads, h = c / head;
    const auto at = [&](std::size_t row, std::size_t part, std::size_t i) {
      return static_cast<double>(qkv[((b * length + row) * 3 + part) * embed + i]);
    };
    double sum = 0, weighted = 0;
    for (std::size_t key = 0; key <= t; ++key) {
      double score = 0;
      for (std::size_t i = 0; i < head; ++i)
        score += at(t, 0, h * head + i) * at(key, 1, h * head + i);
      const double p = std::exp(score / std::sqrt(static_cast<double>(head)));
      sum += p;
      weighted += p * at(key, 2, c);
    }
    return weighted / sum;
  }
};

TEST_CASE("attention is the formula") {
  for (std::size_t length : {1u, 5u, 64u, 65u, 150u})
    for (std::size_t heads : {1u, 3u}) {
      Attention<double> exact{2, length, 12, heads};
      Attention<float> single{2, length, 12, heads};
      exact.forward();
      single.forward();
      for (std::size_t i = 0; i < exact.out.count(); i += 7) {
        const double right = exact.expected(i / 12 / length, i / 12 % length, i % 12);
        CHECK(exact.out[i] == doctest::Approx(right).epsilon(1e-12));
        CHECK(single.out[i] == doctest::Approx(right).epsilon(1e-5));
      }
    }
}

TEST_CASE("attention: gradients of q, k and v") {
  struct Case {
    std::size_t batch, length, embed, heads, stride;
  };
  for (const Case c : {Case{1, 1, 3, 1, 1},
                       {2, 5, 6, 1, 1},
                       {2, 7, 6, 3, 1},
                       {1, 64, 4, 2, 5},
                       {1, 65, 3, 3, 5},
                       {2, 150, 6, 2, 41}}) {
    CAPTURE(c.length);
    Attention<double> a{c.batch, c.length, c.embed, c.heads};
    a.forward();
    a.backward();
    CHECK(gradient_error(
              a.qkv, a.dqkv, [&] { return a.objective(); }, c.stride) < 1e-7);
  }
}

TEST_CASE("attention: the past does not see the future") {
  Attention<float> a{1, 130, 8, 2};
  a.forward();
  std::vector<float> before(a.out.view.span().begin(), a.out.view.span().end());
  for (std::size_t changed : {129u, 64u, 63u, 1u}) {
    for (std::size_t i = changed * 24; i < a.qkv.count(); ++i) a.qkv[i] += 3;
    a.forward();
    for (std::size_t i = 0; i < changed * 8; ++i) CHECK(a.out[i] == before[i]);
    CHECK(a.out[changed * 8] != before[changed * 8]);
  }
  // Nor does a gradient flow from a row to what comes after it.
  for (std::size_t i = 0; i < a.dout.count(); ++i)
    if (i >= 70 * 8) a.dout[i] = 0;
  a.backward();
  for (std::size_t i = 70 * 24; i < a.dqkv.count(); ++i) CHECK(a.dqkv[i] == 0);
}

TEST_CASE("attention: large scores do not overflow") {
  Attention<float> a{1, 70, 4, 1};
  for (float& x : a.qkv.view.span()) x *= 100;
  a.forward();
  a.backward();
  for (float x : a.out.view.span()) CHECK(std::isfinite(x));
  for (float x : a.dqkv.view.span()) CHECK(std::isfinite(x));
}

}  // namespace
