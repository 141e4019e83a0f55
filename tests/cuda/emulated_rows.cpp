// SPDX-License-Identifier: Apache-2.0
// The layers that work on rows, as a GPU has them, over an emulated runtime, beside the CPU's in
// double on the same inputs; rounding.hpp says how far they may be apart.
#include <shardexpr/device/checked.hpp>
#include <shardexpr/device/cuda.cuh>
#include <shardexpr/nn/cuda/cross_entropy.cuh>
#include <shardexpr/nn/cuda/embedding.cuh>
#include <shardexpr/nn/cuda/layer_norm.cuh>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "../nn/rounding.hpp"
#include "../support/sanitized.hpp"
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
using sx::Tensor;

/// A dtype to compute in and one for gradients of parameters.
template <class T_, class G_>
struct Dtypes {
  using T = T_;
  using G = G_;
};

/// A GPU, memory of it, and a stream.
template <class D>
struct Gpu {
  D device;
  typename D::Stream stream{device, "layers"};

  template <class T>
  struct Array {
    typename D::template Buffer<T> memory;
    Tensor<T> view;
    operator Tensor<T>() const { return view; }
    operator Tensor<const T>() const { return view; }
  };
  /// `offset` elements behind a multiple of 16 bytes. Not zeros: nothing may rely on them.
  template <class T>
  Array<T> make(sx::Shape shape, std::size_t offset = 0) {
    Array<T> array{device.template allocate<T>(shape.count() + offset, sx::Purpose::other), {}};
    array.view = {array.memory.data() + offset, shape};
    const std::vector<unsigned char> bytes(array.view.size_bytes(), 0x7f);
    std::vector<T> garbage(shape.count());
    std::memcpy(static_cast<void*>(garbage.data()), bytes.data(), bytes.size());
    fill(array, garbage);
    return array;
  }
  template <class T>
  void fill(Array<T>& array, const std::vector<T>& with) {
    device.copy(stream, std::span<const T>{with}, array.view.span());
    device.synchronize(stream);
  }
  template <class T>
  Array<T> up(const Owned<T>& from, std::size_t offset = 0) {
    Array<T> array = make<T>(from.view.shape, offset);
    fill(array, std::vector<T>(from.view.data, from.view.data + from.count()));
    return array;
  }
  template <class T>
  Owned<T> down(const Array<T>& from) {
    Owned<T> to{from.view.shape};
    device.copy(stream, std::span<const T>{from.view.data, from.view.count()}, to.view.span());
    device.synchronize(stream);
    return to;
  }
  template <class T>
  T* up(const std::vector<T>& from, Array<T>& to) {
    to = make<T>(shape(from.size()));
    fill(to, from);
    return to.view.data;
  }
  nn::LayerContext<D> on(Tensor<float> sums = {}) { return {{device, stream}, {sums, {}}}; }
};
using Plain = Gpu<sx::Cuda>;

template <class T>
bool same_bits(const Owned<T>& a, const Owned<T>& b) {
  return a.count() == b.count() && std::memcmp(a.view.data, b.view.data, a.view.size_bytes()) == 0;
}

// Sums ------------------------------------------------------------------------------------------

template <unsigned Threads>
void reduce_numbers(double* to) {  // (threads, 2)
  static thread_local double sums[Threads / 32];
  const double mine = threadIdx.x;
  to[2 * threadIdx.x] =
      nn::detail::reduce_block<Threads>(mine * mine, nn::detail::Add{}, 0.0, sums);
  to[2 * threadIdx.x + 1] = nn::detail::reduce_warp(mine, nn::detail::Add{});
}

TEST_CASE("every thread gets the sum of its warp and of its block") {
  Plain gpu;
  const auto check = [&](unsigned threads, auto kernel) {
    auto to = gpu.make<double>(shape(threads, 2));
    nn::detail::launch(gpu.on(), sx::reads(), sx::writes(to.view), "reduce", {.threads = threads},
                       kernel, to.view.data);
    const auto got = gpu.down(to);
    double all = 0;
    for (unsigned t = 0; t < threads; ++t) all += double(t) * t;
    for (unsigned t = 0; t < threads; ++t) {
      CHECK(got[2 * t] == all);
      CHECK(got[2 * t + 1] == 32 * (t / 32 * 32) + 31 * 16);
    }
  };
  check(32, reduce_numbers<32>);
  check(64, reduce_numbers<64>);
  check(1024, reduce_numbers<1024>);
}

// Layer norm --------------------------------------------------------------------------------------

template <class T, class G>
struct NormInputs {
  Owned<T> x, w, b, dy, around;
  Owned<G> dw, db;

  NormInputs(std::size_t rows, std::size_t n)
      : x{random<T>(shape(1, rows, n), "x", 2.0f, 1.5f)},
        w{random<T>(shape(n), "w", 1.0f, 0.4f)},
        b{random<T>(shape(n), "b")},
        dy{random<T>(shape(1, rows, n), "dy", 0.5f)},
        around{random<T>(shape(1, rows, n), "around")},
        dw{random<G>(shape(n), "dw")},
        db{random<G>(shape(n), "db")} {}
};

template <class T, class G>
struct NormOutputs {
  Owned<T> y, again, dx, dx_around;
  Owned<float> mean, rstd;
  Owned<G> dw, db, dw_around, db_around;

  bool operator==(const NormOutputs& o) const {
    return same_bits(y, o.y) && same_bits(again, o.again) && same_bits(dx, o.dx) &&
           same_bits(dx_around, o.dx_around) && same_bits(mean, o.mean) &&
           same_bits(rstd, o.rstd) && same_bits(dw, o.dw) && same_bits(db, o.db) &&
           same_bits(dw_around, o.dw_around) && same_bits(db_around, o.db_around);
  }
};

/// All four layers, rows `offset` elements behind a multiple of 16 bytes.
template <class T, class G>
NormOutputs<T, G> norm_on_gpu(const NormInputs<T, G>& in, std::size_t offset) {
  Plain gpu;
  const sx::Shape rows = in.x.view.shape;
  const std::size_t n = rows[2];
  auto x = gpu.up(in.x, offset), w = gpu.up(in.w, offset), b = gpu.up(in.b, offset),
       dy = gpu.up(in.dy, offset), dx_around = gpu.up(in.around, offset);
  auto dw = gpu.up(in.dw), db = gpu.up(in.db), dw_around = gpu.up(in.dw), db_around = gpu.up(in.db);
  auto y = gpu.template make<T>(rows, offset), again = gpu.template make<T>(rows, offset),
       dx = gpu.template make<T>(rows, offset);
  auto mean = gpu.template make<float>(shape(1, rows[1])),
       rstd = gpu.template make<float>(shape(1, rows[1])),
       sums = gpu.template make<float>(shape(nn::column_sum_parts, 2 * n));
  const auto on = gpu.on(sums);
  nn::layer_norm_forward(on, x, w, b, mean, rstd, y.view);
  nn::layer_norm_recompute(on, x, w, b, mean, rstd, again.view);
  nn::layer_norm_backward(on, x, w, mean, rstd, dy, dw.view, db.view, dx.view);
  nn::layer_norm_residual_backward(on, x, w, mean, rstd, dy, dx_around, dw_around.view,
                                   db_around.view, dx_around.view);
  return {gpu.down(y),    gpu.down(again), gpu.down(dx), gpu.down(dx_around), gpu.down(mean),
          gpu.down(rstd), gpu.down(dw),    gpu.down(db), gpu.down(dw_around), gpu.down(db_around)};
}

// A row's statistics and what is computed from them take two dozen roundings and those of sums: of
// what one thread adds up, and of 5 steps in a warp, twice in a block.
template <class T>
std::size_t norm_roundings(std::size_t n) {
  const std::size_t pack = 16 / sizeof(T), packs = (n + pack - 1) / pack;
  const std::size_t threads = packs <= 256 ? 32 : 256;
  return 24 + 2 * ((packs + threads - 1) / threads * pack + 10);
}

template <class T, class G>
void check_norm(std::size_t rows, std::size_t n) {
  CAPTURE(rows);
  CAPTURE(n);
  const NormInputs<T, G> in{rows, n};
  const NormOutputs<T, G> got = norm_on_gpu(in, 0);
  CHECK(same_bits(got.y, got.again));
  CHECK(same_bits(got.dw, got.dw_around));
  CHECK(same_bits(got.db, got.db_around));
  CHECK(got == norm_on_gpu(in, 1));  // again, and by other accesses: the same bits
  if (rows == 1) CHECK(got == norm_on_gpu(in, 0));

  const auto x = widened(in.x), w = widened(in.w), b = widened(in.b), dy = widened(in.dy),
             around = widened(in.around);
  auto dw = widened(in.dw), db = widened(in.db), dw_size = sizes(in.dw), db_size = sizes(in.db);
  Owned<double> y{x.view.shape}, dx{x.view.shape}, dx_around{x.view.shape}, mean{shape(1, rows)},
      rstd{shape(1, rows)}, unused_w{w.view.shape}, unused_b{w.view.shape};
  nn::layer_norm_forward(context(), x, w, b, mean, rstd, y.view);
  nn::layer_norm_backward(context(), x, w, mean, rstd, dy, dw.view, db.view, dx.view);
  nn::layer_norm_residual_backward(context(), x, w, mean, rstd, dy, around, unused_w.view,
                                   unused_b.view, dx_around.view);
  Worst worst_y, worst_dx, worst_around, worst_dw, worst_db;
  const std::size_t roundings = norm_roundings<T>(n);
  for (std::size_t r = 0; r < rows; ++r) {
    double g_mean = 0, gx_mean = 0;
    // What is computed of a row cannot be more exact than xhat, whose terms are these.
    const auto xhat_size = [&](std::size_t c) {
      return rstd[r] * (std::abs(x[r * n + c]) + std::abs(mean[r]));
    };
    for (std::size_t c = 0; c < n; ++c) {
      const double g = std::abs(dy[r * n + c] * w[c]);
      g_mean += g / static_cast<double>(n);
      gx_mean += g * xhat_size(c) / static_cast<double>(n);
    }
    for (std::size_t c = 0; c < n; ++c) {
      const std::size_t i = r * n + c;
      const double xhat = xhat_size(c), d = std::abs(dy[i]);
      worst_y.see(got.y[i], y[i], sum_loss(xhat * std::abs(w[c]) + std::abs(b[c]), roundings));
      const double size = rstd[r] * (d * std::abs(w[c]) + g_mean + xhat * gx_mean);
      worst_dx.see(got.dx[i], dx[i], sum_loss(size, 2 * roundings));
      worst_around.see(got.dx_around[i], dx_around[i],
                       sum_loss(size + std::abs(around[i]), 2 * roundings));
      dw_size[c] += d * xhat;
      db_size[c] += d;
    }
  }
  for (std::size_t c = 0; c < n; ++c) {
    worst_dw.see(got.dw[c], dw[c], sum_loss(dw_size[c], rows + roundings));
    worst_db.see(got.db[c], db[c], sum_loss(db_size[c], rows + 1));
  }
  CHECK(worst_y.ratio() <= 1);
  CHECK(worst_dx.ratio() <= 1);
  CHECK(worst_around.ratio() <= 1);
  CHECK(worst_dw.ratio() <= 1);
  CHECK(worst_db.ratio() <= 1);
}

// Sanitizers switch between a kernel's threads by calls of the system.
constexpr std::size_t many = SANITIZED ? 30 : 300;

TEST_CASE_TEMPLATE("layer norm", D, Dtypes<float, float>, Dtypes<sx::bf16, float>,
                   Dtypes<sx::bf16, sx::bf16>, Dtypes<sx::fp16, float>,
                   Dtypes<sx::fp16, sx::fp16>) {
  using T = typename D::T;
  using G = typename D::G;
  for (const std::size_t n : {1u, 5u, 64u}) {
    check_norm<T, G>(1, n);
    check_norm<T, G>(7, n);
    if (std::is_same_v<T, G> && (n == 64 || sizeof(T) == 4)) check_norm<T, G>(many, n);
  }
  check_norm<T, G>(7, 768);
  check_norm<T, G>(2, 1029);
}

TEST_CASE("layer norm of many rows, and of wide ones") {
  if (!SANITIZED) {
    check_norm<sx::bf16, float>(130, 768);
    check_norm<float, float>(1700, 4);    // a warp has several rows of a part
    check_norm<float, float>(1030, 516);  // the same where columns are summed apart
  }
  check_norm<sx::bf16, float>(9, 1600);
  check_norm<float, float>(9, 1600);  // a block a row, held in registers
  check_norm<sx::bf16, sx::bf16>(3, 2056);
  check_norm<sx::bf16, float>(3, 8200);  // too wide for that
  check_norm<float, float>(3, 4101);
}

TEST_CASE("layer norm: gradients that are not wanted are left out") {
  for (const std::size_t n : {24u, 1600u})
    for (const int wanted : {0, 1, 2}) {
      CAPTURE(n);
      CAPTURE(wanted);
      const NormInputs<float, float> in{5, n};
      const auto all = norm_on_gpu(in, 0);
      Plain gpu;
      auto x = gpu.up(in.x), w = gpu.up(in.w), dy = gpu.up(in.dy), dw = gpu.up(in.dw),
           db = gpu.up(in.db), mean = gpu.up(all.mean), rstd = gpu.up(all.rstd),
           dx = gpu.make<float>(in.x.view.shape),
           sums = gpu.make<float>(shape(wanted == 0 ? 1 : nn::column_sum_parts * 2 * n));
      const Tensor<float> none{nullptr, shape(n)};
      nn::layer_norm_backward(gpu.on(sums), x, w, mean, rstd, dy, wanted == 1 ? dw.view : none,
                              wanted == 2 ? db.view : none, dx.view);
      CHECK(same_bits(gpu.down(dx), all.dx));
      CHECK(same_bits(gpu.down(dw), wanted == 1 ? all.dw : in.dw));
      CHECK(same_bits(gpu.down(db), wanted == 2 ? all.db : in.db));
    }
}

// Tokens and the embedding ------------------------------------------------------------------------

TEST_CASE("tokens are checked as they are enqueued, and copied") {
  Plain gpu;
  for (const std::size_t count : {1u, 40000u}) {  // more than CUDA takes at a time
    std::vector<std::int32_t> tokens(count);
    for (std::size_t i = 0; i < count; ++i) tokens[i] = static_cast<std::int32_t>(i % 50257);
    auto copied = gpu.make<std::int32_t>(shape(1, count));
    const auto* there = nn::bring_tokens(gpu.on(), tokens.data(), 50257, copied.view);
    CHECK(there == copied.view.data);
    CHECK(nn::brought_tokens(gpu.on(), tokens.data(), copied.view) == copied.view.data);
    const auto got = gpu.down(copied);
    CHECK(std::equal(tokens.begin(), tokens.end(), got.view.data));

    for (const std::int32_t wrong : {-1, 50257}) {
      tokens.back() = wrong;
      CHECK_THROWS_WITH_AS(
          nn::bring_tokens(gpu.on(), tokens.data(), 50257, copied.view),
          ("token " + std::to_string(wrong) +
           " is outside the vocabulary of 50257: tokenize with the vocabulary of the config")
              .c_str(),
          sx::Error);
    }
    CHECK(same_bits(gpu.down(copied), got));
  }
}

template <class D>
struct EmbeddingMemory {
  typename Gpu<D>::template Array<std::int32_t> order;
  typename Gpu<D>::template Array<float> sums;

  EmbeddingMemory(Gpu<D>& gpu, std::size_t tokens, std::size_t width) {
    const auto specs = nn::embedding_scratch<D>(tokens, width);
    order = gpu.template make<std::int32_t>(specs.order.shape);
    sums = gpu.template make<float>(specs.sums.shape);
  }
  nn::EmbeddingScratch<Tensor> view() const { return {order.view, sums.view}; }
};

TEST_CASE("places are ordered by their tokens, those of one token as in the batch") {
  struct Case {
    std::size_t count, vocabulary;
  };
  for (const Case c : {Case{1, 1},
                       {255, 3},
                       {256, 256},
                       {257, 257},
                       {1000, 70000},
                       {300, 1u << 25},
                       {SANITIZED ? 9000 : 66000, 300}}) {
    CAPTURE(c.count);
    CAPTURE(c.vocabulary);
    std::vector<std::int32_t> tokens, wanted(c.count);
    for (std::size_t i = 0; i < c.count; ++i)
      tokens.push_back(i % 3 == 0 ? static_cast<std::int32_t>(c.vocabulary) - 1
                                  : static_cast<std::int32_t>(sx::mix(i) % c.vocabulary));
    std::iota(wanted.begin(), wanted.end(), 0);
    std::stable_sort(wanted.begin(), wanted.end(), [&](std::int32_t a, std::int32_t b) {
      return tokens[static_cast<std::size_t>(a)] < tokens[static_cast<std::size_t>(b)];
    });
    Plain gpu;
    Plain::Array<std::int32_t> there;
    const auto* on_gpu = gpu.up(tokens, there);
    const EmbeddingMemory memory{gpu, c.count, 1};
    const auto order =
        nn::detail::order_by_token(gpu.on(), on_gpu, c.count, c.vocabulary, memory.view());
    REQUIRE(order.count() == c.count);
    std::vector<std::int32_t> got(c.count);
    gpu.device.copy(gpu.stream, std::span<const std::int32_t>{order.data, c.count}, std::span{got});
    gpu.device.synchronize(gpu.stream);
    CHECK(got == wanted);
  }
}

template <class T, class G>
struct EmbeddingOutputs {
  Owned<T> y;
  Owned<G> dwte, dwpe;
  bool operator==(const EmbeddingOutputs& o) const {
    return same_bits(y, o.y) && same_bits(dwte, o.dwte) && same_bits(dwpe, o.dwpe);
  }
};

template <class T, class G>
void check_embedding(std::size_t batch, std::size_t length, std::size_t vocabulary,
                     std::size_t width, const std::vector<std::int32_t>& tokens) {
  CAPTURE(vocabulary);
  CAPTURE(width);
  const std::size_t count = batch * length;
  REQUIRE(tokens.size() == count);
  const auto wte = random<T>(shape(vocabulary, width), "wte");
  const auto wpe = random<T>(shape(length + 1, width), "wpe");  // longer than is used
  const auto dy = random<T>(shape(batch, length, width), "dy", 0.5f);
  const auto dwte = random<G>(wte.view.shape, "dwte"), dwpe = random<G>(wpe.view.shape, "dwpe");

  const auto on_gpu = [&](std::size_t offset, bool with_wte, bool with_wpe) {
    Plain gpu;
    auto copied = gpu.make<std::int32_t>(shape(batch, length));
    auto wte2 = gpu.up(wte, offset), wpe2 = gpu.up(wpe, offset), dy2 = gpu.up(dy, offset);
    auto y = gpu.template make<T>(dy.view.shape, offset);
    auto dwte2 = gpu.up(dwte, offset), dwpe2 = gpu.up(dwpe, offset);
    const EmbeddingMemory memory{gpu, count, width};
    const auto on = gpu.on();
    const auto* there = nn::bring_tokens(on, tokens.data(), vocabulary, copied.view);
    nn::embedding_forward(on, there, wte2, wpe2, y.view);
    nn::embedding_backward(
        on, there, dy2.view, with_wte ? dwte2.view : Tensor<G>{nullptr, dwte.view.shape},
        with_wpe ? dwpe2.view : Tensor<G>{nullptr, dwpe.view.shape}, memory.view());
    return EmbeddingOutputs<T, G>{gpu.down(y), gpu.down(dwte2), gpu.down(dwpe2)};
  };
  const auto got = on_gpu(0, true, true);
  CHECK(got == on_gpu(1, true, true));  // again, and by other accesses: the same bits
  const auto one = on_gpu(0, true, false), other = on_gpu(0, false, true);
  CHECK(same_bits(one.dwte, got.dwte));
  CHECK(same_bits(one.dwpe, dwpe));
  CHECK(same_bits(other.dwte, dwte));
  CHECK(same_bits(other.dwpe, got.dwpe));

  const auto wte2 = widened(wte), wpe2 = widened(wpe), dy2 = widened(dy), dys = sizes(dy);
  auto exact_wte = widened(dwte), exact_wpe = widened(dwpe), size_wte = sizes(dwte),
       size_wpe = sizes(dwpe);
  Owned<double> y{dy.view.shape};
  nn::embedding_forward(context(), tokens.data(), wte2, wpe2, y.view);
  nn::embedding_backward(context(), tokens.data(), dy2.view, exact_wte.view, exact_wpe.view);
  nn::embedding_backward(context(), tokens.data(), dys.view, size_wte.view, size_wpe.view);
  Worst worst_y, worst_wte, worst_wpe;
  for (std::size_t i = 0; i < y.count(); ++i)
    worst_y.see(got.y[i], y[i], sum_loss(std::abs(y[i]), 1));
  for (std::size_t i = 0; i < wte.count(); ++i)
    worst_wte.see(got.dwte[i], exact_wte[i], sum_loss(size_wte[i], count));
  for (std::size_t i = 0; i < wpe.count(); ++i)
    worst_wpe.see(got.dwpe[i], exact_wpe[i], sum_loss(size_wpe[i], batch));
  CHECK(worst_y.ratio() <= 1);
  CHECK(worst_wte.ratio() <= 1);
  CHECK(worst_wpe.ratio() <= 1);
}

TEST_CASE_TEMPLATE("embedding", D, Dtypes<float, float>, Dtypes<sx::bf16, float>,
                   Dtypes<sx::bf16, sx::bf16>, Dtypes<sx::fp16, float>,
                   Dtypes<sx::fp16, sx::fp16>) {
  using T = typename D::T;
  using G = typename D::G;
  constexpr std::size_t batch = 60, length = 7, count = batch * length;
  std::vector<std::int32_t> tokens;  // 1 in two of them, 4 never, 3 once
  for (std::size_t i = 0; i < count; ++i)
    tokens.push_back(i % 2 == 0 ? 1 : static_cast<std::int32_t>(sx::mix(i) % 3));
  tokens[5] = 3;
  for (const std::size_t width : {1u, 3u, 64u})
    check_embedding<T, G>(batch, length, 5, width, tokens);
}

TEST_CASE("embedding: one token alone, tokens that end where a stretch does, many of them") {
  check_embedding<sx::bf16, float>(3, 100, 2, 16, std::vector<std::int32_t>(300, 1));
  check_embedding<float, float>(1, 1, 1, 8, {0});
  std::vector<std::int32_t> tokens;
  for (std::int32_t t = 0; t < 3; ++t) tokens.insert(tokens.end(), nn::embedding_stretch, t);
  check_embedding<float, float>(2, 96, 3, 12, tokens);
  tokens.insert(tokens.begin(), 1);
  tokens.push_back(2);
  check_embedding<float, float>(2, 97, 3, 12, tokens);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int32_t>(sx::mix(i) % 700);
  check_embedding<sx::bf16, sx::bf16>(2, 97, 700, 8, tokens);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = i % 20 == 0 ? 7 : 300;
  check_embedding<sx::bf16, float>(2, 97, 301, 1032, tokens);  // more columns than a block has
}

// Cross-entropy -----------------------------------------------------------------------------------

template <class T>
struct Losses {
  Owned<T> error;
  float loss;
};

/// Rows `stride` apart. What lies between must stay: NaNs, which show where they are read, and
/// numbers, which would not be the same when they were written.
template <class T>
Losses<T> cross_entropy_on_gpu(const Owned<T>& logits, const std::vector<std::int32_t>& targets,
                               std::size_t stride) {
  const std::size_t rows = targets.size(), width = logits.view.shape[2];
  const T between[] = {static_cast<T>(std::numeric_limits<float>::quiet_NaN()),
                       static_cast<T>(7.0f)};
  Owned<T> padded{shape(1, rows, stride)}, error{logits.view.shape};
  for (std::size_t i = 0; i < padded.count(); ++i) padded[i] = between[i % stride % 2];
  for (std::size_t r = 0; r < rows; ++r)
    std::copy_n(logits.view.data + r * width, width, padded.view.data + r * stride);
  Plain gpu;
  auto there = gpu.up(padded);
  auto loss = gpu.make<float>(sx::Shape{}), losses = gpu.make<float>(shape(rows));
  auto copied = gpu.make<std::int32_t>(shape(1, rows));
  const auto on = gpu.on(losses);
  const auto* brought = nn::bring_tokens(on, targets.data(), width, copied.view);
  nn::cross_entropy_forward(on, there.view, width, brought, loss.view);
  const auto after = gpu.down(there);
  for (std::size_t r = 0; r < rows; ++r) {
    std::copy_n(after.view.data + r * stride, width, error.view.data + r * width);
    for (std::size_t c = width; c < stride; ++c)
      CHECK(std::memcmp(&after[r * stride + c], &between[c % 2], sizeof(T)) == 0);
  }
  return {std::move(error), gpu.down(loss)[0]};
}

std::vector<std::int32_t> some_targets(std::size_t rows, std::size_t width) {
  std::vector<std::int32_t> targets;
  for (std::size_t r = 0; r < rows; ++r)
    targets.push_back(static_cast<std::int32_t>(sx::mix(r) % width));
  targets.back() = static_cast<std::int32_t>(width) - 1;
  return targets;
}

TEST_CASE_TEMPLATE("cross-entropy", T, float, sx::bf16, sx::fp16) {
  for (const std::size_t width : {1u, 17u, 300u, 5003u}) {
    CAPTURE(width);
    const std::size_t rows = width > 1000 ? 5 : 20, stride = nn::logits_stride<T, sx::Cuda>(width);
    auto logits = random<T>(shape(1, rows, width), "logits", 1.0f, 3.0f);
    const auto targets = some_targets(rows, width);
    // A target that is all but certain: softmax rounds to 1, and yet its error is not nothing.
    logits[static_cast<std::size_t>(targets[0])] = static_cast<T>(18.0f);
    const auto got = cross_entropy_on_gpu(logits, targets, stride);
    for (const std::size_t other : {stride, stride + 1, width}) {  // the latter at odd places
      const auto again = cross_entropy_on_gpu(logits, targets, other);
      CHECK(same_bits(again.error, got.error));
      CHECK(again.loss == got.loss);
    }

    auto exact = widened(logits);
    Owned<double> loss{sx::Shape{}};
    nn::cross_entropy_forward(context(), exact.view, width, targets.data(), loss);
    // Logits differ by up to 32, of which an exponential's argument loses two and a half roundings,
    // the result four. A thread's sum is scaled as the largest grows, by 32 in all; it has so many
    // packs, each scaled and summed, and is then scaled and summed with others.
    const std::size_t pack = 16 / sizeof(T), packs = (width + pack - 1) / pack;
    const std::size_t turns = packs / (packs < 512 ? 128 : 512) + 1;
    const std::size_t of_exponential = 80 + 4;
    const std::size_t roundings = 2 * of_exponential + 80 + turns * (pack + 5) + 5 + 10 + 2;
    Worst worst;
    for (std::size_t i = 0; i < exact.count(); ++i) {
      const bool is_target = i % width == static_cast<std::size_t>(targets[i / width]);
      worst.see(got.error[i], exact[i], sum_loss(is_target ? 1 : exact[i], roundings));
    }
    CHECK(worst.ratio() <= 1);
    CHECK(std::abs(static_cast<double>(got.loss) - loss[0]) <= sum_loss(loss[0] + 32, roundings));
    if (width > 1) CHECK(static_cast<float>(got.error[static_cast<std::size_t>(targets[0])]) != 0);
  }
}

TEST_CASE("cross-entropy of uniform logits is log V; large logits do not overflow, NaNs show") {
  for (const std::size_t width : {1u, 2u, 61u, 256u}) {
    CAPTURE(width);
    Owned<float> logits{shape(1, 3, width)};
    const auto targets = some_targets(3, width);
    for (const float all : {1000.0f, -1000.0f, 3e38f, -3e38f}) {
      std::fill_n(logits.view.data, logits.count(), all);
      const auto got = cross_entropy_on_gpu(logits, targets, width);
      CHECK(got.loss == doctest::Approx(std::log(static_cast<double>(width))).epsilon(1e-6));
    }
    if (width == 1) continue;
    logits[0] = std::numeric_limits<float>::quiet_NaN();
    CHECK(std::isnan(cross_entropy_on_gpu(logits, targets, width).loss));
    std::fill_n(logits.view.data, logits.count(), -3e38f);
    for (std::size_t r = 0; r < 3; ++r)
      logits[r * width + static_cast<std::size_t>(targets[r])] = 3e38f;
    const auto certain = cross_entropy_on_gpu(logits, targets, width);
    CHECK(certain.loss == 0);
    for (std::size_t i = 0; i < logits.count(); ++i) CHECK(certain.error[i] == 0);
  }
}

TEST_CASE("the mean of many rows' losses is taken in double") {
  constexpr std::size_t rows = 1100;
  auto logits = random<float>(shape(1, rows, 2), "logits", 0.0f, 5.0f);
  const auto targets = some_targets(rows, 2);
  auto exact = widened(logits);
  Owned<double> loss{sx::Shape{}};
  nn::cross_entropy_forward(context(), exact.view, 2, targets.data(), loss);
  const auto got = cross_entropy_on_gpu(logits, targets, 2);
  CHECK(std::abs(static_cast<double>(got.loss) - loss[0]) <= sum_loss(loss[0] + 32, 12));
}

TEST_CASE("too little scratch is named") {
  Plain gpu;
  auto x = gpu.make<float>(shape(3, 8)), w = gpu.make<float>(shape(8)),
       mean = gpu.make<float>(shape(3)), few = gpu.make<float>(shape(3 * 16 - 1));
  CHECK_THROWS_WITH_AS(
      nn::layer_norm_backward(gpu.on(few), x, w, mean, mean, x, w.view, w.view, x.view),
      "layer norm's backward needs 48 numbers of scratch, not 47: describe it for the largest "
      "batch "
      "and width",
      sx::DeviceError);
  const EmbeddingMemory memory{gpu, 1, 8};
  auto tokens = gpu.make<std::int32_t>(shape(1, 70));
  auto dy = gpu.make<float>(shape(1, 70, 8));
  CHECK_THROWS_AS(nn::embedding_backward(gpu.on(), tokens.view.data, dy.view, x.view,
                                         Tensor<float>{}, memory.view()),
                  sx::DeviceError);
  auto two = gpu.make<float>(shape(2));
  CHECK_THROWS_AS(nn::cross_entropy_forward(gpu.on(two), x.view, 8, tokens.view.data, mean.view),
                  sx::DeviceError);
}

// What they say that they touch -------------------------------------------------------------------

/// Another stream, which nothing orders behind the layers'.
struct Elsewhere {
  using D = sx::Checked<sx::Cuda>;
  Gpu<D>& gpu;
  D::Stream stream{gpu.device, "elsewhere"};

  void touch(const auto& reads, const auto& writes) {
    sx::Context<D>{gpu.device, stream}.enqueue(reads, writes, [](cudaStream_t) {});
  }
  template <class... T>
  void were_read(const T&... t) {
    (check_write(t.view), ...);
    const auto read = [&](const auto& one) { touch(sx::reads(one), sx::writes()); };
    CHECK_NOTHROW((read(t.view), ...));
  }
  template <class... T>
  void were_written(const T&... t) {
    (check_read(t.view), ...);
  }
  void check_write(const auto& t) {
    CHECK_THROWS_AS(touch(sx::reads(), sx::writes(t)), sx::RaceError);
  }
  void check_read(const auto& t) {
    CHECK_THROWS_AS(touch(sx::reads(t), sx::writes()), sx::RaceError);
  }
  void done() {
    gpu.device.synchronize(gpu.stream);
    gpu.device.synchronize(stream);
  }
};

TEST_CASE("what is read and written is said") {
  using sx::bf16;
  Gpu<Elsewhere::D> gpu;
  Elsewhere elsewhere{gpu};
  for (const std::size_t n : {16u, 1600u}) {
    CAPTURE(n);
    const NormInputs<bf16, float> in{3, n};
    auto x = gpu.up(in.x), w = gpu.up(in.w), b = gpu.up(in.b), dy = gpu.up(in.dy),
         around = gpu.up(in.around), y = gpu.make<bf16>(in.x.view.shape);
    auto mean = gpu.make<float>(shape(3)), rstd = gpu.make<float>(shape(3)), dw = gpu.up(in.dw),
         db = gpu.up(in.db), sums = gpu.make<float>(shape(nn::column_sum_parts, 2 * n));
    const auto on = gpu.on(sums);
    nn::layer_norm_forward(on, x, w, b, mean, rstd, y.view);
    elsewhere.were_written(mean, rstd, y);
    elsewhere.were_read(x, w, b);
    elsewhere.done();
    nn::layer_norm_recompute(on, x, w, b, mean, rstd, y.view);
    elsewhere.were_written(y);
    elsewhere.were_read(x, w, b, mean, rstd);
    elsewhere.done();
    nn::layer_norm_residual_backward(on, x, w, mean, rstd, dy, around, dw.view, db.view, y.view);
    elsewhere.were_written(dw, db, y);
    const Tensor<float> used{sums.view.data, shape(3, 2 * n)};
    elsewhere.were_written(Gpu<Elsewhere::D>::Array<float>{{}, used});
    elsewhere.were_read(x, w, mean, rstd, dy, around);
    elsewhere.done();
  }
  const std::vector<std::int32_t> tokens{3, 0, 3, 3, 1, 4};
  auto wte = gpu.up(random<bf16>(shape(5, 8), "wte")), wpe = gpu.up(random<bf16>(shape(3, 8), "e")),
       y = gpu.make<bf16>(shape(2, 3, 8));
  auto dwte = gpu.up(random<float>(shape(5, 8), "t")),
       dwpe = gpu.up(random<float>(shape(3, 8), "p"));
  auto copied = gpu.make<std::int32_t>(shape(2, 3));
  const EmbeddingMemory memory{gpu, 6, 8};
  const auto* there = nn::bring_tokens(gpu.on(), tokens.data(), 5, copied.view);
  elsewhere.were_written(copied);
  elsewhere.done();
  nn::embedding_forward(gpu.on(), there, wte, wpe, y.view);
  elsewhere.were_written(y);
  elsewhere.were_read(copied, wte, wpe);
  elsewhere.done();
  nn::embedding_backward(gpu.on(), there, y.view, dwte.view, dwpe.view, memory.view());
  elsewhere.were_written(dwte, dwpe, memory.order, memory.sums);
  elsewhere.were_read(copied, y);
  elsewhere.done();

  auto loss = gpu.make<float>(sx::Shape{}), losses = gpu.make<float>(shape(6));
  nn::cross_entropy_forward(gpu.on(losses), y.view, 7, there, loss.view);
  elsewhere.were_written(y, loss, losses);
  elsewhere.were_read(copied);
  elsewhere.done();
}

}  // namespace
