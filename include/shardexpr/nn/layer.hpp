// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/device/concepts.hpp>

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

/// How many rows of scores attention holds at once. Its scratch is (2, attention_rows, T): scores
/// and, in backward, their gradient.
inline constexpr std::size_t attention_rows = 64;

}  // namespace shardexpr::nn
