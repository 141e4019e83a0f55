// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/nn/cuda/layer_norm_kernels.cuh>
#include <shardexpr/nn/cuda/math.cuh>
#include <shardexpr/nn/cuda/reduce.cuh>

#include <cstddef>

// Sums over rows for dw and db: parts of the rows by blocks, then the parts by another kernel. The
// parts are cut by the number of rows alone.
namespace shardexpr::nn::detail {

/// Rows up to this many packs are summed by the kernel that computes dx, in registers.
inline constexpr unsigned widest_summed_at_once = 4 * warp_threads;
inline constexpr unsigned warps_summing_at_once = 12;
/// Of these warps, how many put their sums together at a time.
inline constexpr unsigned warps_of_turn = 3;

/// dx of all rows, and sums (parts, 2, n): of block p those of rows from p * rows_of_part on, in
/// which its warps take turns.
template <class T, bool Aligned>
__global__ void __launch_bounds__(warps_summing_at_once* warp_threads)
    layer_norm_gradients(LayerNormRows<T> of, std::size_t rows_of_part, float* sums) {
  using Way = RowWay<warp_threads, 4, Aligned>;
  constexpr unsigned count = pack_count<T>, held = Way::held;
  __shared__ float unused[2][1], total[warps_of_turn][2][held][count][warp_threads];
  const unsigned lane = threadIdx.x % warp_threads, warp = threadIdx.x / warp_threads;
  const std::size_t first = blockIdx.x * rows_of_part;
  const std::size_t end = first + rows_of_part < of.rows ? first + rows_of_part : of.rows;

  float dw[held][count] = {}, db[held][count] = {};
  for (std::size_t r = first + warp; r < end; r += warps_summing_at_once)
    layer_norm_dx<T, Way>(of, r, lane, unused, [&](unsigned j, unsigned i, float dy, float xhat) {
      dw[j][i] = multiply_add(dy, xhat, dw[j][i]);
      db[j][i] += dy;
    });

  auto& mine = total[warp % warps_of_turn];
  for (unsigned turn = 0; turn < warps_summing_at_once / warps_of_turn; ++turn) {
    if (warp / warps_of_turn == turn) {
      SHARDEXPR_UNROLL
      for (unsigned j = 0; j < held; ++j) {
        SHARDEXPR_UNROLL
        for (unsigned i = 0; i < count; ++i) {
          mine[0][j][i][lane] = turn == 0 ? dw[j][i] : mine[0][j][i][lane] + dw[j][i];
          mine[1][j][i][lane] = turn == 0 ? db[j][i] : mine[1][j][i][lane] + db[j][i];
        }
      }
    }
    __syncthreads();
  }
  float* to = sums + std::size_t{blockIdx.x} * 2 * of.n;
  for (unsigned c = threadIdx.x; c < 2 * of.n; c += blockDim.x) {
    const unsigned which = c / of.n, column = c % of.n, pack = column / count;
    float sum = 0;
    for (unsigned k = 0; k < warps_of_turn; ++k)
      sum += total[k][which][pack / warp_threads][column % count][pack % warp_threads];
    to[c] = sum;
  }
}

inline constexpr unsigned column_rows = 8;  // that a block reads at a time

/// The same sums by themselves, of any width: a block has a warp's packs of a part's rows.
template <class T, bool Aligned>
__global__ void __launch_bounds__(column_rows* warp_threads)
    layer_norm_column_sums(LayerNormRows<T> of, std::size_t rows_of_part, float* sums) {
  constexpr unsigned count = pack_count<T>;
  __shared__ float part[column_rows][2][count][warp_threads];
  const unsigned lane = threadIdx.x % warp_threads, warp = threadIdx.x / warp_threads, n = of.n;
  const unsigned at = (blockIdx.x * warp_threads + lane) * count;
  const std::size_t first = blockIdx.y * rows_of_part;
  const std::size_t end = first + rows_of_part < of.rows ? first + rows_of_part : of.rows;

  float dw[count] = {}, db[count] = {};
  if (at < n) {
    for (std::size_t r = first + warp; r < end; r += column_rows) {
      float x[count], dy[count];
      load_values<Aligned>(of.x + r * n, n, at, x);
      load_values<Aligned>(of.dy + r * n, n, at, dy);
      const float mean = of.mean[r], rstd = of.rstd[r];
      SHARDEXPR_UNROLL
      for (unsigned i = 0; i < count; ++i) {
        dw[i] = multiply_add(dy[i], (x[i] - mean) * rstd, dw[i]);
        db[i] += dy[i];
      }
    }
  }
  SHARDEXPR_UNROLL
  for (unsigned i = 0; i < count; ++i) {
    part[warp][0][i][lane] = dw[i];
    part[warp][1][i][lane] = db[i];
  }
  __syncthreads();
  float* to = sums + std::size_t{blockIdx.y} * 2 * n;
  const unsigned from = blockIdx.x * warp_threads * count;
  for (unsigned c = threadIdx.x; c < 2 * warp_threads * count; c += blockDim.x) {
    const unsigned which = c / (warp_threads * count), column = c % (warp_threads * count);
    if (from + column >= n) continue;
    float sum = 0;
    for (unsigned k = 0; k < column_rows; ++k)
      sum += part[k][which][column % count][column / count];
    to[which * n + from + column] = sum;
  }
}

inline constexpr unsigned parts_at_once = 8;

/// Adds sums (parts, 2, n) over the parts to dw and db, those that are there.
template <class G>
__global__ void __launch_bounds__(parts_at_once* warp_threads)
    add_layer_norm_sums(const float* sums, unsigned parts, unsigned n, G* dw, G* db) {
  __shared__ float part[parts_at_once][warp_threads];
  const unsigned lane = threadIdx.x % warp_threads, first = threadIdx.x / warp_threads;
  const std::size_t c = std::size_t{blockIdx.x} * warp_threads + lane;
  float sum = 0;
  if (c < std::size_t{2} * n)
    for (unsigned p = first; p < parts; p += parts_at_once) sum += sums[std::size_t{p} * 2 * n + c];
  part[first][lane] = sum;
  __syncthreads();
  if (first > 0 || c >= std::size_t{2} * n) return;
  for (unsigned k = 1; k < parts_at_once; ++k) sum += part[k][lane];
  G* to = c < n ? dw : db;
  if (to == nullptr) return;
  to += c < n ? c : c - n;
  *to = static_cast<G>(static_cast<float>(*to) + sum);
}

}  // namespace shardexpr::nn::detail
