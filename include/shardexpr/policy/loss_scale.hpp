// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/option_check.hpp>
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
/// `update(is_finite)` behind each. The policy may have `static void check(const Options&)`, as an
/// optimizer.
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
  /// What is given at run time.
  struct Options {};
  /// There is no state.
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
  /// What is given at run time.
  struct Options {
    float scale = 65536;
  };
  static void check(const Options& options) {
    OptionCheck{"StaticLossScale"}.above_zero("scale", options.scale);
  }
  /// The scale's state.
  class Scaler {
   public:
    explicit Scaler(const Options& options) : scale_{options.scale} {}
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
  /// What is given at run time.
  struct Options {
    float initial_scale = 65536;
    float growth_factor = 2;      ///< after `growth_interval` finite steps in a row
    float backoff_factor = 0.5f;  ///< when overflows have used up the hysteresis
    std::size_t growth_interval = 2000;
    std::size_t hysteresis = 1;  ///< the n-th overflow lowers the scale; growth restores it
    float least_scale = 1;
  };
  static void check(const Options& o) {
    const OptionCheck check{"DynamicLossScale"};
    check.above_zero("least_scale", o.least_scale);
    check.require(o.initial_scale >= o.least_scale && std::isfinite(o.initial_scale),
                  "initial_scale", o.initial_scale, "a finite one, not below least_scale");
    check.require(o.growth_factor >= 1 && std::isfinite(o.growth_factor), "growth_factor",
                  o.growth_factor, "a finite one, at least 1");
    check.require(o.backoff_factor > 0 && o.backoff_factor < 1, "backoff_factor", o.backoff_factor,
                  "one between 0 and 1");
    check.require(o.growth_interval != 0, "growth_interval", 0, "at least 1");
    check.require(o.hysteresis != 0, "hysteresis", 0, "at least 1");
  }
  /// The scale's state.
  class Scaler {
   public:
    explicit Scaler(const Options& options)
        : options_{options}, scale_{options.initial_scale}, patience_{options.hysteresis} {}
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
