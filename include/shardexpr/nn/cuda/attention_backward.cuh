// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/cuda/attention_forward.cuh>
#include <shardexpr/nn/cuda/attention_shape.cuh>
#include <shardexpr/nn/cuda/attention_tiles.cuh>
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
  constexpr unsigned tile_elements = Tiles::others * head;
  T* const keys = reinterpret_cast<T*>(dynamic_shared_memory());
  T* const values = keys + Tiles::rows * head;
  T* const stages = values + Tiles::rows * head;  // each of queries, and of dout behind them
  float* const statistics = reinterpret_cast<float*>(stages + 4 * tile_elements);

  const TileOrder::Place place = order.of(blockIdx.x);
  const unsigned context = static_cast<unsigned>(s.context);
  const unsigned first =
      static_cast<unsigned>(place.weight) * Tiles::rows;  // the first is seen most
  const T* const q = qkv + s.qkv_at(place.head);
  const T *const k = q + s.embed, *const v = k + s.embed;
  const T* const d = dout + s.out_at(place.head);
  lse += s.statistics_at(place.head);
  sums += s.statistics_at(place.head);

  const auto copy_queries = [&](unsigned step) {
    T* const to = stages + step % 2 * 2 * tile_elements;
    const unsigned query = step * Tiles::others;
    copy_tile<Tiles::others, Tiles::threads, head>(to, q + query * s.stride, s.stride,
                                                   context - query);
    copy_tile<Tiles::others, Tiles::threads, head>(to + tile_elements, d + query * s.embed, s.embed,
                                                   context - query);
    commit_copies();
  };
  // A tile's lse, of base 2, and sums: 64 threads load one each, and store it when the tile before
  // has been computed with. Rows that are not there have no probability of anything.
  const auto load_statistic = [&](unsigned step) {
    const unsigned query = step * Tiles::others + threadIdx.x % Tiles::others;
    if (threadIdx.x < Tiles::others) return query < context ? lse[query] * log2_of_e : INFINITY;
    return threadIdx.x < 2 * Tiles::others && query < context ? sums[query] : 0.0f;
  };
  const auto store_statistic = [&](unsigned step, float value) {
    if (threadIdx.x < 2 * Tiles::others)
      statistics[step % 2 * 2 * Tiles::others + threadIdx.x] = value;
  };

  const unsigned left = context - first;
  copy_tile<Tiles::rows, Tiles::threads, head>(keys, k + first * s.stride, s.stride, left);
  copy_tile<Tiles::rows, Tiles::threads, head>(values, v + first * s.stride, s.stride, left);
  const unsigned begin = first / Tiles::others, end = (context + Tiles::others - 1) / Tiles::others;
  copy_queries(begin);
  store_statistic(begin, load_statistic(begin));

  const unsigned warp_row = threadIdx.x / warp_lanes * Tiles::warp_rows, row = first + warp_row;
  const float scale = s.scale * log2_of_e;
  float dk[M][head / 8][4], dv[M][head / 8][4];
  set_zero(dk);
  set_zero(dv);
  for (unsigned step = begin; step < end; ++step) {
    wait_for_copies<0>();
    __syncthreads();
    float next = 0;
    if (step + 1 < end) {
      copy_queries(step + 1);
      next = load_statistic(step + 1);
    }
    const T* const tile = stages + step % 2 * 2 * tile_elements;
    const float* const known = statistics + step % 2 * 2 * Tiles::others;
    for (unsigned at = 0; at < Tiles::others; at += Tiles::at_once) {
      const unsigned query = step * Tiles::others + at;
      if (query + Tiles::at_once <= row || row >= context) continue;  // none sees the warp's keys
      float p[M][N][4], dp[M][N][4];
      multiply_by_rows<T, head>(p, RowsInTile<T, head, M>{keys, warp_row}, tile, at);
      if (query < row + Tiles::warp_rows - 1) mask_keys_behind<true>(p, query, row);
      SHARDEXPR_UNROLL
      for (unsigned n = 0; n < N; ++n) SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        const float shift = known[at + 8 * n + fragment_column(i)];
        SHARDEXPR_UNROLL
        for (unsigned m = 0; m < M; ++m) p[m][n][i] = power_of_two(fmaf(p[m][n][i], scale, -shift));
      }
      unsigned rounded[M][N / 2][4];
      round_to_left<T>(rounded, p);
      multiply_add_tile<T, head>(dv, rounded, tile + tile_elements, at);

      multiply_by_rows<T, head>(dp, RowsInTile<T, head, M>{values, warp_row}, tile + tile_elements,
                                at);
      SHARDEXPR_UNROLL
      for (unsigned n = 0; n < N; ++n) SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        const float sum = known[Tiles::others + at + 8 * n + fragment_column(i)];
        SHARDEXPR_UNROLL
        for (unsigned m = 0; m < M; ++m) dp[m][n][i] = p[m][n][i] * (dp[m][n][i] - sum);
      }
      round_to_left<T>(rounded, dp);
      multiply_add_tile<T, head>(dk, rounded, tile, at);
    }
    if (step + 1 < end) store_statistic(step + 1, next);
  }

  const unsigned count = row < context ? context - row : 0;
  T* const to = dqkv + s.qkv_at(place.head) + s.embed + row * s.stride;
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
  constexpr unsigned tile_elements = Tiles::others * head;
  T* const queries = reinterpret_cast<T*>(dynamic_shared_memory());
  T* const douts = queries + Tiles::rows * head;
  T* const stages = douts + Tiles::rows * head;  // each of keys, and of values behind them

  const TileOrder::Place place = order.of(blockIdx.x);
  const unsigned context = static_cast<unsigned>(s.context);
  const unsigned first = static_cast<unsigned>(order.tiles - 1 - place.weight) * Tiles::rows;
  const unsigned count = context - first < Tiles::rows ? context - first : Tiles::rows;
  const unsigned steps = (first + count + Tiles::others - 1) / Tiles::others;
  const T* const q = qkv + s.qkv_at(place.head);
  const T *const k = q + s.embed, *const v = k + s.embed;
  const T* const d = dout + s.out_at(place.head);

  const auto copy_keys = [&](unsigned step) {
    T* const to = stages + step % 2 * 2 * tile_elements;
    const unsigned key = step * Tiles::others;
    copy_tile<Tiles::others, Tiles::threads, head>(to, k + key * s.stride, s.stride, context - key);
    copy_tile<Tiles::others, Tiles::threads, head>(to + tile_elements, v + key * s.stride, s.stride,
                                                   context - key);
    commit_copies();
  };
  copy_tile<Tiles::rows, Tiles::threads, head>(queries, q + first * s.stride, s.stride, count);
  copy_tile<Tiles::rows, Tiles::threads, head>(douts, d + first * s.embed, s.embed, count);
  copy_keys(0);

  const unsigned warp_row = threadIdx.x / warp_lanes * Tiles::warp_rows, row = first + warp_row;
  const float scale = s.scale * log2_of_e;
  float shift[M][2], sum[M][2];
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) SHARDEXPR_UNROLL
  for (unsigned half = 0; half < 2; ++half) {
    const unsigned at = row + 16 * m + fragment_row(2 * half);
    const std::size_t statistic = s.statistics_at(place.head) + at;
    shift[m][half] = at < context ? lse[statistic] * log2_of_e : INFINITY;
    sum[m][half] = at < context ? sums[statistic] : 0;
  }
  float dq[M][head / 8][4];
  set_zero(dq);
  RowsInRegisters<T, head, M> kept_queries, kept_douts;
  for (unsigned step = 0; step < steps; ++step) {
    wait_for_copies<0>();
    __syncthreads();
    if (step + 1 < steps) copy_keys(step + 1);
    if (step == 0) {
      kept_queries.take(queries, warp_row);
      kept_douts.take(douts, warp_row);
    }
    const T* const tile = stages + step % 2 * 2 * tile_elements;
    for (unsigned at = 0; at < Tiles::others; at += Tiles::at_once) {
      const unsigned key = step * Tiles::others + at;
      if (key >= row + Tiles::warp_rows || row >= context) break;
      float p[M][N][4], dp[M][N][4];
      multiply_by_rows<T, head>(p, kept_queries, tile, at);
      multiply_by_rows<T, head>(dp, kept_douts, tile + tile_elements, at);
      if (key + Tiles::at_once > row + 1) mask_keys_behind<false>(p, row, key);
      SHARDEXPR_UNROLL
      for (unsigned m = 0; m < M; ++m) SHARDEXPR_UNROLL
      for (unsigned n = 0; n < N; ++n) SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        dp[m][n][i] =
            power_of_two(fmaf(p[m][n][i], scale, -shift[m][i / 2])) * (dp[m][n][i] - sum[m][i / 2]);
      unsigned rounded[M][N / 2][4];
      round_to_left<T>(rounded, dp);
      multiply_add_tile<T, head>(dq, rounded, tile, at);
    }
  }

  float by[M][2];
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) by[m][0] = by[m][1] = s.scale;
  store_rows<T, head>(dq, by, queries + warp_row * head,
                      dqkv + s.qkv_at(place.head) + row * s.stride, s.stride,
                      row < context ? context - row : 0);
}

}  // namespace shardexpr::nn::detail
