// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/model/spec.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

// What the layers of every device share.
namespace shardexpr::nn {

/// A device whose memory this process reads and writes: its work may call Eigen. `Cpu`, whatever
/// derives from it, and any device that says `static constexpr bool runs_on_host = true`.
template <class D>
concept HostDevice = std::is_base_of_v<Cpu, D> || requires {
  requires D::runs_on_host;
};
/// A device whose operations are kernels, and where a library may enqueue its own: `Cuda`, and what
/// wraps it.
template <class D>
concept KernelDevice = !HostDevice<D>;

namespace detail {
/// The last extent of a tensor, and how many rows of that width it has.
template <class T>
constexpr std::size_t width_of(const Tensor<T>& t) {
  return t.shape[t.shape.rank - 1];
}
template <class T>
constexpr std::size_t rows_of(const Tensor<T>& t) {
  return t.count() / width_of(t);
}
}  // namespace detail

/// A tensor that a layer reads. Its element type is not deduced, so that a `Tensor<T>` binds too;
/// it follows from what the layer writes.
template <class T>
using In = Tensor<const std::type_identity_t<T>>;

/// What the layers of a device compute in, whichever they are; empty where they need nothing.
template <template <class> class Of>
struct LayerScratch {
  Of<float> sums;           ///< what blocks of a kernel hand to the next one
  Of<std::byte> workspace;  ///< of a library's products
};

/// How many parts a kernel cuts rows into to add up columns.
inline constexpr std::size_t column_sum_parts = 128;
/// What NVIDIA recommends for cuBLAS on Hopper; products of older GPUs use less of it.
inline constexpr std::size_t product_workspace_bytes = std::size_t{32} << 20;

/// For layers over `tokens` rows of at most `width` columns, statistics of `heads` heads among
/// them.
///
/// Shapes:  sums: (column_sum_parts, width), or a number for each row and head if those are more.
template <class D>
constexpr LayerScratch<BufferSpec> layer_scratch(std::size_t tokens, std::size_t width,
                                                 std::size_t heads = 1) {
  if constexpr (HostDevice<D>)
    return {.sums = shape(0), .workspace = shape(0)};
  else
    return {.sums = shape(std::max(column_sum_parts * width, tokens * heads)),
            .workspace = shape(product_workspace_bytes)};
}

/// A context through which a call finds the layers of its device: as an argument it makes
/// `linear_forward(on, ...)` look in this namespace when the template is instantiated, so the
/// layers of a device may be included before or after the units that use them.
template <class D>
struct LayerContext : Context<D> {
  LayerScratch<Tensor> scratch{};
};

/// What is added to a row's variance before its root is taken, as in GPT-2.
inline constexpr double layer_norm_epsilon = 1e-5;

/// How many rows of scores attention holds at once on a host.
inline constexpr std::size_t attention_rows = 64;

/// What attention computes in on a host, of fields `Of<...>`. The last two are empty where T is as
/// wide as its sums: then the scores themselves are multiplied, and gradients added where they
/// belong. Kernels hold scores in registers, so all are empty there.
template <template <class> class Of, class T>
struct AttentionScratch {
  Of<Accumulate<T>> scores;         ///< and, in backward, their gradient
  Of<T> rounded;                    ///< both, as the next product takes them
  Of<Accumulate<T>> key_gradients;  ///< of one head: k's, then v's
};

/// Shapes:  scores, rounded (2, attention_rows, context); key_gradients (2, context, head).
template <class T, class D>
constexpr AttentionScratch<BufferSpec, T> attention_scratch(std::size_t context, std::size_t head) {
  constexpr std::size_t scored = HostDevice<D> ? 2 : 0;
  constexpr std::size_t rounded = std::is_same_v<T, Accumulate<T>> ? 0 : scored;
  return {.scores = shape(scored, attention_rows, context),
          .rounded = shape(rounded, attention_rows, context),
          .key_gradients = shape(rounded, context, head)};
}

/// What the gradient of an embedding's table needs on a GPU: a batch's places in the order of their
/// tokens, and sums of stretches of that order. Both are empty on a host.
template <template <class> class Of>
struct EmbeddingScratch {
  Of<std::int32_t> order;
  Of<float> sums;
};

/// Places, in the order of their tokens, that one block sums up.
inline constexpr std::size_t embedding_stretch = 64;
/// Places are ordered by digits of 8 bits, from the last one on, as many places at a time.
inline constexpr std::size_t order_digits = 256;

/// Shapes:  order: two orders, (2, tokens), and how often each digit occurs, (digits, 1 + tiles of
///          as many tokens); sums (2, stretches, width).
template <class D>
constexpr EmbeddingScratch<BufferSpec> embedding_scratch(std::size_t tokens, std::size_t width) {
  if constexpr (HostDevice<D>)
    return {.order = shape(0), .sums = shape(0)};
  else
    return {.order =
                shape(2 * tokens + (1 + (tokens + order_digits - 1) / order_digits) * order_digits),
            .sums = shape(2, (tokens + embedding_stretch - 1) / embedding_stretch, width)};
}

/// Whole numbers of a batch that are to lie on the device; a host reads them where they are.
template <class D>
constexpr Shape batch_copy(Shape numbers) {
  return HostDevice<D> ? shape(0) : numbers;
}

/// How far apart rows of logits lie: kernels want them at multiples of 16 bytes.
template <class T, class D>
constexpr std::size_t logits_stride(std::size_t vocabulary) {
  constexpr std::size_t together = HostDevice<D> ? 1 : 64;
  return (vocabulary + together - 1) / together * together;
}

}  // namespace shardexpr::nn
