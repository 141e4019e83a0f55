// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is asked of a GPU's products, on a GPU and over the emulated runtime alike: they are
// compared with loops in double over the same inputs, and run twice to the same bits.
//
// A layer rounds what it stores once, so that an element y may differ by u |y| + s / 2 + f: u the
// dtype's unit roundoff, s its smallest number, f what sums in fp32 lose, each of r roundings 2^-24
// of the sum of the absolute values of all terms.
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/device/cuda.cuh>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/nn/cuda/classifier.cuh>
#include <shardexpr/nn/cuda/linear.cuh>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include <doctest/doctest.h>

namespace products {

namespace sx = shardexpr;
namespace nn = shardexpr::nn;
using sx::shape;
using sx::Tensor;

// Sums in double ----------------------------------------------------------------------------------

/// Exact values, and the sum of the absolute values of each one's terms.
struct Exact {
  std::vector<double> value, size;
};
struct Factor {
  const std::vector<double>& values;
  std::size_t stride;
  bool is_transposed = false;
  double at(std::size_t r, std::size_t c) const {
    return is_transposed ? values[c * stride + r] : values[r * stride + c];
  }
};
/// before + scale left right.
inline Exact multiply(std::size_t rows, std::size_t columns, std::size_t inner, const Factor& left,
                      const Factor& right, double scale = 1,
                      const std::vector<double>& before = {}) {
  Exact exact{std::vector<double>(rows * columns), std::vector<double>(rows * columns)};
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; ++c) {
      double value = before.empty() ? 0 : before[r * columns + c], size = std::abs(value);
      for (std::size_t l = 0; l < inner; ++l) {
        const double term = scale * left.at(r, l) * right.at(l, c);
        value += term;
        size += std::abs(term);
      }
      exact.value[r * columns + c] = value;
      exact.size[r * columns + c] = size;
    }
  return exact;
}
inline Exact plus_row(Exact exact, const std::vector<double>& row) {
  for (std::size_t i = 0; i < exact.value.size(); ++i) {
    exact.value[i] += row[i % row.size()];
    exact.size[i] += std::abs(row[i % row.size()]);
  }
  return exact;
}
inline Exact plus_columns(std::vector<double> before, const std::vector<double>& values) {
  Exact exact{before, before};
  for (double& size : exact.size) size = std::abs(size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    exact.value[i % before.size()] += values[i];
    exact.size[i % before.size()] += std::abs(values[i]);
  }
  return exact;
}
/// GELU's tanh form is x logistic(2 u), which loses nothing where tanh u is near -1.
inline double gelu_logistic(double x) {
  return 1 / (1 + std::exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)));
}
inline double gelu_of(double x) { return x * gelu_logistic(x); }
inline double gelu_slope_of(double x) {
  const double s = gelu_logistic(x);
  return s == 0 ? 0 : s + x * 1.5957691216057308 * (1 + 3 * 0.044715 * x * x) * s * (1 - s);
}
/// What gelu may lose where its exponential leaves fp32's range.
inline constexpr double gelu_least = 0x1p-120;
/// The argument of gelu's exponential is off by 8 roundings of itself, and the result by as many.
inline double gelu_loss(double x) {
  return 8 * 0x1p-24 * (1 + 1.6 * (std::abs(x) + 0.045 * std::abs(x * x * x)));
}
/// What cuBLASLt's epilogue may lose of gelu's argument: it takes a tanh, of 16 bits the GPU's own.
/// Source:  CUDA Programming Guide, on tanh.approx: a relative error of at most 2^-11.
template <class T>
inline constexpr double tanh_loss =
#if defined(__CUDACC__)
    sizeof(T) == 2 ? 0x1p-11 : 0x1p-22;
#else
    0;
#endif

template <class T>
inline constexpr double unit_roundoff = std::is_same_v<T, float>      ? 0x1p-24
                                        : std::is_same_v<T, sx::bf16> ? 0x1p-8
                                                                      : 0x1p-11;
template <class T>
inline constexpr double smallest_number = std::is_same_v<T, float>      ? 0
                                          : std::is_same_v<T, sx::bf16> ? 0x1p-133
                                                                        : 0x1p-24;

/// The largest difference seen, as a part of what was allowed: at most 1.
struct Worst {
  double ratio = 0;
  template <class T>
  void see(T got, double exact, double lost) {
    const double allowed = unit_roundoff<T> * std::abs(exact) + smallest_number<T> / 2 + lost;
    const double difference = std::abs(static_cast<double>(got) - exact);
    const double one = difference == 0 ? 0 : difference / allowed;
    ratio = std::isnan(one) ? std::numeric_limits<double>::infinity() : std::max(ratio, one);
  }
};
template <class T>
double worst_of(const std::vector<T>& got, const Exact& exact, std::size_t roundings) {
  Worst worst;
  REQUIRE(got.size() == exact.value.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    worst.see(got[i], exact.value[i], static_cast<double>(roundings) * 0x1p-24 * exact.size[i]);
  return worst.ratio;
}

// Memory ------------------------------------------------------------------------------------------

template <class T>
std::vector<T> random(std::size_t count, std::uint64_t seed, float mean = 0, float spread = 1) {
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<T>(mean + spread * sx::initial_value(seed, 7, i, sx::normal(1)));
  return values;
}
template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  return std::vector<double>(values.begin(), values.end());
}
template <class T>
bool are_same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}
template <class T>
T garbage() {
  return static_cast<T>(std::numeric_limits<float>::quiet_NaN());
}

/// A GPU with a stream, scratch, and tensors in one arena, at multiples of 256 bytes at first.
template <class D>
class Gpu {
 public:
  explicit Gpu(std::size_t sums = nn::column_sum_parts * 1024, int ordinal = 0)
      : device{ordinal},
        stream{device, "layers"},
        arena_{device.template allocate<std::byte>(arena_bytes, sx::Purpose::other)},
        on{{device, stream}, {}} {
    on.scratch.workspace = take<std::byte>(shape(workspace_bytes));
    on.scratch.sums = take<float>(shape(sums));
  }

  template <class T>
  Tensor<T> take(sx::Shape shape) {
    Tensor<T> t{reinterpret_cast<T*>(arena_.data() + used_ + skew_), shape};
    used_ += sx::round_up(skew_ + t.size_bytes(), sx::buffer_alignment_bytes);
    REQUIRE(used_ <= arena_bytes);
    return t;
  }
  template <class T>
  Tensor<T> put(const std::vector<T>& values, sx::Shape shape) {
    const Tensor<T> t = take<T>(shape);
    REQUIRE(values.size() == t.count());
    device.copy(stream, std::span<const T>{values}, t.span());
    device.synchronize(stream);
    return t;
  }
  template <class T>
  Tensor<T> put(T value, sx::Shape shape) {
    return put(std::vector<T>(shape.count(), value), shape);
  }
  template <class T>
  std::vector<T> get(Tensor<T> t) {
    std::vector<T> values(t.count());
    device.copy(stream, std::span<const T>{t.span()}, std::span<T>{values});
    device.synchronize(stream);
    return values;
  }
  /// What comes next begins elsewhere, at other multiples of 16 bytes.
  void move_on() { skew_ += 16; }

 private:
  static constexpr std::size_t arena_bytes = std::size_t{24} << 20,
                               workspace_bytes = std::size_t{1} << 20;

 public:
  D device;
  typename D::Stream stream;

 private:
  typename D::template Buffer<std::byte> arena_;
  std::size_t used_ = 0, skew_ = 0;

 public:
  nn::LayerContext<D> on;
};

template <class T_, class G_>
struct Dtypes {
  using T = T_;
  using G = G_;
};
struct Sizes {
  std::size_t rows, in, out;
};
inline constexpr Sizes all_sizes[] = {{5, 37, 70}, {300, 24, 21}, {64, 48, 136}, {1, 8, 8}};

// Cases -------------------------------------------------------------------------------------------

#define PRODUCT_DTYPES                                                         \
  products::Dtypes<float, float>, products::Dtypes<sx::bf16, float>,           \
      products::Dtypes<sx::bf16, sx::bf16>, products::Dtypes<sx::fp16, float>, \
      products::Dtypes<sx::fp16, sx::fp16>

TEST_CASE_TEMPLATE("linear layers on a GPU", Kinds, PRODUCT_DTYPES) {
  using T = typename Kinds::T;
  using G = typename Kinds::G;
  Gpu<sx::Cuda> gpu;
  const auto& on = gpu.on;
  for (const Sizes& sizes : all_sizes) {
    const std::size_t rows = sizes.rows, in = sizes.in, out = sizes.out;
    CAPTURE(rows);
    CAPTURE(in);
    CAPTURE(out);
    const auto x = random<T>(rows * in, 1), w = random<T>(in * out, 2), b = random<T>(out, 3),
               around = random<T>(rows * out, 4), dy = random<T>(rows * out, 5, 0.5f);
    const auto dw = random<G>(in * out, 6), db = random<G>(out, 7);
    const auto x2 = widened(x), w2 = widened(w), b2 = widened(b), around2 = widened(around),
               dy2 = widened(dy);
    struct Results {
      std::vector<T> y, residual, in_place, dx;
      std::vector<G> dw, db;
    };
    const auto run = [&] {
      gpu.move_on();
      const auto gx = gpu.put(x, shape(1, rows, in)), gw = gpu.put(w, shape(in, out));
      const auto gb = gpu.put(b, shape(out)), garound = gpu.put(around, shape(1, rows, out));
      const auto gdy = gpu.put(dy, shape(1, rows, out));
      const auto gdw = gpu.put(dw, shape(in, out)), gdb = gpu.put(db, shape(out));
      const auto y = gpu.put(garbage<T>(), shape(1, rows, out));
      const auto residual = gpu.put(garbage<T>(), shape(1, rows, out));
      const auto in_place = gpu.put(around, shape(1, rows, out));
      const auto dx = gpu.put(garbage<T>(), shape(1, rows, in));
      linear_forward(on, gx, gw, gb, y);
      linear_residual_forward(on, garound, gx, gw, gb, residual);
      linear_residual_forward(on, in_place, gx, gw, gb, in_place);
      linear_backward_params(on, gx, gdy, gdw, gdb);
      linear_backward_input(on, gdy, gw, dx);
      return Results{gpu.get(y),  gpu.get(residual), gpu.get(in_place),
                     gpu.get(dx), gpu.get(gdw),      gpu.get(gdb)};
    };
    const Results got = run(), again = run();
    const Factor fx{x2, in}, fw{w2, out}, fdy{dy2, out};
    const Exact y = plus_row(multiply(rows, out, in, fx, fw), b2);
    CHECK(worst_of(got.y, y, 2 * in + 1) <= 1);
    const Exact residual = plus_row(multiply(rows, out, in, fx, fw, 1, around2), b2);
    CHECK(worst_of(got.residual, residual, 2 * in + 2) <= 1);
    CHECK(worst_of(got.dx, multiply(rows, in, out, fdy, {w2, out, true}), 2 * out) <= 1);
    const Exact exact_dw = multiply(in, out, rows, {x2, in, true}, fdy, 1, widened(dw));
    CHECK(worst_of(got.dw, exact_dw, 2 * rows + 1) <= 1);
    CHECK(worst_of(got.db, plus_columns(widened(db), dy2), rows + 1) <= 1);
    CHECK(are_same_bits(got.residual, got.in_place));
    CHECK(are_same_bits(got.y, again.y));
    CHECK(are_same_bits(got.residual, again.residual));
    CHECK(are_same_bits(got.dx, again.dx));
    CHECK(are_same_bits(got.dw, again.dw));
    CHECK(are_same_bits(got.db, again.db));
  }
}

/// `is_fused`: whether the epilogue does it, if that is known.
template <class T>
void check_linear_gelu(const Sizes& sizes, bool is_fused) {
  const std::size_t rows = sizes.rows, in = sizes.in, out = sizes.out;
  CAPTURE(rows);
  CAPTURE(in);
  CAPTURE(out);
  Gpu<sx::Cuda> gpu;
  const auto& on = gpu.on;
  // Backward goes the other way: its gelu has `in` columns, so that the two are tested alike.
  const auto x = random<T>(rows * in, 1), w = random<T>(in * out, 2, 0.0f, 0.4f),
             b = random<T>(out, 3), dy = random<T>(rows * in, 4);
  const auto back = random<T>(out * in, 5, 0.0f, 0.4f);
  const auto x2 = widened(x), w2 = widened(w), b2 = widened(b), dy2 = widened(dy),
             back2 = widened(back);
  struct Results {
    std::vector<T> before, y, rebuilt, dx;
  };
  const auto run = [&] {
    gpu.move_on();
    const auto gx = gpu.put(x, shape(rows, in)), gw = gpu.put(w, shape(in, out));
    const auto gb = gpu.put(b, shape(out)), gdy = gpu.put(dy, shape(rows, in));
    const auto gback = gpu.put(back, shape(out, in));
    const auto before = gpu.put(garbage<T>(), shape(rows, out));
    const auto y = gpu.put(garbage<T>(), shape(rows, out));
    const auto rebuilt = gpu.put(garbage<T>(), shape(rows, out));
    const auto dx = gpu.put(garbage<T>(), shape(rows, out));
    linear_gelu_forward(on, gx, gw, gb, before, y);
    gelu_rebuild(on, before, rebuilt);
    linear_gelu_backward_input(on, gdy, gback, before, dx);
    return Results{gpu.get(before), gpu.get(y), gpu.get(rebuilt), gpu.get(dx)};
  };
  const Results got = run(), again = run();
  const Exact before = plus_row(multiply(rows, out, in, {x2, in}, {w2, out}), b2);
  CHECK(worst_of(got.before, before, 2 * in + 1) <= 1);
  const auto kept = widened(got.before);
  const Exact product = multiply(rows, out, in, {dy2, in}, {back2, in, true});
  Worst worst_y, worst_rebuilt, worst_dx;
  constexpr double steepest = 1.13;  // gelu's slope, anywhere
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const double sum_loss = static_cast<double>(2 * in + 1) * 0x1p-24;
    const double rounded = unit_roundoff<T> * std::abs(before.value[i]) + smallest_number<T> / 2;
    const double y = gelu_of(before.value[i]), again_y = gelu_of(kept[i]);
    worst_y.see(got.y[i], y,
                steepest * (sum_loss * before.size[i] + (is_fused ? 0 : rounded)) +
                    gelu_loss(before.value[i]) * std::abs(y) +
                    tanh_loss<T> * std::abs(before.value[i]));
    worst_rebuilt.see(got.rebuilt[i], again_y, gelu_loss(kept[i]) * std::abs(again_y) + gelu_least);
    const double slope = gelu_slope_of(kept[i]), dx = slope * product.value[i];
    const double argument = 1.6 * (std::abs(kept[i]) + 0.045 * std::pow(std::abs(kept[i]), 3));
    worst_dx.see(got.dx[i], dx,
                 sum_loss * product.size[i] * steepest +
                     std::abs(product.value[i]) * (1 + std::abs(kept[i]) + argument) *
                         (gelu_loss(kept[i]) +
                          tanh_loss<T>)+(is_fused ? 0 : unit_roundoff<T> * std::abs(dx)));
  }
  CHECK(worst_y.ratio <= 1);
  CHECK(worst_rebuilt.ratio <= 1);
  CHECK(worst_dx.ratio <= 1);
  CHECK(are_same_bits(got.before, again.before));
  CHECK(are_same_bits(got.y, again.y));
  CHECK(are_same_bits(got.dx, again.dx));
}

TEST_CASE_TEMPLATE("linear layers with gelu on a GPU", T, float, sx::bf16, sx::fp16) {
  for (const Sizes& sizes : all_sizes) check_linear_gelu<T>(sizes, false);
}

TEST_CASE_TEMPLATE("element-wise layers on a GPU, aligned or not, to the same bits", T, float,
                   sx::bf16, sx::fp16) {
  Gpu<sx::Cuda> gpu;
  const auto& on = gpu.on;
  for (const std::size_t count : {std::size_t{1}, std::size_t{8}, std::size_t{1003}}) {
    CAPTURE(count);
    auto x = random<T>(count, 1, 0.0f, 4.0f);
    const auto by = random<T>(count, 2);
    const float largest = std::is_same_v<T, sx::fp16> ? 3e4f : 3e15f;
    for (std::size_t i = 0; i < count && i < 6; ++i)  // far out, where factors would overflow
      x[i] = static_cast<T>((i % 2 == 0 ? 1.0f : -1.0f) * (i < 2 ? largest : i < 4 ? 60.0f : 9.5f));
    std::vector<T> first_y, first_product, first_slopes;
    for (const std::size_t offset : {0, 1}) {
      std::vector<Tensor<T>> rooms;
      const auto room = [&](const std::vector<T>& values) {
        rooms.push_back(gpu.put(static_cast<T>(0.5f), shape(count + 16)));
        const Tensor<T> t{rooms.back().data + offset, shape(count)};
        gpu.device.copy(gpu.stream, std::span<const T>{values}, t.span());
        gpu.device.synchronize(gpu.stream);
        return t;
      };
      const auto gx = room(x), gby = room(by), y = room(x), product = room(x), slopes = room(by);
      gelu_forward(on, gx, y);
      multiply_in_place(on, gby, product);
      const auto map = nn::detail::map_packs<nn::detail::TimesGeluSlope>(
          static_cast<const T*>(slopes.data), static_cast<const T*>(gx.data), slopes.data, count);
      on.for_each(map.packs(count), sx::reads(slopes, gx), sx::writes(slopes), map);
      const auto got = gpu.get(y), multiplied = gpu.get(product), sloped = gpu.get(slopes);
      CHECK(are_same_bits(gpu.get(gx), x));
      std::size_t touched = 0;
      for (const Tensor<T>& t : rooms) {
        const auto all = gpu.get(t);
        for (std::size_t i = 0; i < all.size(); ++i)
          if ((i < offset || i >= offset + count) && static_cast<float>(all[i]) != 0.5f) ++touched;
      }
      CHECK(touched == 0);
      if (offset == 0) {
        first_y = got;
        first_product = multiplied;
        first_slopes = sloped;
      }
      CHECK(are_same_bits(got, first_y));
      CHECK(are_same_bits(multiplied, first_product));
      CHECK(are_same_bits(sloped, first_slopes));
      Worst worst_y, worst_product, worst_slope;
      for (std::size_t i = 0; i < count; ++i) {
        const double at = static_cast<double>(x[i]), d = static_cast<double>(by[i]);
        worst_y.see(got[i], gelu_of(at), gelu_loss(at) * std::abs(gelu_of(at)) + gelu_least);
        worst_product.see(multiplied[i], at * d, 0);
        const double argument = 1.6 * (std::abs(at) + 0.045 * std::pow(std::abs(at), 3));
        worst_slope.see(sloped[i], d * gelu_slope_of(at),
                        std::abs(d) * std::min(1 + std::abs(at) + argument, 1e3) *
                            gelu_loss(std::min(std::abs(at), 10.0)));
      }
      CHECK(worst_y.ratio <= 1);
      CHECK(worst_product.ratio <= 1);
      CHECK(worst_slope.ratio <= 1);
    }
  }
}

TEST_CASE_TEMPLATE("column sums on a GPU are of one order, wherever the values lie", T, float,
                   sx::bf16) {
  Gpu<sx::Cuda> gpu;
  for (const Sizes& sizes :
       {Sizes{1500, 0, 264}, {129, 0, 8}, {7, 0, 300}, {3500, 0, 20}, {5000, 0, 4}}) {
    const std::size_t rows = sizes.rows, width = sizes.out;
    CAPTURE(rows);
    const auto values = random<T>(rows * width, 1, 0.3f);
    const auto before = random<float>(width, 2);
    std::vector<float> first;
    for (const std::size_t offset : {0, 1}) {
      const auto all = gpu.put(garbage<T>(), shape(rows * width + 1));
      const Tensor<T> t{all.data + offset, shape(rows, width)};
      gpu.device.copy(gpu.stream, std::span<const T>{values}, t.span());
      const auto room = gpu.put(-0.0f, shape(width + 40));  // of which 0 more makes 0.0f
      const Tensor<float> to{room.data, shape(width)};
      gpu.device.copy(gpu.stream, std::span<const float>{before}, to.span());
      nn::detail::add_column_sums<sx::Cuda, T, float>(gpu.on, t, to);
      const auto got = gpu.get(to), behind = gpu.get(room);
      CHECK(std::all_of(behind.begin() + static_cast<std::ptrdiff_t>(width), behind.end(),
                        [](float value) { return std::signbit(value); }));
      CHECK(worst_of(got, plus_columns(widened(before), widened(values)), rows + 1) <= 1);
      if (offset == 0) first = got;
      CHECK(are_same_bits(got, first));
    }
  }
}

TEST_CASE_TEMPLATE("the classifier on a GPU", Kinds, PRODUCT_DTYPES) {
  using T = typename Kinds::T;
  using G = typename Kinds::G;
  Gpu<sx::Cuda> gpu;
  const auto& on = gpu.on;
  for (const Sizes& sizes : {Sizes{6, 20, 65}, Sizes{33, 16, 128}, Sizes{3, 7, 5}}) {
    const std::size_t rows = sizes.rows, width = sizes.in, vocabulary = sizes.out;
    CAPTURE(rows);
    CAPTURE(vocabulary);
    const std::size_t stride = nn::logits_stride<T, sx::Cuda>(vocabulary);
    const auto x = random<T>(rows * width, 1), table = random<T>(vocabulary * width, 2);
    const auto dtable = random<G>(vocabulary * width, 3);
    auto error = random<T>(rows * stride, 4);
    for (std::size_t i = 0; i < error.size(); ++i)
      if (i % stride >= vocabulary) error[i] = garbage<T>();
    const std::vector<float> dloss{2.5f};
    const auto x2 = widened(x), table2 = widened(table), error2 = widened(error);
    struct Results {
      std::vector<T> logits, dx, in_place;
      std::vector<G> dtable;
    };
    const auto run = [&] {
      gpu.move_on();
      const auto gx = gpu.put(x, shape(1, rows, width));
      const auto gtable = gpu.put(table, shape(vocabulary, width));
      const auto gerror = gpu.put(error, shape(1, rows, stride));
      const auto gdloss = gpu.put(dloss, sx::Shape{});
      const auto logits = gpu.put(garbage<T>(), shape(1, rows, stride));
      const auto dx = gpu.put(garbage<T>(), shape(1, rows, width));
      const auto gdtable = gpu.put(dtable, shape(vocabulary, width));
      const auto other = gpu.put(dtable, shape(vocabulary, width));
      classifier_forward(on, gx, gtable, logits);
      classifier_backward(on, gerror, gdloss, gx, gtable, gdtable, dx);
      classifier_backward(on, gerror, gdloss, gx, gtable, other, gx);
      CHECK(are_same_bits(gpu.get(other), gpu.get(gdtable)));
      return Results{gpu.get(logits), gpu.get(dx), gpu.get(gx), gpu.get(gdtable)};
    };
    const Results got = run(), again = run();
    std::vector<T> logits;
    std::size_t touched = 0;
    for (std::size_t i = 0; i < got.logits.size(); ++i)
      if (i % stride < vocabulary)
        logits.push_back(got.logits[i]);
      else if (!std::isnan(static_cast<float>(got.logits[i])))
        ++touched;
    CHECK(touched == 0);
    const Exact exact = multiply(rows, vocabulary, width, {x2, width}, {table2, width, true});
    CHECK(worst_of(logits, exact, 2 * width) <= 1);
    const double factor = 2.5 / static_cast<double>(rows);
    const Exact exact_dtable = multiply(vocabulary, width, rows, {error2, stride, true},
                                        {x2, width}, factor, widened(dtable));
    CHECK(worst_of(got.dtable, exact_dtable, 2 * rows + 4) <= 1);
    const Exact exact_dx =
        multiply(rows, width, vocabulary, {error2, stride}, {table2, width}, factor);
    CHECK(worst_of(got.dx, exact_dx, 2 * vocabulary + 3) <= 1);
    CHECK(are_same_bits(got.dx, got.in_place));
    CHECK(are_same_bits(got.dx, again.dx));
    CHECK(are_same_bits(got.dtable, again.dtable));
  }
}

TEST_CASE("of a frozen parameter no gradient is computed on a GPU") {
  Gpu<sx::Cuda> gpu;
  const auto& on = gpu.on;
  const std::size_t rows = 12, in = 9, out = 16;
  const auto x = gpu.put(random<float>(rows * in, 1), shape(rows, in));
  const auto dy = gpu.put(random<float>(rows * out, 2), shape(rows, out));
  const auto before_w = random<float>(in * out, 3), before_b = random<float>(out, 4);
  const auto dw = gpu.put(before_w, shape(in, out)), other_dw = gpu.put(before_w, shape(in, out));
  const auto db = gpu.put(before_b, shape(out)), other_db = gpu.put(before_b, shape(out));
  const Tensor<float> no_dw{nullptr, shape(in, out)}, no_db{nullptr, shape(out)};
  linear_backward_params(on, x, dy, dw, db);
  linear_backward_params(on, x, dy, other_dw, no_db);
  linear_backward_params(on, x, dy, no_dw, other_db);
  linear_backward_params(on, x, dy, no_dw, no_db);
  CHECK(are_same_bits(gpu.get(dw), gpu.get(other_dw)));
  CHECK(are_same_bits(gpu.get(db), gpu.get(other_db)));
  CHECK_FALSE(are_same_bits(gpu.get(dw), before_w));
  CHECK_FALSE(are_same_bits(gpu.get(db), before_b));

  const auto table = gpu.put(random<float>(5 * in, 5), shape(5, in));
  const auto error = gpu.put(random<float>(rows * 64, 6), shape(rows, 64));
  const auto dloss = gpu.put(1.0f, sx::Shape{});
  const auto dtable = gpu.put(1.0f, shape(5, in));
  const auto dx = gpu.put(garbage<float>(), shape(rows, in)),
             other = gpu.put(7.0f, shape(rows, in));
  classifier_backward(on, error, dloss, x, table, dtable, dx);
  classifier_backward(on, error, dloss, x, table, Tensor<float>{nullptr, shape(5, in)}, other);
  CHECK(are_same_bits(gpu.get(dx), gpu.get(other)));
}

}  // namespace products
