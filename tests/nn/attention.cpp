// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <vector>

#include "attention_error.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
namespace nn = shardexpr::nn;
using harness::context;
using harness::gradient_error;
using harness::Owned;
using harness::random;
using sx::shape;
using sx::Tensor;

template <class T>
struct Attention {
  using A = sx::Accumulate<T>;
  std::size_t batch, length, embed, heads;
  Owned<T> qkv{harness::random<T>(shape(batch, length, 3 * embed), "qkv")};
  nn::AttentionScratch<sx::BufferSpec, T> spec =
      nn::attention_scratch<T, sx::Cpu>(length, embed / heads);
  Owned<A> scores{spec.scores.shape};
  Owned<T> rounded{spec.rounded.shape};
  Owned<A> key_gradients{spec.key_gradients.shape};
  Owned<A> lse{shape(batch, heads, length)};
  Owned<T> out{shape(batch, length, embed)}, dout{random<T>(out.view.shape, "dout")};
  Owned<T> dqkv{qkv.view.shape};

  nn::AttentionScratch<Tensor, T> scratch() const { return {scores, rounded, key_gradients}; }
  void forward() { nn::attention_forward(context(), qkv, heads, scratch(), lse, out.view); }
  void backward() {
    for (T& d : dqkv.view.span()) d = static_cast<T>(7.0f);  // it is written, not added to
    nn::attention_backward(context(), qkv, heads, lse, out, dout, scratch(), dqkv.view);
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

TEST_CASE_TEMPLATE("attention in 16 bits", T, sx::bf16, sx::fp16) {
  struct Case {
    std::size_t batch, length, embed, heads;
  };
  // Many short rows of heads of one: where a sum has one term, one rounding too many shows.
  for (const Case c : {Case{1, 1, 3, 1}, {200, 2, 3, 3}, {2, 65, 12, 3}, {1, 150, 34, 2}}) {
    CAPTURE(c.length);
    Attention<T> a{c.batch, c.length, c.embed, c.heads};
    Attention<double> exact{c.batch, c.length, c.embed, c.heads};
    for (std::size_t i = 0; i < a.qkv.count(); ++i) exact.qkv[i] = static_cast<double>(a.qkv[i]);
    for (std::size_t i = 0; i < a.dout.count(); ++i) exact.dout[i] = static_cast<double>(a.dout[i]);
    a.forward();
    exact.forward();
    const auto exact_out = harness::widened(exact.out), exact_lse = harness::widened(exact.lse);
    for (std::size_t i = 0; i < a.lse.count(); ++i) exact.lse[i] = static_cast<double>(a.lse[i]);
    for (std::size_t i = 0; i < a.out.count(); ++i) exact.out[i] = static_cast<double>(a.out[i]);
    a.backward();
    exact.backward();

    const harness::AttentionError<T> error{
        {c.batch, c.length, c.heads, c.embed / c.heads}, exact, {4, c.length / 16 + 8, c.length}};
    for (std::size_t i = 0; i < a.lse.count(); ++i)
      CHECK(std::abs(static_cast<double>(a.lse[i]) - exact_lse[i]) <= error.lse[i]);
    CHECK(worst_of(a.out.view, exact_out, error.out) <= 1);
    CHECK(worst_of(a.dqkv.view, exact.dqkv, error.dqkv) <= 1);
  }
}

// The gradients of the first key and value, where each of 640 rows adds about as much: blocks of
// rows are summed in fp32. One rounding of y leaves errors of u |y| / sqrt(3) or less, squares
// averaged; that average of n of them deviates by 2 / sqrt(5 n) of itself. Ten roundings would
// double them.
TEST_CASE_TEMPLATE("attention in 16 bits: gradients of keys are rounded once", T, sx::bf16,
                   sx::fp16) {
  constexpr std::size_t length = 10 * nn::attention_rows, embed = 128;
  Attention<T> a{1, length, embed, 4};
  Attention<double> exact{1, length, embed, 4};
  for (std::size_t row = 0; row < length; ++row)
    for (std::size_t i = 0; i < embed; ++i) {
      T* const q = &a.qkv[row * 3 * embed + i];
      q[0] = static_cast<T>(1 + 0.1f * q[0]);
      q[embed] = static_cast<T>(0.01f * q[embed]);
      q[2 * embed] = static_cast<T>(row == 0 ? 1.0f : 0.1f * q[2 * embed]);
      T& dout = a.dout[row * embed + i];  // all keys weigh alike: the first, 1 / (row + 1)
      dout = static_cast<T>(static_cast<float>(row + 1) * (1 + 0.1f * dout) / length);
      exact.dout[row * embed + i] = static_cast<double>(dout);
      for (std::size_t part = 0; part < 3; ++part)
        exact.qkv[(row * 3 + part) * embed + i] = static_cast<double>(q[part * embed]);
    }
  a.forward();
  exact.forward();
  for (std::size_t i = 0; i < a.out.count(); ++i) exact.out[i] = static_cast<double>(a.out[i]);
  for (std::size_t i = 0; i < a.lse.count(); ++i) exact.lse[i] = static_cast<double>(a.lse[i]);
  a.backward();
  exact.backward();
  for (const std::size_t part : {1u, 2u}) {
    CAPTURE(part);
    double squares = 0;
    for (std::size_t i = part * embed; i < (part + 1) * embed; ++i)
      squares += std::pow(static_cast<double>(a.dqkv[i]) / exact.dqkv[i] - 1, 2) / embed;
    const double rounded_once = std::pow(harness::unit_roundoff<T>, 2) / 3;
    CHECK(squares < rounded_once * (1 + 3 * 2 / std::sqrt(5.0 * embed)));
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
