// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/option_check.hpp>
#include <shardexpr/policy/axis.hpp>

#include <concepts>
#include <limits>

namespace shardexpr {

/// How a step's gradients are held down before the update. Its values are given at run time as
/// `Options`. Each gradient, averaged and without loss scale, is multiplied by `factor(options,
/// norm)`, norm being the global L2 norm, and then held to [-limit(options), limit(options)].
/// `factor` runs on the device, `limit` on the host. It may have `static void check(const
/// Options&)`, as an optimizer.
template <class P>
concept ClippingPolicy = OnAxis<P, axis::Clipping> &&
    requires(const typename P::Options& options, double norm) {
  { P::factor(options, norm) } -> std::convertible_to<double>;
  { P::limit(options) } -> std::convertible_to<float>;
};

/// Gradients as they are.
struct ClipNone {
  using axis = axis::Clipping;
  /// What is given at run time.
  struct Options {};
  SHARDEXPR_HOST_DEVICE static constexpr double factor(const Options&, double) { return 1; }
  static constexpr float limit(const Options&) { return std::numeric_limits<float>::infinity(); }
};

/// All gradients are scaled so that their global norm is at most `max_norm`: by
/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ does.
/// Cost:    none beside the norm, which every step has; the factor is applied by the update.
struct ClipNorm {
  using axis = axis::Clipping;
  /// What is given at run time.
  struct Options {
    float max_norm = 1;
  };
  SHARDEXPR_HOST_DEVICE static constexpr double factor(const Options& options, double norm) {
    const double factor = static_cast<double>(options.max_norm) / (norm + 1e-6);
    return factor < 1 ? factor : 1;
  }
  static constexpr float limit(const Options&) { return std::numeric_limits<float>::infinity(); }
  static void check(const Options& options) {
    OptionCheck{"ClipNorm"}.require(options.max_norm > 0, "max_norm", options.max_norm,
                                    "one above 0");
  }
};

/// Each gradient is held to [-max_value, max_value], as torch.nn.utils.clip_grad_value_ does. It is
/// element by element, so that no sharding stands in its way.
struct ClipValue {
  using axis = axis::Clipping;
  /// What is given at run time.
  struct Options {
    float max_value = 1;
  };
  SHARDEXPR_HOST_DEVICE static constexpr double factor(const Options&, double) { return 1; }
  static constexpr float limit(const Options& options) { return options.max_value; }
  static void check(const Options& options) {
    OptionCheck{"ClipValue"}.require(options.max_value > 0, "max_value", options.max_value,
                                     "one above 0");
  }
};

template <>
struct axis_traits<axis::Clipping> {
  template <class P>
  static constexpr bool accepts = ClippingPolicy<P>;
  using standard = ClipNone;
};

}  // namespace shardexpr
