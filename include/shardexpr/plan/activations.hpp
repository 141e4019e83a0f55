// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/model/unit.hpp>
#include <shardexpr/policy/recompute.hpp>

#include <algorithm>
#include <array>
#include <cstddef>

namespace shardexpr {

/// Bytes of what flows and what is saved, for one rank's micro-batch. Each buffer is aligned.
struct ActivationBytes {
  std::size_t outputs = 0;    ///< every unit's output, kept until its reader's backward
  std::size_t saved = 0;      ///< what units keep for backward
  std::size_t rebuilt = 0;    ///< one buffer as large as the most that a rebuilt unit saves
  std::size_t gradients = 0;  ///< of outputs: two buffers as large as the largest output
  std::size_t scratch = 0;    ///< one buffer as large as the largest unit's

  /// All of it together.
  constexpr std::size_t total() const { return outputs + saved + rebuilt + gradients + scratch; }
};

namespace detail {
template <std::size_t N>
constexpr std::size_t aligned_bytes(const std::array<AnyBuffer, N>& buffers) {
  std::size_t n = 0;
  for (const AnyBuffer& buffer : buffers)
    n += round_up(buffer.shape.count() * buffer.element_bytes, buffer_alignment_bytes);
  return n;
}
}  // namespace detail

/// Shapes:  from the units' descriptions; T is the compute dtype, D the device. `Recompute` is the
///          policy: which units' saved activations are rebuilt.
template <class Model, class T, class D, class Recompute = RecomputeNone>
constexpr ActivationBytes activation_bytes(const typename Model::Config& config) {
  ActivationBytes bytes;
  std::size_t largest_output = 0;
  Layout<Model>::for_each_stage([&]<std::size_t S>() {
    using Unit = typename Model::Units::template Unit<S>;
    const std::size_t count = Model::Units::template Stage<S>::count(config);
    const std::size_t output = detail::aligned_bytes(detail::output_buffers<Unit, T>(config));
    bytes.outputs += count * output;
    const std::size_t saved = detail::aligned_bytes(detail::saved_buffers<Unit, T, D>(config));
    if (Recompute::template rebuilds<Unit>)
      bytes.rebuilt = std::max(bytes.rebuilt, saved);
    else
      bytes.saved += count * saved;
    bytes.scratch =
        std::max(bytes.scratch, detail::aligned_bytes(detail::scratch_buffers<Unit, T, D>(config)));
    largest_output = std::max(largest_output, output);
  });
  bytes.gradients = 2 * largest_output;
  return bytes;
}

}  // namespace shardexpr
