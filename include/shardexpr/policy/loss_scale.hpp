// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/policy/axis.hpp>

#include <cmath>
#include <concepts>
#include <cstddef>
#include <string>

namespace shardexpr {

/// By what the loss is multiplied before backward, so that small gradients do not vanish in fp16.
/// The update divides by the scale that this backward was given. Values are given at run time as
/// `Options`. `skips`: a step whose gradients are not all finite leaves parameters and moments as
/// they are, on every rank, and the result says so; else such a step is an error.
///
/// `Scaler` is the scale's state, made of the options: `scale()` for the next step, and
/// `update(is_finite)` behind each.
template <class P>
concept LossScalePolicy = OnAxis<P, axis::LossScale> &&
    std::constructible_from<typename P::Scaler, const typename P::Options&> &&
    requires(typename P::Scaler scaler) {
  { P::skips } -> std::convertible_to<bool>;
  { scaler.scale() } -> std::convertible_to<float>;
  scaler.update(true);
};

/// The loss as it is.
struct LossScaleNone {
  using axis = axis::LossScale;
  static constexpr bool skips = false;
  struct Options {};
  struct Scaler {
    explicit Scaler(const Options&) {}
    static constexpr float scale() { return 1; }
    void update(bool) {}
  };
};

/// One scale for the whole run. DeepSpeed's `loss_scale` above 0.
struct StaticLossScale {
  using axis = axis::LossScale;
  static constexpr bool skips = true;
  struct Options {
    float scale = 65536;
  };
  class Scaler {
   public:
    explicit Scaler(const Options& options) : scale_{options.scale} {
      if (!(scale_ > 0) || std::isinf(scale_))
        throw ConfigError("StaticLossScale: scale is " + std::to_string(scale_) +
                          ", it must be above 0 and finite");
    }
    float scale() const { return scale_; }
    void update(bool) {}

   private:
    float scale_;
  };
};

/// A scale that falls when gradients overflow and rises when they have not for a while: PyTorch's
/// GradScaler with `hysteresis` 1 and `growth_interval` 2000, the default; DeepSpeed's dynamic
/// scale with 2 and 1000 (policy/deepspeed.hpp).
///
/// Errors:  Error from `update` if gradients overflow at `least_scale`: they would at any.
struct DynamicLossScale {
  using axis = axis::LossScale;
  static constexpr bool skips = true;
  struct Options {
    float initial_scale = 65536;
    float growth_factor = 2;      ///< after `growth_interval` finite steps in a row
    float backoff_factor = 0.5f;  ///< when overflows have used up the hysteresis
    std::size_t growth_interval = 2000;
    std::size_t hysteresis = 1;  ///< the n-th overflow lowers the scale; growth restores it
    float least_scale = 1;
  };
  class Scaler {
   public:
    explicit Scaler(const Options& options)
        : options_{options}, scale_{options.initial_scale}, patience_{options.hysteresis} {
      const auto refuse = [](const char* what) {
        throw ConfigError("DynamicLossScale: " + std::string{what});
      };
      if (!(options.least_scale > 0)) refuse("least_scale must be above 0");
      if (!(scale_ >= options.least_scale) || std::isinf(scale_))
        refuse("initial_scale must be finite and not below least_scale");
      if (!(options.growth_factor >= 1) || std::isinf(options.growth_factor))
        refuse("growth_factor must be finite and at least 1");
      if (!(options.backoff_factor > 0 && options.backoff_factor < 1))
        refuse("backoff_factor must be between 0 and 1");
      if (options.growth_interval == 0) refuse("growth_interval must be at least 1");
      if (options.hysteresis == 0) refuse("hysteresis must be at least 1");
    }
    float scale() const { return scale_; }
    void update(bool is_finite) {
      if (is_finite) {
        if (++finite_steps_ < options_.growth_interval) return;
        finite_steps_ = 0;
        patience_ = options_.hysteresis;
        if (!std::isinf(scale_ * options_.growth_factor)) scale_ *= options_.growth_factor;
        return;
      }
      finite_steps_ = 0;
      if (patience_ > 1) {
        --patience_;
        return;
      }
      if (scale_ <= options_.least_scale)
        throw Error("gradients are not finite at the least loss scale, " + std::to_string(scale_) +
                    ": the loss itself diverges");
      scale_ *= options_.backoff_factor;
      if (scale_ < options_.least_scale) scale_ = options_.least_scale;
    }

   private:
    Options options_;
    float scale_;
    std::size_t finite_steps_ = 0, patience_;
  };
};

template <>
struct axis_traits<axis::LossScale> {
  template <class P>
  static constexpr bool accepts = LossScalePolicy<P>;
  using standard = LossScaleNone;
};

}  // namespace shardexpr
