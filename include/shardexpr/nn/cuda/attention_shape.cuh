// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/nn/cuda/launch.cuh>

#include <algorithm>
#include <cmath>
#include <cstddef>

// What all kernels of attention know of their tensors, and the order in which blocks take work.
namespace shardexpr::nn::detail {

/// Sequences of `context` rows; heads are numbered through all sequences. Rows of q, k, v lie
/// `stride` apart, rows of the output `embed`.
struct AttentionShape {
  std::size_t context, heads, head, embed, stride, head_count;
  float scale;

  template <class T>
  AttentionShape(const Tensor<T>& qkv, std::size_t heads_)
      : context{qkv.shape[1]},
        heads{heads_},
        head{qkv.shape[2] / 3 / heads_},
        embed{qkv.shape[2] / 3},
        stride{qkv.shape[2]},
        head_count{qkv.shape[0] * heads_},
        scale{1 / std::sqrt(static_cast<float>(head))} {}

  SHARDEXPR_HOST_DEVICE std::size_t qkv_at(std::size_t n) const {
    return n / heads * context * stride + n % heads * head;
  }
  SHARDEXPR_HOST_DEVICE std::size_t out_at(std::size_t n) const {
    return n / heads * context * embed + n % heads * head;
  }
  SHARDEXPR_HOST_DEVICE std::size_t statistics_at(std::size_t n) const { return n * context; }
};

/// Which tile of which head a block takes. Tiles differ in how much causality leaves of them; all
/// heavy ones go first, so that no long block begins when the others are done, but only of as many
/// heads as lie in a GPU's cache at once.
///
/// Source:  longest processing time first: Graham, Bounds on multiprocessing timing anomalies,
/// 1969.
struct TileOrder {
  std::size_t tiles, head_count, together;

  static constexpr std::size_t cached_bytes = 16_MiB;

  TileOrder(const AttentionShape& s, std::size_t rows, std::size_t element_bytes)
      : tiles{ceil_div(s.context, rows)},
        head_count{s.head_count},
        together{std::clamp<std::size_t>(cached_bytes / (2 * s.context * s.head * element_bytes), 1,
                                         s.head_count)} {}

  std::size_t blocks() const { return tiles * head_count; }

  /// `weight` 0 is the heaviest tile.
  struct Place {
    std::size_t weight, head;
  };
  SHARDEXPR_HOST_DEVICE Place of(std::size_t block) const {
    const std::size_t first = block / (tiles * together) * together;
    const std::size_t rest = block - first * tiles;
    const std::size_t left = head_count - first, count = left < together ? left : together;
    return {rest / count, first + rest % count};
  }
};

}  // namespace shardexpr::nn::detail
