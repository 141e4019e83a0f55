// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/shardexpr.hpp>

#include <cstddef>

// A model whose operations are functors that a GPU can run: h = w, then h = h g for each gain, then
// the mean of (h - target)^2.
namespace line {

namespace sx = shardexpr;

struct Config {
  std::size_t width = 1000, depth = 3;
};
struct Batch {
  float target = 1;
};

template <template <class> class Of, class T>
struct Hidden {
  Of<T> h;  // (width,)
};
template <template <class> class Of, class T>
struct Loss {
  Of<sx::Accumulate<T>> loss;
};

template <class T>
struct Multiply {
  const T *a, *b;
  T* to;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    to[i] = static_cast<T>(static_cast<float>(a[i]) * static_cast<float>(b[i]));
  }
};
/// dw += dh h, where dw is wanted.
template <class T, class G>
struct AddProduct {
  const T *dh, *h;
  G* dw;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    dw[i] = static_cast<G>(static_cast<float>(dw[i]) +
                           static_cast<float>(dh[i]) * static_cast<float>(h[i]));
  }
};
template <class T, class G>
struct AddGradient {
  const T* dh;
  G* dw;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    dw[i] = static_cast<G>(static_cast<float>(dw[i]) + static_cast<float>(dh[i]));
  }
};
template <class T>
struct SquaredError {
  const T* h;
  std::size_t count;
  float target;
  float* loss;
  SHARDEXPR_HOST_DEVICE void operator()() const {
    float sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const float error = static_cast<float>(h[i]) - target;
      sum += error * error;
    }
    *loss = sum / static_cast<float>(count);
  }
};
template <class T>
struct ErrorGradient {
  const T* h;
  std::size_t count;
  float target;
  const float* seed;
  T* dh;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    dh[i] =
        static_cast<T>(2 * *seed * (static_cast<float>(h[i]) - target) / static_cast<float>(count));
  }
};

struct Source {
  using Config = line::Config;
  using Batch = line::Batch;
  static constexpr sx::Name prefix = "source.";
  template <class T>
  struct Params {
    T weight;
  };
  template <template <class> class Of, class T>
  using Input = sx::Nothing<Of, T>;
  template <template <class> class Of, class T>
  using Output = Hidden<Of, T>;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(c.width), sx::normal(0.3f)}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config& c) {
    return {sx::shape(c.width)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Source, D, T>& p) {
    p.context.device.copy(p.context.stream, std::span<const T>{p.w.weight.data, p.w.weight.count()},
                          std::span<T>{p.out.h.data, p.out.h.count()});
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Source, D, T, G>& p) {
    if (p.dw.weight.data != nullptr)
      p.context.for_each(p.dw.weight.count(), sx::reads(p.dout.h), sx::writes(p.dw.weight),
                         AddGradient<T, G>{p.dout.h.data, p.dw.weight.data});
  }
};

struct Gain {
  using Config = line::Config;
  using Batch = line::Batch;
  static constexpr sx::Name prefix = "gain.#.";
  template <class T>
  struct Params {
    T weight;
  };
  template <template <class> class Of, class T>
  using Input = Hidden<Of, T>;
  template <template <class> class Of, class T>
  using Output = Hidden<Of, T>;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(c.width), sx::ones}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config& c) {
    return {sx::shape(c.width)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Gain, D, T>& p) {
    p.context.for_each(p.out.h.count(), sx::reads(p.in.h, p.w.weight), sx::writes(p.out.h),
                       Multiply<T>{p.in.h.data, p.w.weight.data, p.out.h.data});
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Gain, D, T, G>& p) {
    p.context.for_each(p.din.h.count(), sx::reads(p.dout.h, p.w.weight), sx::writes(p.din.h),
                       Multiply<T>{p.dout.h.data, p.w.weight.data, p.din.h.data});
    if (p.dw.weight.data != nullptr)
      p.context.for_each(p.dw.weight.count(), sx::reads(p.dout.h, p.in.h), sx::writes(p.dw.weight),
                         AddProduct<T, G>{p.dout.h.data, p.in.h.data, p.dw.weight.data});
  }
};

struct Sink {
  using Config = line::Config;
  using Batch = line::Batch;
  static constexpr sx::Name prefix = "sink.";
  template <class T>
  struct Params {
    T weight;
  };
  template <template <class> class Of, class T>
  using Input = Hidden<Of, T>;
  template <template <class> class Of, class T>
  using Output = Loss<Of, T>;
  template <template <class> class Of, class T>
  struct Saved {
    Of<T> h;
  };
  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(c.width), sx::ones}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config&) {
    return {};
  }
  template <class T>
  static constexpr Saved<sx::BufferSpec, T> saved(const Config& c) {
    return {sx::shape(c.width)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Sink, D, T>& p) {
    p.context.for_each(p.saved.h.count(), sx::reads(p.in.h, p.w.weight), sx::writes(p.saved.h),
                       Multiply<T>{p.in.h.data, p.w.weight.data, p.saved.h.data});
    p.context.run(
        sx::reads(p.saved.h), sx::writes(p.out.loss),
        SquaredError<T>{p.saved.h.data, p.saved.h.count(), p.batch.target, p.out.loss.data});
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Sink, D, T, G>& p) {
    // The error's gradient goes where the input's will lie, and is multiplied in place.
    p.context.for_each(p.din.h.count(), sx::reads(p.saved.h, p.dout.loss), sx::writes(p.din.h),
                       ErrorGradient<T>{p.saved.h.data, p.saved.h.count(), p.batch.target,
                                        p.dout.loss.data, p.din.h.data});
    if (p.dw.weight.data != nullptr)
      p.context.for_each(p.dw.weight.count(), sx::reads(p.din.h, p.in.h), sx::writes(p.dw.weight),
                         AddProduct<T, G>{p.din.h.data, p.in.h.data, p.dw.weight.data});
    p.context.for_each(p.din.h.count(), sx::reads(p.din.h, p.w.weight), sx::writes(p.din.h),
                       Multiply<T>{p.din.h.data, p.w.weight.data, p.din.h.data});
  }
};

struct Line {
  using Config = line::Config;
  using Batch = line::Batch;
  using Units = sx::Units<Source, sx::Repeat<Gain, &Config::depth>, Sink>;
};

}  // namespace line
