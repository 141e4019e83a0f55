// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
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
using sx::Tensor;

constexpr double tolerance = 1e-7;

double dot(Tensor<double> x, Tensor<double> y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.count(); ++i) sum += x[i] * y[i];
  return sum;
}

TEST_CASE("exp is std::exp to 2 ulp, and clamps") {
  double worst = 0;
  for (float x = -87; x <= 88; x += 0.00137f) {
    const double right = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(nn::detail::exp_of(x) - right) / right);
  }
  CHECK(worst < 2.4e-7);
  CHECK(nn::detail::exp_of(0.0f) == 1.0f);
  CHECK(nn::detail::exp_of(-1e30f) < 2e-38f);
  CHECK(nn::detail::exp_of(1e30f) > 1e38f);
  CHECK(std::isnan(nn::detail::exp_of(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("exp, sums and maxima do not depend on where a row lies") {
  for (std::size_t n : {1u, 15u, 16u, 17u, 61u, 100u}) {
    auto x = random<float>(shape(n + 16), "row", 0.0f, 3.0f);
    const auto at = [&](std::size_t offset) {
      std::vector<float> moved(n + 16);
      std::copy_n(x.view.data, n, moved.data() + offset);
      float* row = moved.data() + offset;
      const float largest = nn::detail::max_of(row, n);
      nn::detail::exp_row(row, n, 0.7f, largest);
      std::vector<float> result(row, row + n);
      result.push_back(largest);
      result.push_back(nn::detail::sum_of(row, n));
      result.push_back(nn::detail::dot_of(row, row, n));
      return result;
    };
    const auto first = at(0);
    for (std::size_t offset = 1; offset < 16; ++offset) CHECK(at(offset) == first);
    for (std::size_t i = 0; i < n; ++i)  // vector and scalar iterations agree
      CHECK(first[i] == nn::detail::exp_of(sx::multiply_add(x[i], 0.7f, -first[n])));
  }
}

TEST_CASE("linear: gradients of x, w, b and the residual") {
  auto x = random<double>(shape(2, 5, 7), "x");
  auto w = random<double>(shape(7, 3), "w"), b = random<double>(shape(3), "b");
  auto residual = random<double>(shape(2, 5, 3), "residual");
  auto dy = random<double>(shape(2, 5, 3), "dy");
  Owned<double> y{dy.view.shape};
  const auto plain = [&] {
    nn::linear_forward(context(), x, w, b, y.view);
    return dot(y, dy);
  };
  const auto with_residual = [&] {
    nn::linear_residual_forward(context(), residual, x, w, b, y.view);
    return dot(y, dy);
  };
  Owned<double> dx{x.view.shape}, dw{w.view.shape}, db{b.view.shape};
  nn::linear_backward_input(context(), dy, w, dx.view);
  nn::linear_backward_params(context(), x, dy.view, dw.view, db.view);
  CHECK(gradient_error(x, dx, plain) < tolerance);
  CHECK(gradient_error(w, dw, plain) < tolerance);
  CHECK(gradient_error(b, db, plain) < tolerance);
  CHECK(gradient_error(w, dw, with_residual) < tolerance);
  CHECK(gradient_error(residual, dy, with_residual) < tolerance);

  const double before = dw[4], bias_before = db[1];  // backward adds to parameters' gradients
  nn::linear_backward_params(context(), x, dy.view, dw.view, db.view);
  CHECK(dw[4] == doctest::Approx(2 * before));
  CHECK(db[1] == doctest::Approx(2 * bias_before));

  plain();
  double expected = b[2];  // Conv1D's layout: w is (in, out)
  for (std::size_t i = 0; i < 7; ++i) expected += x[7 * 4 + i] * w[3 * i + 2];
  CHECK(y[3 * 4 + 2] == doctest::Approx(expected));
}

TEST_CASE("layer norm: rows have mean 0 and variance 1; gradients") {
  for (std::size_t n : {3u, 16u, 37u}) {
    auto x = random<double>(shape(2, 3, n), "x", 2.0, 1.5);
    auto w = random<double>(shape(n), "w", 1.0, 0.4), b = random<double>(shape(n), "b");
    auto dy = random<double>(x.view.shape, "dy"), around = random<double>(x.view.shape, "around");
    Owned<double> y{x.view.shape}, mean{shape(2, 3)}, rstd{shape(2, 3)};
    const auto objective = [&] {
      nn::layer_norm_forward(context(), x, w, b, mean, rstd, y.view);
      return dot(y, dy);
    };
    const auto with_residual = [&] { return objective() + dot(x, around); };
    objective();
    double sum = 0, squares = 0;
    for (std::size_t c = 0; c < n; ++c) {
      const double xhat = (y[n + c] - b[c]) / w[c];
      sum += xhat;
      squares += xhat * xhat;
    }
    CHECK(std::abs(sum) < 1e-9);
    CHECK(squares / static_cast<double>(n) == doctest::Approx(1).epsilon(1e-4));

    Owned<double> again{x.view.shape};
    nn::layer_norm_recompute(context(), x, w, b, mean, rstd, again.view);
    for (std::size_t i = 0; i < x.count(); ++i) CHECK(again[i] == y[i]);

    Owned<double> dx{x.view.shape}, dw{w.view.shape}, db{b.view.shape};
    nn::layer_norm_backward(context(), x, w, mean, rstd, dy, dw.view, db.view, dx.view);
    CHECK(gradient_error(x, dx, objective) < tolerance);
    CHECK(gradient_error(w, dw, objective) < tolerance);
    CHECK(gradient_error(b, db, objective) < tolerance);

    Owned<double> in_place{x.view.shape}, dw2{w.view.shape}, db2{b.view.shape};
    for (std::size_t i = 0; i < x.count(); ++i) in_place[i] = around[i];
    objective();
    nn::layer_norm_residual_backward(context(), x, w, mean, rstd, dy, in_place, dw2.view, db2.view,
                                     in_place.view);
    CHECK(gradient_error(x, in_place, with_residual) < tolerance);
    for (std::size_t c = 0; c < n; ++c) CHECK(dw2[c] == dw[c]);
  }
}

TEST_CASE("gelu: the tanh form, its gradient, and the slope in place") {
  auto x = random<double>(shape(3, 19), "x", 0.0, 2.0), dy = random<double>(x.view.shape, "dy");
  Owned<double> y{x.view.shape}, slope{x.view.shape}, again{x.view.shape};
  const auto objective = [&] {
    nn::gelu_forward(context(), x, y.view);
    return dot(y, dy);
  };
  objective();
  for (std::size_t i = 0; i < x.count(); ++i) {
    const double u = std::sqrt(2 / std::acos(-1.0)) * (x[i] + 0.044715 * x[i] * x[i] * x[i]);
    CHECK(y[i] == doctest::Approx(0.5 * x[i] * (1 + std::tanh(u))).epsilon(1e-12));
    slope[i] = x[i];
  }
  nn::gelu_rebuild(context(), slope.view, again.view);
  for (std::size_t i = 0; i < x.count(); ++i) CHECK(again[i] == doctest::Approx(y[i]));
  nn::multiply_in_place(context(), dy, slope.view);
  CHECK(gradient_error(x, slope, objective) < tolerance);
}

TEST_CASE("embedding: gradients of both tables, repeated tokens included") {
  const std::vector<std::int32_t> tokens{3, 0, 3, 3, 1, 4};
  auto wte = random<double>(shape(5, 4), "wte"), wpe = random<double>(shape(3, 4), "wpe");
  auto dy = random<double>(shape(2, 3, 4), "dy");
  Owned<double> y{dy.view.shape}, dwte{wte.view.shape}, dwpe{wpe.view.shape};
  const auto objective = [&] {
    nn::embedding_forward(context(), tokens.data(), wte, wpe, y.view);
    return dot(y, dy);
  };
  nn::embedding_backward(context(), tokens.data(), dy.view, dwte.view, dwpe.view);
  CHECK(gradient_error(wte, dwte, objective) < tolerance);
  CHECK(gradient_error(wpe, dwpe, objective) < tolerance);

  const std::vector<std::int32_t> wrong{0, 1, 5, 0, 0, 0};
  CHECK_THROWS_WITH_AS(nn::embedding_forward(context(), wrong.data(), wte, wpe, y.view),
                       doctest::Contains("token 5 is outside the vocabulary of 5"), sx::Error);
}

TEST_CASE("classifier and cross-entropy: gradients of x and the table, scaled by dloss") {
  const std::vector<std::int32_t> targets{6, 0, 2, 2};
  auto x = random<double>(shape(2, 2, 5), "x"), table = random<double>(shape(7, 5), "table");
  Owned<double> logits{shape(2, 2, 7)}, loss{sx::Shape{}}, dloss{sx::Shape{}};
  dloss[0] = 2.5;
  const auto objective = [&] {
    nn::classifier_forward(context(), x, table, logits.view);
    nn::cross_entropy_forward(context(), logits.view, 7, targets.data(), loss);
    return dloss[0] * loss[0];
  };
  objective();
  Owned<double> dx{x.view.shape}, dtable{table.view.shape};
  nn::classifier_backward(context(), logits, dloss, x, table, dtable.view, dx.view);
  CHECK(gradient_error(x, dx, objective) < tolerance);
  CHECK(gradient_error(table, dtable, objective) < tolerance);
}

TEST_CASE("cross-entropy of uniform logits is log V; large logits do not overflow") {
  for (std::size_t v : {1u, 2u, 61u, 256u}) {
    Owned<float> logits{shape(3, v)}, loss{sx::Shape{}};
    for (float& l : logits.view.span()) l = 1000;
    const std::vector<std::int32_t> targets{0, static_cast<std::int32_t>(v) - 1, 0};
    nn::cross_entropy_forward(context(), logits.view, v, targets.data(), loss);
    CHECK(loss[0] == doctest::Approx(std::log(static_cast<double>(v))).epsilon(1e-6));
  }
}

}  // namespace
