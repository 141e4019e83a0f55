// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/cuda/attention_shape.cuh>
#include <shardexpr/nn/cuda/tensor_core.cuh>

#include <cmath>
#include <cstddef>

#include <cuda_runtime.h>

// Attention in float, and of heads that tensor cores are not programmed for: every dtype, heads of
// up to 256 elements. A block has 32 rows, 4 of each of 8 warps, and goes through tiles of 32
// columns, one a lane; all is widened to float as it is brought to shared memory.
namespace shardexpr::nn::detail {

inline constexpr unsigned simple_tile = 32, simple_warps = 8, simple_rows = 4;
inline constexpr unsigned simple_threads = 32 * simple_warps;
inline constexpr std::size_t simple_largest_head = 256;

/// Columns are read by all lanes at once: rows of a tile of them lie an odd number apart.
SHARDEXPR_HOST_DEVICE inline unsigned column_stride(unsigned head) { return head | 1; }

/// Of tiles of rows, tiles of columns, and weights of each row and column.
inline std::size_t simple_shared_bytes(unsigned head, unsigned rows, unsigned columns,
                                       unsigned weights) {
  return sizeof(float) * simple_tile *
         (rows * head + columns * column_stride(head) + weights * simple_tile);
}

/// The first `count` of 32 rows, and zeros behind them.
template <class T>
__device__ inline void widen_tile(float* to, unsigned to_stride, const T* from, unsigned stride,
                                  unsigned head, unsigned count) {
  for (unsigned i = threadIdx.x; i < simple_tile * head; i += simple_threads) {
    const unsigned row = i / head, column = i % head;
    to[row * to_stride + column] =
        row < count ? static_cast<float>(from[std::size_t{row} * stride + column]) : 0.0f;
  }
}

/// The products of the warp's rows and this lane's column.
__device__ inline void dot_rows(float (&to)[simple_rows], const float* rows, const float* columns,
                                unsigned head) {
  rows += threadIdx.x / 32 * simple_rows * head;
  columns += threadIdx.x % 32 * column_stride(head);
  for (unsigned r = 0; r < simple_rows; ++r) to[r] = 0;
  for (unsigned i = 0; i < head; ++i) {
    const float column = columns[i];
    SHARDEXPR_UNROLL
    for (unsigned r = 0; r < simple_rows; ++r) to[r] = fmaf(rows[r * head + i], column, to[r]);
  }
}

/// A warp's rows of `head` elements, of which each lane sums every 32nd.
template <unsigned parts>
struct RowSums {
  float sum[simple_rows][parts];

  __device__ void begin() {
    for (unsigned r = 0; r < simple_rows; ++r)
      for (unsigned j = 0; j < parts; ++j) sum[r][j] = 0;
  }
  /// Adds a tile's columns, each times its weight for the row.
  __device__ void add(const float* weights, const float* columns, unsigned head) {
    weights += threadIdx.x / 32 * simple_rows * simple_tile;
    for (unsigned c = 0; c < simple_tile; ++c) {
      float weight[simple_rows];
      SHARDEXPR_UNROLL
      for (unsigned r = 0; r < simple_rows; ++r) weight[r] = weights[r * simple_tile + c];
      SHARDEXPR_UNROLL
      for (unsigned j = 0; j < parts; ++j) {
        const unsigned i = threadIdx.x % 32 + 32 * j;
        if (i >= head) break;
        const float column = columns[c * column_stride(head) + i];
        SHARDEXPR_UNROLL
        for (unsigned r = 0; r < simple_rows; ++r) sum[r][j] = fmaf(weight[r], column, sum[r][j]);
      }
    }
  }
  /// Writes those of the block's rows that are there.
  template <class T>
  __device__ void store(T* to, unsigned stride, unsigned head, unsigned count,
                        const float (&scale)[simple_rows]) const {
    SHARDEXPR_UNROLL
    for (unsigned r = 0; r < simple_rows; ++r) {
      const unsigned row = threadIdx.x / 32 * simple_rows + r;
      SHARDEXPR_UNROLL
      for (unsigned j = 0; j < parts; ++j) {
        const unsigned i = threadIdx.x % 32 + 32 * j;
        if (row < count && i < head)
          to[std::size_t{row} * stride + i] = static_cast<T>(sum[r][j] * scale[r]);
      }
    }
  }
};

/// As a product of T takes it.
template <class T>
__device__ inline float rounded(float x) {
  return static_cast<float>(static_cast<T>(x));
}

/// A block of `simple_threads` for each place of `order`; at most 32 `parts` elements a head.
template <class T, unsigned parts>
__global__ void __launch_bounds__(simple_threads)
    attend_simply(AttentionShape s, TileOrder order, const T* qkv, float* lse, T* out) {
  const unsigned head = s.head, context = s.context;
  float* const queries = reinterpret_cast<float*>(dynamic_shared_memory());
  float* const columns = queries + simple_tile * head;  // keys, then values
  float* const weights = columns + simple_tile * column_stride(head);

  const TileOrder::Place place = order.of(blockIdx.x);
  const unsigned first = (order.tiles - 1 - place.weight) * simple_tile;
  const unsigned count = context - first < simple_tile ? context - first : simple_tile;
  const T* const q = qkv + s.qkv_at(place.head);
  const T *const k = q + s.embed, *const v = k + s.embed;
  widen_tile(queries, head, q + std::size_t{first} * s.stride, s.stride, head, count);

  const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * simple_rows;
  RowSums<parts> sums;
  sums.begin();
  float largest[simple_rows], sum[simple_rows];
  for (unsigned r = 0; r < simple_rows; ++r) largest[r] = -INFINITY, sum[r] = 0;
  for (unsigned key = 0; key < first + count; key += simple_tile) {
    widen_tile(columns, column_stride(head), k + std::size_t{key} * s.stride, s.stride, head,
               context - key);
    __syncthreads();
    float score[simple_rows];
    dot_rows(score, queries, columns, head);
    SHARDEXPR_UNROLL
    for (unsigned r = 0; r < simple_rows; ++r) {
      if (key + lane > first + row + r) score[r] = -INFINITY;
      float now = score[r];
      for (unsigned by = 16; by > 0; by /= 2)
        now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, by));
      now = fmaxf(now, largest[r]);
      const float before = expf((largest[r] - now) * s.scale);
      largest[r] = now;
      const float p = expf(fmaf(score[r], s.scale, -(now * s.scale)));
      sum[r] = fmaf(sum[r], before, p);
      SHARDEXPR_UNROLL
      for (unsigned j = 0; j < parts; ++j) sums.sum[r][j] *= before;
      weights[(row + r) * simple_tile + lane] = rounded<T>(p);
    }
    __syncthreads();  // keys have been read
    widen_tile(columns, column_stride(head), v + std::size_t{key} * s.stride, s.stride, head,
               context - key);
    __syncthreads();
    sums.add(weights, columns, head);
    __syncthreads();
  }
  float inverse[simple_rows];
  SHARDEXPR_UNROLL
  for (unsigned r = 0; r < simple_rows; ++r) {
    for (unsigned by = 16; by > 0; by /= 2) sum[r] += __shfl_xor_sync(0xffffffff, sum[r], by);
    inverse[r] = 1 / sum[r];
    if (lane == 0 && row + r < count)
      lse[s.statistics_at(place.head) + first + row + r] = fmaf(largest[r], s.scale, logf(sum[r]));
  }
  sums.store(out + s.out_at(place.head) + std::size_t{first} * s.embed, s.embed, head, count,
             inverse);
}

/// The gradients of a block's keys and values, from the queries that see them.
template <class T, unsigned parts>
__global__ void __launch_bounds__(simple_threads)
    attend_backward_keys_simply(AttentionShape s, TileOrder order, const T* qkv, const float* lse,
                                const float* row_sums, const T* dout, T* dqkv) {
  const unsigned head = s.head, context = s.context;
  float* const keys = reinterpret_cast<float*>(dynamic_shared_memory());
  float* const values = keys + simple_tile * head;
  float* const queries = values + simple_tile * head;
  float* const douts = queries + simple_tile * column_stride(head);
  float* const weights = douts + simple_tile * column_stride(head);
  float* const gradients = weights + simple_tile * simple_tile;

  const TileOrder::Place place = order.of(blockIdx.x);
  const unsigned first = place.weight * simple_tile;
  const unsigned count = context - first < simple_tile ? context - first : simple_tile;
  const T* const q = qkv + s.qkv_at(place.head);
  const T* const k = q + s.embed;
  const T* const d = dout + s.out_at(place.head);
  lse += s.statistics_at(place.head);
  row_sums += s.statistics_at(place.head);
  widen_tile(keys, head, k + std::size_t{first} * s.stride, s.stride, head, count);
  widen_tile(values, head, k + s.embed + std::size_t{first} * s.stride, s.stride, head, count);

  const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * simple_rows;
  RowSums<parts> dk, dv;
  dk.begin();
  dv.begin();
  for (unsigned query = first; query < context; query += simple_tile) {
    const unsigned left = context - query;
    widen_tile(queries, column_stride(head), q + std::size_t{query} * s.stride, s.stride, head,
               left);
    widen_tile(douts, column_stride(head), d + std::size_t{query} * s.embed, s.embed, head, left);
    __syncthreads();
    float score[simple_rows], dp[simple_rows];
    dot_rows(score, keys, queries, head);
    dot_rows(dp, values, douts, head);
    const float shift = lane < left ? lse[query + lane] : INFINITY;
    const float mean = lane < left ? row_sums[query + lane] : 0;
    SHARDEXPR_UNROLL
    for (unsigned r = 0; r < simple_rows; ++r) {
      const bool is_seen = first + row + r <= query + lane;
      const float p = is_seen ? expf(fmaf(score[r], s.scale, -shift)) : 0;
      weights[(row + r) * simple_tile + lane] = rounded<T>(p);
      gradients[(row + r) * simple_tile + lane] = rounded<T>(p * (dp[r] - mean) * s.scale);
    }
    __syncwarp();
    dv.add(weights, douts, head);
    dk.add(gradients, queries, head);
    __syncthreads();
  }
  float one[simple_rows];
  for (unsigned r = 0; r < simple_rows; ++r) one[r] = 1;
  T* const to = dqkv + s.qkv_at(place.head) + s.embed + std::size_t{first} * s.stride;
  dk.store(to, s.stride, head, count, one);
  dv.store(to + s.embed, s.stride, head, count, one);
}

/// The gradient of a block's queries, from the keys that they see.
template <class T, unsigned parts>
__global__ void __launch_bounds__(simple_threads)
    attend_backward_queries_simply(AttentionShape s, TileOrder order, const T* qkv,
                                   const float* lse, const float* row_sums, const T* dout,
                                   T* dqkv) {
  const unsigned head = s.head, context = s.context;
  float* const queries = reinterpret_cast<float*>(dynamic_shared_memory());
  float* const douts = queries + simple_tile * head;
  float* const keys = douts + simple_tile * head;
  float* const values = keys + simple_tile * column_stride(head);
  float* const gradients = values + simple_tile * column_stride(head);

  const TileOrder::Place place = order.of(blockIdx.x);
  const unsigned first = (order.tiles - 1 - place.weight) * simple_tile;
  const unsigned count = context - first < simple_tile ? context - first : simple_tile;
  const T* const q = qkv + s.qkv_at(place.head);
  const T* const k = q + s.embed;
  widen_tile(queries, head, q + std::size_t{first} * s.stride, s.stride, head, count);
  widen_tile(douts, head, dout + s.out_at(place.head) + std::size_t{first} * s.embed, s.embed, head,
             count);

  const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * simple_rows;
  float shift[simple_rows], mean[simple_rows];
  for (unsigned r = 0; r < simple_rows; ++r) {
    const std::size_t at = s.statistics_at(place.head) + first + row + r;
    shift[r] = row + r < count ? lse[at] : INFINITY;
    mean[r] = row + r < count ? row_sums[at] : 0;
  }
  RowSums<parts> dq;
  dq.begin();
  for (unsigned key = 0; key < first + count; key += simple_tile) {
    widen_tile(keys, column_stride(head), k + std::size_t{key} * s.stride, s.stride, head,
               context - key);
    widen_tile(values, column_stride(head), k + s.embed + std::size_t{key} * s.stride, s.stride,
               head, context - key);
    __syncthreads();
    float score[simple_rows], dp[simple_rows];
    dot_rows(score, queries, keys, head);
    dot_rows(dp, douts, values, head);
    SHARDEXPR_UNROLL
    for (unsigned r = 0; r < simple_rows; ++r) {
      const bool is_seen = key + lane <= first + row + r;
      const float p = is_seen ? expf(fmaf(score[r], s.scale, -shift[r])) : 0;
      gradients[(row + r) * simple_tile + lane] = rounded<T>(p * (dp[r] - mean[r]) * s.scale);
    }
    __syncwarp();
    dq.add(gradients, keys, head);
    __syncthreads();
  }
  float one[simple_rows];
  for (unsigned r = 0; r < simple_rows; ++r) one[r] = 1;
  dq.store(dqkv + s.qkv_at(place.head) + std::size_t{first} * s.stride, s.stride, head, count, one);
}

}  // namespace shardexpr::nn::detail
