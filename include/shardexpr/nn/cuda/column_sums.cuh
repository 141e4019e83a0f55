// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/packs.cuh>
#include <shardexpr/nn/layer.hpp>

#include <algorithm>
#include <cstddef>
#include <string>

#include <cuda_runtime.h>

// Sums of columns, in two stages whose order depends on the number of rows alone: rows are cut
// into parts, a part's rows are dealt to the warps of a block, warps and then parts are added in
// their order.
namespace shardexpr::nn::detail {

inline constexpr unsigned column_lanes = 32, column_warps = 8,
                          column_threads = column_lanes * column_warps;

/// How many rows a part has: so many that there are at most `column_sum_parts` parts.
constexpr std::size_t rows_of_part(std::size_t rows) {
  return std::max(ceil_div(rows, column_sum_parts), std::size_t{column_warps});
}

/// Block (x, y) adds up what part y has in the columns of 32 packs; sums (parts, width).
template <class T>
__global__ void __launch_bounds__(column_threads)
    add_rows_of_part(const T* values, std::size_t rows, std::size_t width, std::size_t part_rows,
                     bool are_aligned, float* sums) {
  constexpr unsigned pack = Pack<T>::width, columns = column_lanes * pack, together = 4;
  __shared__ float shared[column_warps][columns];  // element of the pack by lane
  const unsigned lane = threadIdx.x % column_lanes, warp = threadIdx.x / column_lanes;
  const std::size_t block_column = std::size_t{blockIdx.x} * columns;
  const std::size_t column = block_column + std::size_t{lane} * pack;
  const std::size_t first = std::size_t{blockIdx.y} * part_rows;
  const std::size_t end = first + part_rows < rows ? first + part_rows : rows;
  float sum[pack] = {};
  const auto add = [&](auto load) {
    std::size_t row = first + warp;
    for (; row + (together - 1) * column_warps < end; row += together * column_warps) {
      Pack<T> loaded[together];
      for (unsigned i = 0; i < together; ++i)
        loaded[i] = load(values + (row + i * column_warps) * width + column);
      for (unsigned i = 0; i < together; ++i)
        for (unsigned e = 0; e < pack; ++e) sum[e] += static_cast<float>(loaded[i].element[e]);
    }
    for (; row < end; row += column_warps) {
      const Pack<T> loaded = load(values + row * width + column);
      for (unsigned e = 0; e < pack; ++e) sum[e] += static_cast<float>(loaded.element[e]);
    }
  };
  if (are_aligned && column + pack <= width)
    add([](const T* from) { return load_pack(from); });
  else if (column < width)
    add([=](const T* from) {
      Pack<T> partial;
      for (unsigned e = 0; e < pack; ++e)
        partial.element[e] = column + e < width ? from[e] : static_cast<T>(0.0f);
      return partial;
    });
  for (unsigned e = 0; e < pack; ++e) shared[warp][e * column_lanes + lane] = sum[e];
  __syncthreads();
  for (unsigned c = threadIdx.x; c < columns; c += column_threads) {
    float total = 0;
    for (unsigned w = 0; w < column_warps; ++w)
      total += shared[w][c % pack * column_lanes + c / pack];
    if (block_column + c < width) sums[blockIdx.y * width + block_column + c] = total;
  }
}

/// to += the sum of all parts, rounded once.
template <class G>
__global__ void __launch_bounds__(column_threads)
    add_parts(const float* sums, std::size_t parts, std::size_t width, G* to) {
  __shared__ float shared[column_warps][column_lanes];
  const unsigned lane = threadIdx.x % column_lanes, warp = threadIdx.x / column_lanes;
  const std::size_t column = std::size_t{blockIdx.x} * column_lanes + lane;
  float sum = 0;
  if (column < width)
    for (std::size_t part = warp; part < parts; part += column_warps)
      sum += sums[part * width + column];
  shared[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
  float total = 0;
  for (unsigned w = 0; w < column_warps; ++w) total += shared[w][lane];
  to[column] = static_cast<G>(static_cast<float>(to[column]) + total);
}

/// to += the sums of the columns of `values`.
///
/// Shapes:  values (..., n), to (n,).
/// Errors:  DeviceError where `on.scratch.sums` has not column_sum_parts numbers a column.
/// Cost:    reads the values once, and writes and reads column_sum_parts rows of fp32 at most.
template <KernelDevice D, KernelDtype T, KernelDtype G>
void add_column_sums(const LayerContext<D>& on, Tensor<const T> values, Tensor<G> to) {
  const Tensor<float>& sums = on.scratch.sums;
  const std::size_t width = width_of(values), rows = rows_of(values);
  const std::size_t part_rows = rows_of_part(rows), parts = ceil_div(rows, part_rows);
  if (parts * width > sums.count())
    throw DeviceError("sums of " + std::to_string(width) + " columns need " +
                      std::to_string(parts * width) + " numbers of scratch, not " +
                      std::to_string(sums.count()) + ": give layer_scratch the largest width");
  const bool are_aligned = width % Pack<T>::width == 0 && are_packs(values.data);
  launch(
      on, reads(values), writes(sums), "start sums of columns",
      {.x = ceil_div(width, column_lanes * Pack<T>::width), .y = parts, .threads = column_threads},
      add_rows_of_part<T>, values.data, rows, width, part_rows, are_aligned, sums.data);
  launch(on, reads(sums, to), writes(to), "start sums of columns",
         {.x = ceil_div(width, column_lanes), .threads = column_threads}, add_parts<G>,
         static_cast<const float*>(sums.data), parts, width, to.data);
}

}  // namespace shardexpr::nn::detail
