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
  unsigned context, heads, head, embed, stride;
  std::size_t head_count;
  float scale;

  template <class T>
  AttentionShape(const Tensor<T>& qkv, std::size_t heads_)
      : context{static_cast<unsigned>(qkv.shape[1])},
        heads{static_cast<unsigned>(heads_)},
        head{static_cast<unsigned>(qkv.shape[2] / 3 / heads_)},
        embed{static_cast<unsigned>(qkv.shape[2] / 3)},
        stride{static_cast<unsigned>(qkv.shape[2])},
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
  unsigned tiles, head_count, together;

  static constexpr std::size_t cached_bytes = 16_MiB;

  TileOrder(const AttentionShape& s, unsigned rows, std::size_t element_bytes)
      : tiles{static_cast<unsigned>(ceil_div(s.context, rows))},
        head_count{static_cast<unsigned>(s.head_count)},
        together{static_cast<unsigned>(std::clamp<std::size_t>(
            cached_bytes / (2 * element_bytes * s.context * s.head), 1, s.head_count))} {}

  std::size_t blocks() const { return std::size_t{tiles} * head_count; }

  /// `weight` 0 is the heaviest tile.
  struct Place {
    unsigned weight, head;
  };
  SHARDEXPR_HOST_DEVICE Place of(unsigned block) const {
    const unsigned first = block / (tiles * together) * together;
    const unsigned rest = block - first * tiles;
    const unsigned left = head_count - first, count = left < together ? left : together;
    return {rest / count, first + rest % count};
  }
};

}  // namespace shardexpr::nn::detail
