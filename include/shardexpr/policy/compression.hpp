// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

#include <concepts>
#include <cstddef>

namespace shardexpr {

/// What parameters are rounded to before they are gathered, and gradients before they are reduced:
/// codes of `bits` bits, 4 or 8, in blocks of 64 elements with a scale of 4 bytes each
/// (core/quantized_block.hpp); 0: sent as they are.
template <class P>
concept WeightCompressionPolicy = OnAxis<P, axis::WeightCompression> && requires {
  { P::bits } -> std::convertible_to<std::size_t>;
};
/// The same of gradients, before they are reduced.
template <class P>
concept GradientCompressionPolicy = OnAxis<P, axis::GradientCompression> && requires {
  { P::bits } -> std::convertible_to<std::size_t>;
};

/// Gathers send the compute dtype.
struct WeightsUnquantized {
  using axis = axis::WeightCompression;
  static constexpr std::size_t bits = 0;
};
/// Gathers send 8 bits a parameter. A rank's own part stays exact, and is what is updated, shown by
/// `summon` and published; units compute with rounded parameters, the same on every rank, in
/// forward and backward. ZeRO++'s qwZ.
///
/// What is off by how much: a/254 at most, a the largest magnitude of the block, and the rounding
/// of the compute dtype. What is not gathered is not rounded: parameters that persist.
/// Cost:    17/16 bytes a gathered parameter; one pass over the part, one over what is gathered.
/// Source:  Wang et al., ZeRO++, ICLR 2024, section 3.1.
struct QuantizedWeights {
  using axis = axis::WeightCompression;
  static constexpr std::size_t bits = 8;
};

/// Reductions send the precision's reduce dtype.
struct GradientsUnquantized {
  using axis = axis::GradientCompression;
  static constexpr std::size_t bits = 0;
};
/// Gradients are reduced from 4 bits an element: each rank rounds its full gradients once, an
/// all-to-all takes every piece to the rank that keeps it, and that adds up in fp32, in rank order.
/// Its own piece is rounded like the others', so that the result does not depend on who keeps what.
/// The all-reduce over copies (hybrid sharding) sends gradients as they are. ZeRO++'s qgZ, of one
/// level.
///
/// What is off by how much: the mean over ranks of a/14 at most, a the largest magnitude of the
/// rank's block, and the rounding of the reduce dtype. Rounding is to nearest: where one element of
/// a block is large, those below a fourteenth of it are 0. Nothing is carried over to the next
/// step.
///
/// Cost:    9/16 bytes an element; one pass over the full gradients, one over what is received.
/// Source:  Wang et al., ZeRO++, ICLR 2024, section 3.3.
struct QuantizedGradients {
  using axis = axis::GradientCompression;
  static constexpr std::size_t bits = 4;
};

template <>
struct axis_traits<axis::WeightCompression> {
  template <class P>
  static constexpr bool accepts = WeightCompressionPolicy<P>;
  using standard = WeightsUnquantized;
};
template <>
struct axis_traits<axis::GradientCompression> {
  template <class P>
  static constexpr bool accepts = GradientCompressionPolicy<P>;
  using standard = GradientsUnquantized;
};

}  // namespace shardexpr
