// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/fma.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/model/unit.hpp>

#include <cstddef>
#include <span>

// A small autoencoder with everything that makes engines fail: sizes that nothing divides, repeated
// units, a parameter tied across units, saved values and scratch. Plain loops: its arithmetic is
// the same in every build. Gradients of frozen parameters are left out (frozen_toy.hpp).
namespace sx = shardexpr;

namespace toy {

struct Config {
  std::size_t inputs = 5, width = 7, depth = 3, rows = 4;
};
struct Batch {
  const float* x = nullptr;  // (rows, inputs)
};

template <template <class> class Of, class T>
struct Hidden {
  Of<T> h;  // (rows, width)
};
template <template <class> class Of, class T>
struct Loss {
  Of<sx::Accumulate<T>> loss;
};

template <class G, class T>
void add(G& to, T value) {
  to = static_cast<G>(to + value);
}

/// Spoils one gradient of a unit: that of the backward that is so many calls away on this thread.
struct Poison {
  int calls_until = -1;
  float value = 0;
};
inline thread_local Poison poison;
template <class T>
void plant_poison(const sx::Tensor<T>& dw) {
  if (dw.data != nullptr && poison.calls_until >= 0 && poison.calls_until-- == 0)
    dw[dw.count() - 1] = static_cast<T>(poison.value);
}

// h = x W + b
struct Encoder {
  using Config = toy::Config;
  using Batch = toy::Batch;
  static constexpr sx::Name prefix = "encoder.";
  template <class T>
  struct Params {
    T weight, bias;
  };
  template <template <class> class Of, class T>
  using Input = sx::Nothing<Of, T>;
  template <template <class> class Of, class T>
  using Output = Hidden<Of, T>;

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(c.inputs, c.width), sx::normal(0.3f)},
            {"bias", sx::shape(c.width), sx::zeros}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config& c) {
    return {sx::shape(c.rows, c.width)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Encoder, D, T>& p) {
    using A = sx::Accumulate<T>;
    const std::size_t k = p.config.inputs, n = p.config.width;
    const float* x = p.batch.x;
    p.context.run(sx::reads(p.w.weight, p.w.bias), sx::writes(p.out.h), [=] {
      for (std::size_t i = 0; i < p.out.h.count(); ++i) {
        A sum = p.w.bias[i % n];
        for (std::size_t j = 0; j < k; ++j)
          sum = sx::multiply_add<A>(x[i / n * k + j], p.w.weight[j * n + i % n], sum);
        p.out.h[i] = static_cast<T>(sum);
      }
    });
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Encoder, D, T, G>& p) {
    using A = sx::Accumulate<T>;
    const std::size_t k = p.config.inputs, n = p.config.width;
    const float* x = p.batch.x;
    p.context.run(sx::reads(p.dout.h), sx::writes(p.dw.weight, p.dw.bias), [=] {
      for (std::size_t i = 0; i < p.dout.h.count(); ++i) {
        if (p.dw.bias.data != nullptr) add(p.dw.bias[i % n], p.dout.h[i]);
        for (std::size_t j = 0; j < k && p.dw.weight.data != nullptr; ++j) {
          G& dw = p.dw.weight[j * n + i % n];
          dw = static_cast<G>(sx::multiply_add<A>(x[i / n * k + j], p.dout.h[i], dw));
        }
      }
      plant_poison(p.dw.bias);
    });
  }
};

// out = h + relu(h) W + b; relu(h) goes through scratch, its mask is saved
struct Mixer {
  using Config = toy::Config;
  using Batch = toy::Batch;
  static constexpr sx::Name prefix = "mixer.#.";
  template <class T>
  struct Params {
    T weight, bias;
  };
  template <template <class> class Of, class T>
  using Input = Hidden<Of, T>;
  template <template <class> class Of, class T>
  using Output = Hidden<Of, T>;
  template <template <class> class Of, class T>
  struct Saved {
    Of<T> active;
  };
  template <template <class> class Of, class T>
  struct Scratch {
    Of<T> d_active;
  };

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(c.width, c.width), sx::normal(0.2f)},
            {"bias", sx::shape(c.width), sx::normal(0.1f)}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config& c) {
    return {sx::shape(c.rows, c.width)};
  }
  template <class T>
  static constexpr Saved<sx::BufferSpec, T> saved(const Config& c) {
    return {sx::shape(c.rows, c.width)};
  }
  template <class T>
  static constexpr Scratch<sx::BufferSpec, T> scratch(const Config& c) {
    return {sx::shape(c.rows, c.width)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Mixer, D, T>& p) {
    using A = sx::Accumulate<T>;
    const std::size_t n = p.config.width;
    p.context.run(sx::reads(p.in.h, p.w.weight, p.w.bias), sx::writes(p.out.h, p.saved.active),
                  [=] {
                    for (std::size_t i = 0; i < p.in.h.count(); ++i)
                      p.saved.active[i] = p.in.h[i] > 0 ? p.in.h[i] : T{};
                    for (std::size_t i = 0; i < p.in.h.count(); ++i) {
                      A sum = p.in.h[i] + p.w.bias[i % n];
                      for (std::size_t j = 0; j < n; ++j)
                        sum = sx::multiply_add<A>(p.saved.active[i / n * n + j],
                                                  p.w.weight[j * n + i % n], sum);
                      p.out.h[i] = static_cast<T>(sum);
                    }
                  });
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Mixer, D, T, G>& p) {
    using A = sx::Accumulate<T>;
    const std::size_t n = p.config.width;
    p.context.run(
        sx::reads(p.in.h, p.saved.active, p.w.weight, p.dout.h),
        sx::writes(p.din.h, p.dw.weight, p.dw.bias, p.scratch.d_active), [=] {
          for (std::size_t i = 0; i < p.dout.h.count(); ++i) {
            A sum = 0;
            for (std::size_t j = 0; j < n; ++j)
              sum = sx::multiply_add<A>(p.dout.h[i / n * n + j], p.w.weight[i % n * n + j], sum);
            p.scratch.d_active[i] = static_cast<T>(sum);
          }
          for (std::size_t i = 0; i < p.dout.h.count(); ++i) {
            p.din.h[i] = static_cast<T>(
                p.dout.h[i] + (p.in.h[i] > 0 ? static_cast<A>(p.scratch.d_active[i]) : 0));
            if (p.dw.bias.data != nullptr) add(p.dw.bias[i % n], p.dout.h[i]);
            for (std::size_t j = 0; j < n && p.dw.weight.data != nullptr; ++j) {
              G& dw = p.dw.weight[j * n + i % n];
              dw = static_cast<G>(
                  sx::multiply_add<A>(p.saved.active[i / n * n + j], p.dout.h[i], dw));
            }
          }
          plant_poison(p.dw.bias);
        });
  }
};

// y = h W^T + c, W tied to the encoder's; loss = mean (y - x)^2
struct Decoder {
  using Config = toy::Config;
  using Batch = toy::Batch;
  static constexpr sx::Name prefix = "decoder.";
  template <class T>
  struct Params {
    T bias, weight;
  };
  template <template <class> class Of, class T>
  using Input = Hidden<Of, T>;
  template <template <class> class Of, class T>
  using Output = Loss<Of, T>;
  template <template <class> class Of, class T>
  struct Saved {
    Of<T> error;  // (rows, inputs)
  };

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"bias", sx::shape(c.inputs), sx::zeros}, sx::tied<Encoder>("weight")};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config&) {
    return {};
  }
  template <class T>
  static constexpr Saved<sx::BufferSpec, T> saved(const Config& c) {
    return {sx::shape(c.rows, c.inputs)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Decoder, D, T>& p) {
    using A = sx::Accumulate<T>;
    const std::size_t k = p.config.inputs, n = p.config.width;
    const float* x = p.batch.x;
    p.context.run(
        sx::reads(p.in.h, p.w.weight, p.w.bias), sx::writes(p.out.loss, p.saved.error), [=] {
          A loss = 0;
          for (std::size_t i = 0; i < p.saved.error.count(); ++i) {
            A sum = p.w.bias[i % k] - x[i];
            for (std::size_t j = 0; j < n; ++j)
              sum = sx::multiply_add<A>(p.in.h[i / k * n + j], p.w.weight[i % k * n + j], sum);
            p.saved.error[i] = static_cast<T>(sum);
            loss = sx::multiply_add<A>(sum, sum, loss);
          }
          p.out.loss[0] = loss / static_cast<A>(p.saved.error.count());
        });
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Decoder, D, T, G>& p) {
    using A = sx::Accumulate<T>;
    const std::size_t k = p.config.inputs, n = p.config.width;
    p.context.run(sx::reads(p.in.h, p.saved.error, p.w.weight, p.dout.loss),
                  sx::writes(p.din.h, p.dw.weight, p.dw.bias), [=] {
                    const A scale = 2 * p.dout.loss[0] / static_cast<A>(p.saved.error.count());
                    for (std::size_t i = 0; i < p.din.h.count(); ++i) p.din.h[i] = T{};
                    for (std::size_t i = 0; i < p.saved.error.count(); ++i) {
                      const A d = p.saved.error[i] * scale;
                      if (p.dw.bias.data != nullptr) add(p.dw.bias[i % k], d);
                      for (std::size_t j = 0; j < n; ++j) {
                        T& dh = p.din.h[i / k * n + j];
                        dh = static_cast<T>(sx::multiply_add<A>(d, p.w.weight[i % k * n + j], dh));
                        if (p.dw.weight.data == nullptr) continue;
                        G& dw = p.dw.weight[i % k * n + j];
                        dw = static_cast<G>(sx::multiply_add<A>(d, p.in.h[i / k * n + j], dw));
                      }
                    }
                    plant_poison(p.dw.bias);
                  });
  }
};

struct Autoencoder {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<Encoder, sx::Repeat<Mixer, &Config::depth>, Decoder>;
};

/// Row values of a rank at a step: a formula, so that every test sees the same data.
inline void fill(std::span<float> x, std::size_t step, std::size_t rank) {
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>((i * 7 + step * 3 + rank * 5) % 11) / 11.0f - 0.5f;
}

}  // namespace toy
