// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/model/spec.hpp>

#include <cstddef>
#include <type_traits>

// What the layers of every device share.
namespace shardexpr::nn {

/// A tensor that a layer reads. Its element type is not deduced, so that a `Tensor<T>` binds too;
/// it follows from what the layer writes.
template <class T>
using In = Tensor<const std::type_identity_t<T>>;

/// A context through which a call finds the layers of its device: as an argument it makes
/// `linear_forward(on, ...)` look in this namespace when the template is instantiated, so the
/// layers of a device may be included before or after the units that use them.
template <class D>
struct LayerContext : Context<D> {};

/// What is added to a row's variance before its root is taken, as in GPT-2.
inline constexpr double layer_norm_epsilon = 1e-5;

/// How many rows of scores attention holds at once.
inline constexpr std::size_t attention_rows = 64;

/// What attention computes in, of fields `Of<...>`. The last two are empty where T is as wide as
/// its sums: then the scores themselves are multiplied, and gradients added where they belong.
template <template <class> class Of, class T>
struct AttentionScratch {
  Of<Accumulate<T>> scores;         // and, in backward, their gradient
  Of<T> rounded;                    // both, as the next product takes them
  Of<Accumulate<T>> key_gradients;  // of one head: k's, then v's
};

/// Shapes:  scores, rounded (2, attention_rows, context); key_gradients (2, context, head).
template <class T>
constexpr AttentionScratch<BufferSpec, T> attention_scratch(std::size_t context, std::size_t head) {
  constexpr bool rounds = !std::is_same_v<T, Accumulate<T>>;
  return {.scores = shape(2, attention_rows, context),
          .rounded = shape(rounds ? 2 : 0, attention_rows, context),
          .key_gradients = shape(rounds ? 2 : 0, context, head)};
}

}  // namespace shardexpr::nn
