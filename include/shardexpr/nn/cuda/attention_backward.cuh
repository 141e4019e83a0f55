// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/cuda/attention_forward.cuh>
#include <shardexpr/nn/cuda/attention_shape.cuh>
#include <shardexpr/nn/cuda/attention_tiles.cuh>
#include <shardexpr/nn/cuda/convert.cuh>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/tensor_core.cuh>

#include <cmath>
#include <cstddef>

#include <cuda_runtime.h>

// Backward on tensor cores, in three kernels, none of which adds to what another block writes: each
// row's sum of dout * out, then the gradients of keys and values, then that of queries. Scores are
// computed again in both of these, which takes 7 products where atomic additions would take 5.
namespace shardexpr::nn::detail {

inline constexpr unsigned row_sum_threads = 256;

/// The sum of dout * out of each row of each head, `lanes` threads a row, `elements` at once.
///
/// Shapes:  out, dout (B, T, heads, head) -> sums (B, heads, T).
template <class T, unsigned lanes, unsigned elements>
__global__ void __launch_bounds__(row_sum_threads)
    sum_rows_of_products(AttentionShape s, const T* out, const T* dout, float* sums) {
  struct alignas(elements * sizeof(T)) Elements {
    T at[elements];
  };
  const std::size_t row = std::size_t{blockIdx.x} * (row_sum_threads / lanes) + threadIdx.x / lanes;
  float sum = 0;
  if (row < s.head_count * s.context)
    for (std::size_t i = threadIdx.x % lanes * elements; i < s.head; i += lanes * elements) {
      const Elements x = *reinterpret_cast<const Elements*>(out + row * s.head + i);
      const Elements y = *reinterpret_cast<const Elements*>(dout + row * s.head + i);
      SHARDEXPR_UNROLL
      for (unsigned j = 0; j < elements; ++j)
        sum = fmaf(static_cast<float>(x.at[j]), static_cast<float>(y.at[j]), sum);
    }
  SHARDEXPR_UNROLL
  for (unsigned by = lanes / 2; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffff, sum, by);
  if (row < s.head_count * s.context && threadIdx.x % lanes == 0) {
    const std::size_t token = row / s.heads, sequence = token / s.context;
    sums[(sequence * s.heads + row % s.heads) * s.context + token % s.context] = sum;
  }
}

/// How blocks of backward are cut. A warp holds two sums of its rows if they are keys, one if they
/// are queries; what does not change is kept in registers where there are enough.
template <unsigned head>
struct KeyGradientTiles {
  static constexpr unsigned fragments = head == 64 ? 2 : 1;  // of 16 keys a warp
  static constexpr unsigned warps = 8 / fragments, threads = warps * warp_lanes;
  static constexpr unsigned warp_rows = 16 * fragments, rows = warps * warp_rows;
  static constexpr unsigned others = 64, at_once = 32;  // queries: in a tile, computed with
  static constexpr unsigned blocks = 2 / (warps / 4);   // on a multiprocessor
  static constexpr std::size_t shared_bytes =
      (2 * rows + 4 * others) * head * 2 + 4 * others * sizeof(float);
};
template <unsigned head>
struct QueryGradientTiles {
  static constexpr unsigned fragments = head == 64 ? 2 : 1;  // of 16 queries a warp
  static constexpr unsigned warps = 8 / fragments, threads = warps * warp_lanes;
  static constexpr unsigned warp_rows = 16 * fragments, rows = warps * warp_rows;
  static constexpr unsigned others = 64, at_once = 32;  // keys
  static constexpr unsigned blocks = 2 / (warps / 4);
  static constexpr std::size_t shared_bytes = (2 * rows + 4 * others) * head * 2;
};

/// Writes the gradients of keys and values, a block's 128 keys going through the queries that see
/// them. All is computed transposed, so that each product is the left factor of the next: with
/// P = softmax(q k^T), dP = dout v^T, dS = P * (dP - sums):  dv = P^T dout,  dk = dS^T q.
///
/// Shapes:  as `attention_backward`; sums, lse (B, heads, T).
/// Source:  Dao, FlashAttention-2, 2023, algorithm 2.
template <class T, unsigned head>
__global__ void __launch_bounds__(KeyGradientTiles<head>::threads, KeyGradientTiles<head>::blocks)
    attend_backward_keys(AttentionShape s, TileOrder order, const T* qkv, const float* lse,
                         const float* sums, const T* dout, T* dqkv) {
  using Tiles = KeyGradientTiles<head>;
  constexpr unsigned M = Tiles::fragments, N = Tiles::at_once / 8;
  constexpr unsigned ring = 2 * Tiles::others;
  T* const keys = reinterpret_cast<T*>(dynamic_shared_memory());
  T* const values = keys + Tiles::rows * head;
  T* const queries = values + Tiles::rows * head;  // rings of two tiles: query n lies at n % 128
  T* const douts = queries + ring * head;
  float* const query_lse = reinterpret_cast<float*>(douts + ring * head);
  float* const query_sums = query_lse + ring;

  const TileOrder::Place place = order.of(blockIdx.x);
  const unsigned first = place.weight * Tiles::rows;  // the first is seen most
  const T* const q = qkv + s.qkv_at(place.head);
  const T* const k = q + s.embed;
  const T* const d = dout + s.out_at(place.head);
  // Of the first 2 * 64 threads each brings a number for each tile: of lse, or of sums.
  const bool is_of_lse = threadIdx.x < Tiles::others;
  const unsigned brought = threadIdx.x % Tiles::others;
  const float* const statistic = (is_of_lse ? lse : sums) + s.statistics_at(place.head) + brought;

  const auto copy_queries = [&](unsigned query) {
    const unsigned at = query % ring;
    copy_tile<Tiles::others, Tiles::threads, head>(queries + at * head, q, s.stride, query,
                                                   s.context);
    copy_tile<Tiles::others, Tiles::threads, head>(douts + at * head, d, s.embed, query, s.context);
    if (threadIdx.x < 2 * Tiles::others)
      copy_word_async((is_of_lse ? query_lse : query_sums) + at + brought, statistic + query,
                      query + brought < s.context);
    commit_copies();
  };
  copy_tile<Tiles::rows, Tiles::threads, head>(keys, k, s.stride, first, s.context);
  copy_tile<Tiles::rows, Tiles::threads, head>(values, k + s.embed, s.stride, first, s.context);
  copy_queries(first);

  const unsigned warp_row = threadIdx.x / warp_lanes * Tiles::warp_rows, row = first + warp_row;
  const float scale = s.scale * log2_of_e;
  float dk[M][head / 8][4], dv[M][head / 8][4];
  set_zero(dk);
  set_zero(dv);
  const LaneRow<head> lane;
  const RowsInTile<T, head, M> warp_keys{lane, keys + warp_row * head},
      warp_values{lane, values + warp_row * head};
  for (unsigned query = first; query < s.context; query += Tiles::at_once) {
    if (query % Tiles::others == 0) {
      wait_for_copies<0>();
      __syncthreads();  // everyone's copies are there, and everyone has done with the other tile
      if (query + Tiles::others < s.context) copy_queries(query + Tiles::others);
    }
    // None of them sees the warp's keys. Queries that are not there are 0, and add nothing.
    if (query + Tiles::at_once <= row || row >= s.context) continue;
    const unsigned at = query % ring;
    float p[M][N][4], dp[M][N][4];
    multiply_by_rows<T, head>(p, warp_keys, lane, queries + at * head);
    if (query < row + Tiles::warp_rows - 1) mask_keys_behind<true>(p, query, row);
    SHARDEXPR_UNROLL
    for (unsigned n = 0; n < N; ++n) {
      SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        const float shift = query_lse[at + 8 * n + fragment_column(i)] * log2_of_e;
        SHARDEXPR_UNROLL
        for (unsigned m = 0; m < M; ++m) p[m][n][i] = two_to(fmaf(p[m][n][i], scale, -shift));
      }
    }
    unsigned rounded[M][N / 2][4];
    round_to_left<T>(rounded, p);
    multiply_add_tile<T, head>(dv, rounded, lane, douts + at * head);

    __syncwarp();  // no load of what follows begins before: registers would not suffice
    multiply_by_rows<T, head>(dp, warp_values, lane, douts + at * head);
    SHARDEXPR_UNROLL
    for (unsigned n = 0; n < N; ++n) {
      SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        const float sum = query_sums[at + 8 * n + fragment_column(i)];
        SHARDEXPR_UNROLL
        for (unsigned m = 0; m < M; ++m) dp[m][n][i] = p[m][n][i] * (dp[m][n][i] - sum);
      }
    }
    round_to_left<T>(rounded, dp);
    multiply_add_tile<T, head>(dk, rounded, lane, queries + at * head);
  }

  const unsigned count = row < s.context ? s.context - row : 0;
  T* const to = dqkv + s.qkv_at(place.head) + s.embed + std::size_t{row} * s.stride;
  float by[M][2];
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) by[m][0] = by[m][1] = s.scale;
  store_rows<T, head>(dk, by, keys + warp_row * head, to, s.stride, count);
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) by[m][0] = by[m][1] = 1;
  store_rows<T, head>(dv, by, values + warp_row * head, to + s.embed, s.stride, count);
}

/// Writes the gradient of queries, a block's 128 going through the keys that they see: dq = dS k.
template <class T, unsigned head>
__global__ void __launch_bounds__(QueryGradientTiles<head>::threads,
                                  QueryGradientTiles<head>::blocks)
    attend_backward_queries(AttentionShape s, TileOrder order, const T* qkv, const float* lse,
                            const float* sums, const T* dout, T* dqkv) {
  using Tiles = QueryGradientTiles<head>;
  constexpr unsigned M = Tiles::fragments, N = Tiles::at_once / 8;
  constexpr unsigned ring = 2 * Tiles::others;
  T* const queries = reinterpret_cast<T*>(dynamic_shared_memory());
  T* const douts = queries + Tiles::rows * head;
  T* const keys = douts + Tiles::rows * head;  // rings of two tiles: key n lies at n % 128
  T* const values = keys + ring * head;

  const TileOrder::Place place = order.of(blockIdx.x);
  const unsigned first = (order.tiles - 1 - place.weight) * Tiles::rows;
  const unsigned end = s.context - first < Tiles::rows ? s.context : first + Tiles::rows;
  const T* const q = qkv + s.qkv_at(place.head);
  const T* const k = q + s.embed;

  const auto copy_keys = [&](unsigned key) {
    const unsigned at = key % ring * head;
    copy_tile<Tiles::others, Tiles::threads, head>(keys + at, k, s.stride, key, s.context);
    copy_tile<Tiles::others, Tiles::threads, head>(values + at, k + s.embed, s.stride, key,
                                                   s.context);
    commit_copies();
  };
  copy_tile<Tiles::rows, Tiles::threads, head>(queries, q, s.stride, first, s.context);
  copy_tile<Tiles::rows, Tiles::threads, head>(douts, dout + s.out_at(place.head), s.embed, first,
                                               s.context);
  copy_keys(0);

  const unsigned warp_row = threadIdx.x / warp_lanes * Tiles::warp_rows, row = first + warp_row;
  const float scale = s.scale * log2_of_e;
  float shift[M][2], sum[M][2];
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) {
    SHARDEXPR_UNROLL
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned at = row + 16 * m + fragment_row(2 * half);
      const std::size_t statistic = s.statistics_at(place.head) + at;
      shift[m][half] = at < s.context ? lse[statistic] * log2_of_e : 0;
      sum[m][half] = at < s.context ? sums[statistic] : 0;
    }
  }
  float dq[M][head / 8][4];
  set_zero(dq);
  const LaneRow<head> lane;
  RowsInRegisters<T, head, M> warp_queries, warp_douts;
  for (unsigned key = 0; key < end; key += Tiles::at_once) {
    if (key % Tiles::others == 0) {
      wait_for_copies<0>();
      __syncthreads();  // everyone's copies are there, and everyone has done with the other tile
      if (key + Tiles::others < end) copy_keys(key + Tiles::others);
    }
    if (key == 0) {
      warp_queries.take({lane, queries + warp_row * head});
      warp_douts.take({lane, douts + warp_row * head});
    }
    if (key >= row + Tiles::warp_rows || row >= s.context)
      continue;  // no row of the warp sees them
    const unsigned at = key % ring * head;
    float p[M][N][4], dp[M][N][4];
    multiply_by_rows<T, head>(p, warp_queries, lane, keys + at);
    multiply_by_rows<T, head>(dp, warp_douts, lane, values + at);
    if (key + Tiles::at_once > row + 1) mask_keys_behind<false>(p, row, key);
    SHARDEXPR_UNROLL
    for (unsigned m = 0; m < M; ++m) {
      SHARDEXPR_UNROLL
      for (unsigned n = 0; n < N; ++n) {
        SHARDEXPR_UNROLL
        for (unsigned i = 0; i < 4; ++i)
          dp[m][n][i] =
              two_to(fmaf(p[m][n][i], scale, -shift[m][i / 2])) * (dp[m][n][i] - sum[m][i / 2]);
      }
    }
    unsigned rounded[M][N / 2][4];
    round_to_left<T>(rounded, dp);
    multiply_add_tile<T, head>(dq, rounded, lane, keys + at);
  }

  float by[M][2];
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) by[m][0] = by[m][1] = s.scale;
  store_rows<T, head>(dq, by, queries + warp_row * head,
                      dqkv + s.qkv_at(place.head) + std::size_t{row} * s.stride, s.stride,
                      row < s.context ? s.context - row : 0);
}

}  // namespace shardexpr::nn::detail
