// SPDX-License-Identifier: Apache-2.0
// Layers in bf16 and fp16 beside the same layers in double on the same inputs; rounding.hpp says
// how far they may be apart.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "rounding.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
namespace nn = shardexpr::nn;
using harness::context;
using harness::Owned;
using harness::random;
using harness::sizes;
using harness::sum_loss;
using harness::widened;
using harness::Worst;
using sx::shape;

/// A dtype to compute in and one for gradients of parameters.
template <class T_, class G_>
struct Dtypes {
  using T = T_;
  using G = G_;
};

/// Largest error of `got` beside `exact`, every element of which is a sum of terms of that size.
template <class T>
double worst_of(const Owned<T>& got, const Owned<double>& exact, const Owned<double>& size,
                std::size_t roundings) {
  Worst worst;
  for (std::size_t i = 0; i < got.count(); ++i)
    worst.see(got[i], exact[i], sum_loss(size[i], roundings));
  return worst.ratio();
}

TEST_CASE_TEMPLATE("linear in 16 bits", D, Dtypes<sx::bf16, float>, Dtypes<sx::bf16, sx::bf16>,
                   Dtypes<sx::fp16, float>, Dtypes<sx::fp16, sx::fp16>) {
  using T = typename D::T;
  using G = typename D::G;
  for (const std::size_t rows : {5u, 300u}) {
    CAPTURE(rows);
    constexpr std::size_t in = 37, out = 70;
    const auto x = random<T>(shape(1, rows, in), "x"), w = random<T>(shape(in, out), "w");
    const auto b = random<T>(shape(out), "b"), around = random<T>(shape(1, rows, out), "around");
    const auto dy = random<T>(shape(1, rows, out), "dy", 0.5f);
    const auto x2 = widened(x), w2 = widened(w), b2 = widened(b), around2 = widened(around),
               dy2 = widened(dy), xs = sizes(x), ws = sizes(w), bs = sizes(b),
               arounds = sizes(around), dys = sizes(dy);

    Owned<T> y{around.view.shape};
    Owned<double> exact{y.view.shape}, size{y.view.shape};
    nn::linear_forward(context(), x, w, b, y.view);
    nn::linear_forward(context(), x2, w2, b2, exact.view);
    nn::linear_forward(context(), xs, ws, bs, size.view);
    CHECK(worst_of(y, exact, size, 2 * in + 1) <= 1);

    nn::linear_residual_forward(context(), around2, x2, w2, b2, exact.view);
    nn::linear_residual_forward(context(), arounds, xs, ws, bs, size.view);
    nn::linear_residual_forward(context(), around, x, w, b, y.view);
    CHECK(worst_of(y, exact, size, 2 * in + 2) <= 1);
    std::copy_n(around.view.data, y.count(), y.view.data);
    nn::linear_residual_forward(context(), y, x, w, b, y.view);  // in place
    CHECK(worst_of(y, exact, size, 2 * in + 2) <= 1);

    Owned<T> dx{x.view.shape};
    Owned<double> exact_dx{x.view.shape}, size_dx{x.view.shape};
    nn::linear_backward_input(context(), dy, w, dx.view);
    nn::linear_backward_input(context(), dy2, w2, exact_dx.view);
    nn::linear_backward_input(context(), dys, ws, size_dx.view);
    CHECK(worst_of(dx, exact_dx, size_dx, 2 * out) <= 1);

    // Added to what is there.
    auto dw = random<G>(w.view.shape, "dw"), db = random<G>(b.view.shape, "db");
    auto exact_dw = widened(dw), exact_db = widened(db), size_dw = sizes(dw), size_db = sizes(db);
    nn::linear_backward_params(context(), x, dy.view, dw.view, db.view);
    nn::linear_backward_params(context(), x2, dy2.view, exact_dw.view, exact_db.view);
    nn::linear_backward_params(context(), xs, dys.view, size_dw.view, size_db.view);
    CHECK(worst_of(dw, exact_dw, size_dw, 2 * rows + 1) <= 1);
    CHECK(worst_of(db, exact_db, size_db, rows + 1) <= 1);
  }
}

// A row's statistics and what is computed from them take two dozen roundings and those of sums in
// 16 lanes, n / 16 + 4.
constexpr std::size_t norm_roundings(std::size_t n) { return 24 + 2 * (n / 16 + 4); }

TEST_CASE_TEMPLATE("layer norm in 16 bits", D, Dtypes<sx::bf16, float>, Dtypes<sx::bf16, sx::bf16>,
                   Dtypes<sx::fp16, float>, Dtypes<sx::fp16, sx::fp16>) {
  using T = typename D::T;
  using G = typename D::G;
  for (const std::size_t n : {3u, 64u, 150u})
    for (const std::size_t rows : {2u, 300u}) {
      CAPTURE(n);
      CAPTURE(rows);
      const auto x = random<T>(shape(1, rows, n), "x", 2.0f, 1.5f);
      const auto w = random<T>(shape(n), "w", 1.0f, 0.4f), b = random<T>(shape(n), "b");
      const auto dy = random<T>(x.view.shape, "dy", 0.5f),
                 around = random<T>(x.view.shape, "around");
      const auto x2 = widened(x), w2 = widened(w), b2 = widened(b), dy2 = widened(dy),
                 around2 = widened(around);
      Owned<T> y{x.view.shape}, again{x.view.shape}, dx{x.view.shape},
          in_place = random<T>(x.view.shape, "around");
      Owned<float> mean{shape(1, rows)}, rstd{shape(1, rows)};
      Owned<double> y2{x.view.shape}, mean2{shape(1, rows)}, rstd2{shape(1, rows)},
          dx2{x.view.shape}, dx_around2{x.view.shape};
      nn::layer_norm_forward(context(), x, w, b, mean, rstd, y.view);
      nn::layer_norm_forward(context(), x2, w2, b2, mean2, rstd2, y2.view);
      nn::layer_norm_recompute(context(), x, w, b, mean, rstd, again.view);
      for (std::size_t i = 0; i < y.count(); ++i) CHECK(again[i].bits == y[i].bits);

      auto dw = random<G>(w.view.shape, "dw"), db = random<G>(b.view.shape, "db");
      auto dw2 = widened(dw), db2 = widened(db), dw_size = sizes(dw), db_size = sizes(db);
      Owned<G> unused_w{w.view.shape}, unused_b{w.view.shape};
      Owned<double> unused_w2{w.view.shape}, unused_b2{w.view.shape};
      nn::layer_norm_backward(context(), x, w, mean, rstd, dy, dw.view, db.view, dx.view);
      nn::layer_norm_backward(context(), x2, w2, mean2, rstd2, dy2, dw2.view, db2.view, dx2.view);
      nn::layer_norm_residual_backward(context(), x, w, mean, rstd, dy, in_place, unused_w.view,
                                       unused_b.view, in_place.view);
      nn::layer_norm_residual_backward(context(), x2, w2, mean2, rstd2, dy2, around2,
                                       unused_w2.view, unused_b2.view, dx_around2.view);

      Worst worst_y, worst_dx, worst_around, worst_dw, worst_db;
      const std::size_t roundings = norm_roundings(n);
      for (std::size_t r = 0; r < rows; ++r) {
        double g_mean = 0, gx_mean = 0;
        // What is computed of a row cannot be more exact than xhat, whose terms are these.
        const auto xhat_size = [&](std::size_t c) {
          return rstd2[r] * (std::abs(x2[r * n + c]) + std::abs(mean2[r]));
        };
        for (std::size_t c = 0; c < n; ++c) {
          const double g = std::abs(dy2[r * n + c] * w2[c]);
          g_mean += g / static_cast<double>(n);
          gx_mean += g * xhat_size(c) / static_cast<double>(n);
        }
        for (std::size_t c = 0; c < n; ++c) {
          const std::size_t i = r * n + c;
          const double xhat = xhat_size(c), d = std::abs(dy2[i]);
          worst_y.see(y[i], y2[i], sum_loss(xhat * std::abs(w2[c]) + std::abs(b2[c]), roundings));
          const double size = rstd2[r] * (d * std::abs(w2[c]) + g_mean + xhat * gx_mean);
          worst_dx.see(dx[i], dx2[i], sum_loss(size, 2 * roundings));
          worst_around.see(in_place[i], dx_around2[i],
                           sum_loss(size + std::abs(around2[i]), 2 * roundings));
          dw_size[c] += d * xhat;
          db_size[c] += d;
        }
      }
      for (std::size_t c = 0; c < n; ++c) {
        worst_dw.see(dw[c], dw2[c], sum_loss(dw_size[c], rows + roundings));
        worst_db.see(db[c], db2[c], sum_loss(db_size[c], rows + 1));
      }
      CHECK(worst_y.ratio() <= 1);
      CHECK(worst_dx.ratio() <= 1);
      CHECK(worst_around.ratio() <= 1);
      CHECK(worst_dw.ratio() <= 1);
      CHECK(worst_db.ratio() <= 1);
    }
}

TEST_CASE_TEMPLATE("gelu in 16 bits", T, sx::bf16, sx::fp16) {
  const auto x = random<T>(shape(40, 25), "x", 0.0f, 2.0f), dy = random<T>(x.view.shape, "dy");
  const auto x2 = widened(x);
  Owned<T> y{x.view.shape}, slope = random<T>(x.view.shape, "x", 0.0f, 2.0f), again{x.view.shape};
  Owned<double> y2{x.view.shape}, slope2 = widened(x), again2{x.view.shape};
  nn::gelu_forward(context(), x, y.view);
  nn::gelu_forward(context(), x2, y2.view);
  nn::gelu_rebuild(context(), slope.view, again.view);
  nn::gelu_rebuild(context(), slope2.view, again2.view);
  Worst worst_y, worst_slope, worst_product;
  for (std::size_t i = 0; i < x.count(); ++i) {
    CHECK(again[i].bits == y[i].bits);
    // The logistic's argument is off by 8 roundings of itself, and so is the exponential's result.
    const double argument = 1.6 * (std::abs(x2[i]) + 0.045 * std::pow(std::abs(x2[i]), 3));
    const double relative = sum_loss(1 + argument, 8);
    worst_y.see(y[i], y2[i], relative * std::abs(y2[i]));
    worst_slope.see(slope[i], slope2[i], relative * (1 + std::abs(x2[i]) + argument));
  }
  const auto before = widened(slope), by = widened(dy);
  nn::multiply_in_place(context(), dy, slope.view);
  for (std::size_t i = 0; i < x.count(); ++i)
    worst_product.see(slope[i], before[i] * by[i], 0);  // the product of two of 16 bits is exact
  CHECK(worst_y.ratio() <= 1);
  CHECK(worst_slope.ratio() <= 1);
  CHECK(worst_product.ratio() <= 1);
}

TEST_CASE_TEMPLATE("embedding in 16 bits", D, Dtypes<sx::bf16, float>, Dtypes<sx::bf16, sx::bf16>,
                   Dtypes<sx::fp16, float>, Dtypes<sx::fp16, sx::fp16>) {
  using T = typename D::T;
  using G = typename D::G;
  constexpr std::size_t batch = 60, length = 7, vocabulary = 5, count = batch * length;
  for (const std::size_t width : {3u, 1030u}) {
    CAPTURE(width);
    std::vector<std::int32_t> tokens;  // 1 in two of them, 4 never, 3 once
    for (std::size_t i = 0; i < count; ++i)
      tokens.push_back(i % 2 == 0 ? 1 : static_cast<std::int32_t>(sx::mix(i) % 3));
    tokens[5] = 3;
    const auto wte = random<T>(shape(vocabulary, width), "wte");
    const auto wpe = random<T>(shape(length, width), "wpe");
    const auto dy = random<T>(shape(batch, length, width), "dy", 0.5f);
    const auto wte2 = widened(wte), wpe2 = widened(wpe), dy2 = widened(dy), dys = sizes(dy);
    Owned<T> y{dy.view.shape};
    Owned<double> y2{dy.view.shape};
    nn::embedding_forward(context(), tokens.data(), wte, wpe, y.view);
    nn::embedding_forward(context(), tokens.data(), wte2, wpe2, y2.view);
    CHECK(worst_of(y, y2, sizes(y), 1) <= 1);

    auto dwte = random<G>(wte.view.shape, "dwte"), dwpe = random<G>(wpe.view.shape, "dwpe");
    auto dwte2 = widened(dwte), dwpe2 = widened(dwpe), dwtes = sizes(dwte), dwpes = sizes(dwpe);
    nn::embedding_backward(context(), tokens.data(), dy.view, dwte.view, dwpe.view);
    nn::embedding_backward(context(), tokens.data(), dy2.view, dwte2.view, dwpe2.view);
    nn::embedding_backward(context(), tokens.data(), dys.view, dwtes.view, dwpes.view);
    CHECK(worst_of(dwte, dwte2, dwtes, count) <= 1);
    CHECK(worst_of(dwpe, dwpe2, dwpes, batch) <= 1);

    tokens[8] = 5;
    CHECK_THROWS_WITH_AS(
        nn::embedding_backward(context(), tokens.data(), dy.view, dwte.view, dwpe.view),
        doctest::Contains("token 5 is outside the vocabulary of 5"), sx::Error);
  }
}

TEST_CASE_TEMPLATE("classifier in 16 bits", D, Dtypes<sx::bf16, float>, Dtypes<sx::bf16, sx::bf16>,
                   Dtypes<sx::fp16, float>, Dtypes<sx::fp16, sx::fp16>) {
  using T = typename D::T;
  using G = typename D::G;
  constexpr std::size_t rows = 90, width = 37, vocabulary = 61;
  const auto x = random<T>(shape(1, rows, width), "x"),
             table = random<T>(shape(vocabulary, width), "t");
  const auto error = random<T>(shape(1, rows, vocabulary), "error", 0.2f, 0.5f);
  const auto x2 = widened(x), table2 = widened(table), error2 = widened(error), xs = sizes(x),
             tables = sizes(table), errors = sizes(error);
  Owned<T> logits{error.view.shape};
  Owned<double> logits2{error.view.shape}, logits_size{error.view.shape};
  nn::classifier_forward(context(), x, table, logits.view);
  nn::classifier_forward(context(), x2, table2, logits2.view);
  nn::classifier_forward(context(), xs, tables, logits_size.view);
  CHECK(worst_of(logits, logits2, logits_size, 2 * width) <= 1);

  Owned<float> dloss{sx::Shape{}};
  Owned<double> dloss2{sx::Shape{}};
  dloss2[0] = dloss[0] = 1024.5f;  // as a loss scale would have it
  auto dtable = random<G>(table.view.shape, "dtable");
  auto dtable2 = widened(dtable), dtables = sizes(dtable);
  Owned<T> dx{x.view.shape};
  Owned<double> dx2{x.view.shape}, dxs{x.view.shape};
  nn::classifier_backward(context(), error, dloss, x, table, dtable.view, dx.view);
  nn::classifier_backward(context(), error2, dloss2, x2, table2, dtable2.view, dx2.view);
  nn::classifier_backward(context(), errors, dloss2, xs, tables, dtables.view, dxs.view);
  CHECK(worst_of(dx, dx2, dxs, 2 * vocabulary + 2) <= 1);
  CHECK(worst_of(dtable, dtable2, dtables, 2 * rows + 3) <= 1);

  auto in_place = random<T>(x.view.shape, "x");
  nn::classifier_backward(context(), error, dloss, in_place, table, dtable.view, in_place.view);
  for (std::size_t i = 0; i < dx.count(); ++i) CHECK(in_place[i].bits == dx[i].bits);
}

TEST_CASE_TEMPLATE("cross-entropy in 16 bits", T, sx::bf16, sx::fp16) {
  for (const std::size_t width : {1u, 17u, 300u}) {
    CAPTURE(width);
    constexpr std::size_t rows = 20;
    auto error = random<T>(shape(1, rows, width), "logits", 1.0f, 3.0f);
    std::vector<std::int32_t> targets;
    for (std::size_t r = 0; r < rows; ++r)
      targets.push_back(static_cast<std::int32_t>(sx::mix(r) % width));
    // A target that is all but certain: softmax rounds to 1, and yet its error is not nothing.
    error[static_cast<std::size_t>(targets[0])] = static_cast<T>(18.0f);
    auto error2 = widened(error);
    Owned<float> loss{sx::Shape{}};
    Owned<double> loss2{sx::Shape{}};
    nn::cross_entropy_forward(context(), error.view, width, targets.data(), loss);
    nn::cross_entropy_forward(context(), error2.view, width, targets.data(), loss2);
    // Logits differ by up to 32, of which the exponential's argument loses one rounding; the
    // exponential two; the sum and its inverse the rest.
    const std::size_t roundings = 32 + 2 + width / 16 + 6;
    Worst worst;
    for (std::size_t i = 0; i < error.count(); ++i) {
      const bool is_target = i % width == static_cast<std::size_t>(targets[i / width]);
      const double softmax = is_target ? 1 : error2[i];
      worst.see(error[i], error2[i], sum_loss(softmax, roundings));
    }
    CHECK(worst.ratio() <= 1);
    CHECK(std::abs(static_cast<double>(loss[0]) - loss2[0]) <= sum_loss(loss2[0] + 32, roundings));
    if (width > 1) CHECK(static_cast<float>(error[static_cast<std::size_t>(targets[0])]) != 0);
  }
}

}  // namespace
