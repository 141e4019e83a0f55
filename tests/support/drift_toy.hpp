// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

#include "toy.hpp"

// The toy with buffers between its ends: what units keep that is not trained.
namespace drift_toy {

// out = h * gain * scale; the mean of what it saw drifts behind.
struct Drift {
  using Config = toy::Config;
  using Batch = toy::Batch;
  static constexpr sx::Name prefix = "drift.#.";
  template <class T>
  struct Params {
    T gain;
  };
  template <class T>
  struct Buffers {
    T scale, mean;
  };
  template <template <class> class Of, class T>
  using Input = toy::Hidden<Of, T>;
  template <template <class> class Of, class T>
  using Output = toy::Hidden<Of, T>;
  template <template <class> class Of, class T>
  struct Saved {
    Of<T> scaled;
  };

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"gain", sx::shape(c.width), sx::ones}};
  }
  static constexpr Buffers<sx::Spec> describe_buffers(const Config& c) {
    return {{"scale", sx::shape(c.width), sx::normal(0.7f)},
            {"mean", sx::shape(c.width), sx::zeros}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config& c) {
    return {sx::shape(c.rows, c.width)};
  }
  template <class T>
  static constexpr Saved<sx::BufferSpec, T> saved(const Config& c) {
    return {sx::shape(c.rows, c.width)};
  }
  template <class D, class T, class B>
  static void forward(const sx::Forward<Drift, D, T, B>& p) {
    const std::size_t n = p.config.width, rows = p.config.rows;
    const bool drifts = !p.is_rebuild;
    p.context.run(sx::reads(p.in.h, p.w.gain, p.buffers.scale, p.buffers.mean),
                  sx::writes(p.out.h, p.saved.scaled, p.buffers.mean), [=] {
                    for (std::size_t i = 0; i < p.in.h.count(); ++i) {
                      p.saved.scaled[i] =
                          static_cast<T>(p.in.h[i] * static_cast<float>(p.buffers.scale[i % n]));
                      p.out.h[i] = static_cast<T>(p.saved.scaled[i] * p.w.gain[i % n]);
                    }
                    for (std::size_t c = 0; c < n && drifts; ++c) {
                      float sum = 0;
                      for (std::size_t r = 0; r < rows; ++r) sum += p.in.h[r * n + c];
                      p.buffers.mean[c] =
                          static_cast<B>(0.5f * static_cast<float>(p.buffers.mean[c]) +
                                         0.5f * sum / static_cast<float>(rows));
                    }
                  });
  }
  template <class D, class T, class G, class B>
  static void backward(const sx::Backward<Drift, D, T, G, B>& p) {
    const std::size_t n = p.config.width;
    p.context.run(sx::reads(p.dout.h, p.w.gain, p.saved.scaled, p.buffers.scale),
                  sx::writes(p.din.h, p.dw.gain), [=] {
                    for (std::size_t i = 0; i < p.dout.h.count(); ++i) {
                      toy::add(p.dw.gain[i % n], p.dout.h[i] * p.saved.scaled[i]);
                      p.din.h[i] = static_cast<T>(p.dout.h[i] * p.w.gain[i % n] *
                                                  static_cast<float>(p.buffers.scale[i % n]));
                    }
                  });
  }
};
struct Model {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<toy::Encoder, sx::Repeat<Drift, &Config::depth>, toy::Decoder>;
};

}  // namespace drift_toy
