// SPDX-License-Identifier: Apache-2.0
// The model of the tutorial from chapter 3 on, which chapter 5 explains: a perceptron that learns a
// function of its inputs.
#pragma once
#include <shardexpr/shardexpr.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace sx = shardexpr;

namespace perceptron {

// [sizes]
struct Config {
  std::size_t inputs = 2, width = 16, depth = 2, rows = 32;
  bool freezes_layers = false;  // of all units, the last alone is trained
};
struct Batch {
  const float *x, *y;  // (rows, inputs), (rows,): points, and the answers there
};
// [sizes end]

// [flows]
template <template <class> class Of, class T>
struct Activation {
  Of<T> h;  // (rows, width)
};
template <template <class> class Of, class T>
struct Loss {
  Of<sx::Accumulate<T>> loss;  // one number, in fp32 where T has 16 bits
};
// [flows end]

// [dense]
/// What the two kinds of layer share: h (rows, width) = tanh(x W + b), x (rows, inputs).
struct Dense {
  using Config = perceptron::Config;
  using Batch = perceptron::Batch;
  template <class T>
  struct Params {
    T weight, bias;  // (inputs, width), (width,)
  };
  template <template <class> class Of, class T>
  using Output = Activation<Of, T>;
  template <template <class> class Of, class T>
  struct Saved {
    Of<T> h;  // backward needs it again: the derivative of tanh is 1 - h^2
  };

  // [dense end]

  // [describe]
  static constexpr Params<sx::Spec> describe(const Config& c, std::size_t inputs) {
    const sx::Spec weight{"weight", sx::shape(inputs, c.width), sx::normal(0.5f)};
    const sx::Spec bias{"bias", sx::shape(c.width), sx::zeros};
    if (c.freezes_layers) return {sx::frozen(weight), sx::frozen(bias)};
    return {weight, sx::without_decay(bias)};
  }
  // [describe end]

  // [shapes]
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config& c) {
    return {sx::shape(c.rows, c.width)};
  }
  template <class T>
  static constexpr Saved<sx::BufferSpec, T> saved(const Config& c) {
    return {sx::shape(c.rows, c.width)};
  }
  // [shapes end]

  // [passes]
  template <class Pass, class X, class T>
  static void forward(const Pass& p, const X* x, sx::Tensor<T> out) {
    const sx::Tensor<T> kept = p.saved.h;
    p.context.run(sx::reads(p.w.weight, p.w.bias), sx::writes(out, kept), [=, w = p.w] {
      const std::size_t inputs = w.weight.shape[0], width = w.weight.shape[1];
      for (std::size_t i = 0; i < out.count(); ++i) {
        sx::Accumulate<T> sum = w.bias[i % width];
        for (std::size_t k = 0; k < inputs; ++k)
          sum += x[i / width * inputs + k] * w.weight[k * width + i % width];
        kept[i] = out[i] = static_cast<T>(std::tanh(sum));
      }
    });
  }
  /// Adds to the gradients of the parameters, and writes that of x where it is asked for.
  template <class Pass, class X, class T>
  static void backward(const Pass& p, const X* x, sx::Tensor<T> dx) {
    p.context.run(sx::reads(p.w.weight, p.dout.h, p.saved.h),
                  sx::writes(p.dw.weight, p.dw.bias, dx), [=] {
                    const std::size_t inputs = p.w.weight.shape[0], width = p.w.weight.shape[1];
                    for (std::size_t i = 0; i < dx.count() && dx.data != nullptr; ++i) dx[i] = T{};
                    for (std::size_t i = 0; i < p.dout.h.count(); ++i) {
                      const std::size_t row = i / width, j = i % width;
                      const sx::Accumulate<T> h = p.saved.h[i], d = p.dout.h[i] * (1 - h * h);
                      if (p.dw.bias.data != nullptr)
                        add(p.dw.bias[j], d);  // null where it is frozen
                      for (std::size_t k = 0; k < inputs; ++k) {
                        if (p.dw.weight.data != nullptr)
                          add(p.dw.weight[k * width + j], d * x[row * inputs + k]);
                        if (dx.data != nullptr)
                          add(dx[row * inputs + k], d * p.w.weight[k * width + j]);
                      }
                    }
                  });
  }
  template <class G, class T>
  static void add(G& to, T value) {
    to = static_cast<G>(to + value);
  }
  // [passes end]
};

// [units]
struct First : Dense {
  static constexpr sx::Name prefix = "first.";
  template <template <class> class Of, class T>
  using Input = sx::Nothing<Of, T>;  // it reads the batch

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return Dense::describe(c, c.inputs);
  }
  template <class D, class T>
  static void forward(const sx::Forward<First, D, T>& p) {
    Dense::forward(p, p.batch.x, p.out.h);
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<First, D, T, G>& p) {
    Dense::backward(p, p.batch.x, sx::Tensor<T>{});
  }
};

struct Middle : Dense {
  static constexpr sx::Name prefix = "middle.#.";
  template <template <class> class Of, class T>
  using Input = Activation<Of, T>;

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return Dense::describe(c, c.width);
  }
  template <class D, class T>
  static void forward(const sx::Forward<Middle, D, T>& p) {
    Dense::forward(p, p.in.h.data, p.out.h);
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Middle, D, T, G>& p) {
    Dense::backward(p, p.in.h.data, p.din.h);
  }
};

/// The loss is the mean of (h v - y)^2.
struct Last {
  using Config = perceptron::Config;
  using Batch = perceptron::Batch;
  static constexpr sx::Name prefix = "last.";
  template <class T>
  struct Params {
    T weight;
  };
  template <template <class> class Of, class T>
  using Input = Activation<Of, T>;
  template <template <class> class Of, class T>
  using Output = Loss<Of, T>;
  template <template <class> class Of, class T>
  struct Saved {
    Of<sx::Accumulate<T>> error;  // (rows,)
  };

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(c.width), sx::normal(0.2f)}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config&) {
    return {};
  }
  template <class T>
  static constexpr Saved<sx::BufferSpec, T> saved(const Config& c) {
    return {sx::shape(c.rows)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Last, D, T>& p) {
    p.context.run(sx::reads(p.in.h, p.w.weight), sx::writes(p.out.loss, p.saved.error),
                  [=, y = p.batch.y] {
                    sx::Accumulate<T> loss = 0;
                    const std::size_t rows = p.saved.error.count(), width = p.w.weight.count();
                    for (std::size_t r = 0; r < rows; ++r) {
                      sx::Accumulate<T> error = -y[r];
                      for (std::size_t j = 0; j < width; ++j)
                        error += p.in.h[r * width + j] * p.w.weight[j];
                      p.saved.error[r] = error;
                      loss += error * error;
                    }
                    p.out.loss[0] = loss / static_cast<float>(rows);
                  });
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Last, D, T, G>& p) {
    p.context.run(sx::reads(p.in.h, p.w.weight, p.saved.error, p.dout.loss),
                  sx::writes(p.dw.weight, p.din.h), [=] {
                    const std::size_t rows = p.saved.error.count(), width = p.w.weight.count();
                    for (std::size_t i = 0; i < p.din.h.count(); ++i) {
                      const sx::Accumulate<T> d =
                          2 * p.saved.error[i / width] * p.dout.loss[0] / static_cast<float>(rows);
                      Dense::add(p.dw.weight[i % width], d * p.in.h[i]);
                      p.din.h[i] = static_cast<T>(d * p.w.weight[i % width]);
                    }
                  });
  }
};
// [units end]

// [model]
struct Model {
  using Config = perceptron::Config;
  using Batch = perceptron::Batch;
  using Units = sx::Units<First, sx::Repeat<Middle, &Config::depth>, Last>;
};
// [model end]

// [points]
/// Points of [-1, 1]^inputs and what the model is to answer there. Each number gives others.
class Points {
 public:
  Points(const Config& c, std::size_t number) : x_(c.rows * c.inputs), y_(c.rows) {
    std::mt19937 random{static_cast<std::uint32_t>(number)};
    for (float& x : x_) x = static_cast<float>(random() >> 8) / 8388608.0f - 1;
    for (std::size_t r = 0; r < c.rows; ++r) y_[r] = answer(&x_[r * c.inputs]);
  }
  Batch batch() const { return {x_.data(), y_.data()}; }
  static float answer(const float* x) { return std::sin(3 * x[0]) * x[1]; }

 private:
  std::vector<float> x_, y_;
};
// [points end]

}  // namespace perceptron
