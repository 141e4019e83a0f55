// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/cuda/attention_shape.cuh>
#include <shardexpr/nn/cuda/attention_tiles.cuh>
#include <shardexpr/nn/cuda/convert.cuh>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/tensor_core.cuh>

#include <cmath>
#include <cstddef>

#include <cuda_runtime.h>

// Forward on tensor cores: heads of 64 and 128 elements of 16 bits.
namespace shardexpr::nn::detail {

inline constexpr float log2_of_e = 1.44269504f;

/// A block has 128 rows of queries, 32 each of 4 warps, and goes through the keys, 64 at a time,
/// of which it has two tiles: one is computed with while the other is copied.
template <unsigned head>
struct ForwardTiles {
  static constexpr unsigned warps = 4, threads = warps * warp_lanes;
  static constexpr unsigned fragments = 2;  // of 16 rows a warp
  static constexpr unsigned warp_rows = 16 * fragments, rows = warps * warp_rows, keys = 64;
  static constexpr bool queries_in_registers = head == 64;
  static constexpr std::size_t shared_bytes = (rows + 4 * keys) * head * 2;
};

/// Scores of keys that come after their query do not count. `query` and `key` are those of the
/// first element; keys lie along rows, or `transposed`, along columns.
template <bool transposed, unsigned M, unsigned N>
__device__ inline void mask_keys_behind(float (&scores)[M][N][4], unsigned query, unsigned key) {
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) {
    SHARDEXPR_UNROLL
    for (unsigned n = 0; n < N; ++n) {
      SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = 16 * m + fragment_row(i), column = 8 * n + fragment_column(i);
        if (transposed ? key + row > query + column : key + column > query + row)
          scores[m][n][i] = -INFINITY;
      }
    }
  }
}

/// What is known of rows whose keys come tile by tile: the largest score, and the sum of the
/// exponentials of what scores are less, of this lane's columns.
///
/// Source:  Milakov and Gimelshein, Online normalizer calculation for softmax, 2018.
template <unsigned M>
struct OnlineSoftmax {
  float largest[M][2], sum[M][2];

  __device__ void begin() {
    SHARDEXPR_UNROLL
    for (unsigned m = 0; m < M; ++m) {
      SHARDEXPR_UNROLL
      for (unsigned half = 0; half < 2; ++half) largest[m][half] = -INFINITY, sum[m][half] = 0;
    }
  }
  /// Turns scores into exponentials of base 2, `scale` being of that base, and brings what was
  /// summed before, `out` too, to the new largest score. Every row counts at least one score.
  template <unsigned N, unsigned O>
  __device__ void add(float (&scores)[M][N][4], float (&out)[M][O][4], float scale) {
    SHARDEXPR_UNROLL
    for (unsigned m = 0; m < M; ++m) {
      SHARDEXPR_UNROLL
      for (unsigned half = 0; half < 2; ++half) {
        float now = largest[m][half];
        SHARDEXPR_UNROLL
        for (unsigned n = 0; n < N; ++n)
          now = fmaxf(now, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
        now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 1));
        now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 2));
        const float before = two_to((largest[m][half] - now) * scale), shift = now * scale;
        largest[m][half] = now;
        float added = 0;
        SHARDEXPR_UNROLL
        for (unsigned n = 0; n < N; ++n) {
          SHARDEXPR_UNROLL
          for (unsigned i = 2 * half; i < 2 * half + 2; ++i) {
            scores[m][n][i] = two_to(fmaf(scores[m][n][i], scale, -shift));
            added += scores[m][n][i];
          }
        }
        sum[m][half] = fmaf(sum[m][half], before, added);
        SHARDEXPR_UNROLL
        for (unsigned o = 0; o < O; ++o) {
          SHARDEXPR_UNROLL
          for (unsigned i = 2 * half; i < 2 * half + 2; ++i) out[m][o][i] *= before;
        }
      }
    }
  }
  /// Adds up the lanes of each row.
  __device__ void end() {
    SHARDEXPR_UNROLL
    for (unsigned m = 0; m < M; ++m) {
      SHARDEXPR_UNROLL
      for (unsigned half = 0; half < 2; ++half) {
        sum[m][half] += __shfl_xor_sync(0xffffffff, sum[m][half], 1);
        sum[m][half] += __shfl_xor_sync(0xffffffff, sum[m][half], 2);
      }
    }
  }
};

/// Shapes:  as `attention_forward`; a block of `threads` for each place of `order`.
/// Source:  Dao, FlashAttention-2, 2023, algorithm 1.
template <class T, unsigned head>
__global__ void __launch_bounds__(ForwardTiles<head>::threads, 2)
    attend_tiles(AttentionShape s, TileOrder order, const T* qkv, float* lse, T* out) {
  using Tiles = ForwardTiles<head>;
  constexpr unsigned M = Tiles::fragments, N = Tiles::keys / 8;
  T* const queries = reinterpret_cast<T*>(dynamic_shared_memory());
  T* const keys = queries + Tiles::rows * head;  // a ring of two tiles: key n lies at n % 128
  T* const values = keys + 2 * Tiles::keys * head;

  const TileOrder::Place place = order.of(blockIdx.x);
  const unsigned first = (order.tiles - 1 - place.weight) * Tiles::rows;  // the last sees most
  const unsigned end = s.context - first < Tiles::rows ? s.context : first + Tiles::rows;
  const T* const q = qkv + s.qkv_at(place.head);
  const T* const k = q + s.embed;

  const auto copy_keys = [&](unsigned key) {
    const unsigned at = key % (2 * Tiles::keys) * head;
    copy_tile<Tiles::keys, Tiles::threads, head>(keys + at, k, s.stride, key, s.context);
    copy_tile<Tiles::keys, Tiles::threads, head>(values + at, k + s.embed, s.stride, key,
                                                 s.context);
    commit_copies();
  };
  copy_tile<Tiles::rows, Tiles::threads, head>(queries, q, s.stride, first, s.context);
  copy_keys(0);

  const unsigned warp_row = threadIdx.x / warp_lanes * Tiles::warp_rows, row = first + warp_row;
  const float scale = s.scale * log2_of_e;
  float sum[M][head / 8][4];
  set_zero(sum);
  OnlineSoftmax<M> softmax;
  softmax.begin();
  RowsInRegisters<T, head, M> kept;
  for (unsigned key = 0; key < end; key += Tiles::keys) {
    wait_for_copies<0>();
    __syncthreads();  // everyone's copies are there, and everyone has done with the other tile
    if (key + Tiles::keys < end) copy_keys(key + Tiles::keys);
    if (key >= row + Tiles::warp_rows || row >= s.context)
      continue;  // no row of the warp sees them
    const unsigned at = key % (2 * Tiles::keys) * head;
    const LaneRow<head> lane;  // here, so that no address is kept through the softmax
    const RowsInTile<T, head, M> warp_queries{lane, queries + warp_row * head};
    float scores[M][N][4];
    if constexpr (Tiles::queries_in_registers) {
      if (key == 0) kept.take(warp_queries);
      multiply_by_rows<T, head>(scores, kept, lane, keys + at);
    } else {
      multiply_by_rows<T, head>(scores, warp_queries, lane, keys + at);
    }
    if (key + Tiles::keys > row + 1) mask_keys_behind<false>(scores, row, key);
    softmax.add(scores, sum, scale);
    unsigned p[M][N / 2][4];
    round_to_left<T>(p, scores);
    multiply_add_tile<T, head>(sum, p, lane, values + at);
  }

  softmax.end();
  float inverse[M][2];
  float* const row_lse = lse + s.statistics_at(place.head);
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) {
    SHARDEXPR_UNROLL
    for (unsigned half = 0; half < 2; ++half) {
      inverse[m][half] = 1 / softmax.sum[m][half];
      const unsigned at = row + 16 * m + fragment_row(2 * half);
      if (threadIdx.x % 4 == 0 && at < s.context)
        row_lse[at] = fmaf(softmax.largest[m][half], s.scale, logf(softmax.sum[m][half]));
    }
  }
  store_rows<T, head>(sum, inverse, queries + warp_row * head,
                      out + s.out_at(place.head) + std::size_t{row} * s.embed, s.embed,
                      row < s.context ? s.context - row : 0);
}

}  // namespace shardexpr::nn::detail
