// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/nn/cuda/attention_backward.cuh>
#include <shardexpr/nn/cuda/attention_forward.cuh>
#include <shardexpr/nn/cuda/attention_shape.cuh>
#include <shardexpr/nn/cuda/attention_simple.cuh>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/layer.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

// Causal self-attention on a GPU. The contract is that of nn/cpu/attention.hpp.
namespace shardexpr::nn {

namespace detail {

/// Whether tensor cores take it: their tiles move 16 bytes at a time.
template <class T, class... Data>
bool takes_tiles(const AttentionShape& s, const Data*... data) {
  const auto is_aligned = [](const void* to) {
    return reinterpret_cast<std::uintptr_t>(to) % sizeof(Piece) == 0;
  };
  return sizeof(T) == 2 && (s.head == 64 || s.head == 128) && (is_aligned(data) && ...);
}

inline void check_simple_head(const AttentionShape& s) {
  if (s.head > simple_largest_head)
    throw Error("attention on a GPU takes heads of at most " + std::to_string(simple_largest_head) +
                " elements; these have " + std::to_string(s.head) + ": use more heads");
}

/// Calls `with` the number of a head's elements, of those that tensor cores take, or the number of
/// parts of 32 elements that a lane of the simple kernels is ready for, as a constant.
template <class With>
void with_tile_head(const AttentionShape& s, With with) {
  if (s.head == 64)
    with(std::integral_constant<unsigned, 64>{});
  else
    with(std::integral_constant<unsigned, 128>{});
}
template <class With>
void with_simple_parts(const AttentionShape& s, With with) {
  check_simple_head(s);
  if (s.head <= 64)
    with(std::integral_constant<unsigned, 2>{});
  else
    with(std::integral_constant<unsigned, simple_largest_head / 32>{});
}

template <unsigned lanes>
Grid row_sum_grid(const AttentionShape& s) {
  return {.x = ceil_div(s.head_count * s.context, row_sum_threads / lanes),
          .threads = row_sum_threads};
}

}  // namespace detail

/// As on a CPU. In 16 bits probabilities are rounded before they are divided by their sum.
///
/// Errors:  Error where heads are larger than 256 elements, DeviceError.
/// Cost:    the scratch of `attention_scratch` is empty. Heads of 64 and 128 elements of 16 bits go
///          through tensor cores, if rows begin at multiples of 16 bytes; others take some ten
///          times as long, or more.
template <KernelDevice D, detail::KernelDtype T>
void attention_forward(const LayerContext<D>& on, In<T> qkv, std::size_t heads,
                       const AttentionScratch<Tensor, std::type_identity_t<T>>&, Tensor<float> lse,
                       Tensor<T> out) {
  constexpr const char* what = "attention";
  if (out.count() == 0) return;
  const detail::AttentionShape s{qkv, heads};
  if constexpr (sizeof(T) == 2) {
    if (detail::takes_tiles<T>(s, qkv.data, out.data))
      return detail::with_tile_head(s, [&](auto head) {
        using Tiles = detail::ForwardTiles<head()>;
        const detail::TileOrder order{s, Tiles::rows, sizeof(T)};
        detail::launch(
            on, reads(qkv), writes(lse, out), what,
            {.x = order.blocks(), .threads = Tiles::threads, .shared_bytes = Tiles::shared_bytes},
            detail::attend_tiles<T, head()>, s, order, qkv.data, lse.data, out.data);
      });
  }
  detail::with_simple_parts(s, [&](auto parts) {
    const detail::TileOrder order{s, detail::simple_tile, sizeof(T)};
    detail::launch(on, reads(qkv), writes(lse, out), what,
                   {.x = order.blocks(),
                    .threads = detail::simple_threads,
                    .shared_bytes = detail::simple_shared_bytes(s.head, 1, 1, 1)},
                   detail::attend_simply<T, parts()>, s, order, qkv.data, lse.data, out.data);
  });
}

/// As on a CPU.
///
/// Errors:  as `attention_forward`.
/// Cost:    scratch: B * heads * T of `on.scratch.sums`. 3.5 times the FLOPs of forward: the scores
///          and the gradients of the probabilities are computed for keys, and again for queries, so
///          that nothing is added from two blocks.
template <KernelDevice D, detail::KernelDtype T>
void attention_backward(const LayerContext<D>& on, In<T> qkv, std::size_t heads, In<float> lse,
                        In<T> out, In<T> dout,
                        const AttentionScratch<Tensor, std::type_identity_t<T>>&, Tensor<T> dqkv) {
  constexpr const char* what = "attention's gradient";
  if (dqkv.count() == 0) return;
  const detail::AttentionShape s{qkv, heads};
  const Tensor<float> sums{on.scratch.sums.data, lse.shape};
  if constexpr (sizeof(T) == 2) {
    if (detail::takes_tiles<T>(s, qkv.data, out.data, dout.data, dqkv.data))
      return detail::with_tile_head(s, [&](auto head) {
        constexpr unsigned lanes = detail::row_pieces<head()>;
        detail::launch(on, reads(out, dout), writes(sums), what, detail::row_sum_grid<lanes>(s),
                       detail::sum_rows_of_products<T, lanes, 8>, s, out.data, dout.data,
                       sums.data);
        const auto pass = [&]<class Tiles>(Tiles, auto kernel) {
          const detail::TileOrder order{s, Tiles::rows, sizeof(T)};
          detail::launch(
              on, reads(qkv, lse, sums, dout), writes(dqkv), what,
              {.x = order.blocks(), .threads = Tiles::threads, .shared_bytes = Tiles::shared_bytes},
              kernel, s, order, qkv.data, lse.data, sums.data, dout.data, dqkv.data);
        };
        pass(detail::KeyGradientTiles<head()>{}, detail::attend_backward_keys<T, head()>);
        pass(detail::QueryGradientTiles<head()>{}, detail::attend_backward_queries<T, head()>);
      });
  }
  detail::with_simple_parts(s, [&](auto parts) {
    detail::launch(on, reads(out, dout), writes(sums), what, detail::row_sum_grid<32>(s),
                   detail::sum_rows_of_products<T, 32, 1>, s, out.data, dout.data, sums.data);
    const detail::TileOrder order{s, detail::simple_tile, sizeof(T)};
    const auto pass = [&](unsigned weights, auto kernel) {
      detail::launch(on, reads(qkv, lse, sums, dout), writes(dqkv), what,
                     {.x = order.blocks(),
                      .threads = detail::simple_threads,
                      .shared_bytes = detail::simple_shared_bytes(s.head, 2, 2, weights)},
                     kernel, s, order, qkv.data, lse.data, sums.data, dout.data, dqkv.data);
    };
    pass(2, detail::attend_backward_keys_simply<T, parts()>);
    pass(1, detail::attend_backward_queries_simply<T, parts()>);
  });
}

}  // namespace shardexpr::nn
