// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/layer_norm_columns.cuh>
#include <shardexpr/nn/cuda/layer_norm_kernels.cuh>
#include <shardexpr/nn/cuda/math.cuh>
#include <shardexpr/nn/layer.hpp>

#include <algorithm>
#include <cstddef>

// Layer norm on a GPU; on a CPU it is nn/cpu/layer_norm.hpp.
namespace shardexpr::nn {

namespace detail {

/// Calls use(RowWay) with the way for rows of n elements.
template <class T, class Use>
void with_row_way(std::size_t n, bool aligned, Use use) {
  const std::size_t packs = pieces_of(n, pack_count<T>);
  if (packs <= widest_of_warp) {
    if (!aligned)
      use(RowWay<warp_threads, 0, false>{});
    else if (packs <= 4 * warp_threads)
      use(RowWay<warp_threads, 4, true>{});
    else
      use(RowWay<warp_threads, 8, true>{});
  } else {
    if (!aligned)
      use(RowWay<wide_row_threads, 0, false>{});
    else if (packs <= 4 * wide_row_threads)
      use(RowWay<wide_row_threads, 4, true>{});
    else
      use(RowWay<wide_row_threads, 0, true>{});
  }
}

template <class Way>
Grid grid_of_rows(Way, std::size_t rows) {
  return {.x = pieces_of(rows, Way::rows), .threads = Way::block};
}

template <KernelDevice D, KernelDtype T, class G>
void enqueue_layer_norm_backward(const LayerContext<D>& on, In<T> x, In<T> w, In<float> mean,
                                 In<float> rstd, In<T> dy, In<T> residual, Tensor<G> dw,
                                 Tensor<G> db, Tensor<T> dx) {
  const std::size_t n = width_of(x), rows = rows_of(x);
  const LayerNormRows<T> of{.x = x.data,
                            .w = w.data,
                            .mean = mean.data,
                            .rstd = rstd.data,
                            .dy = dy.data,
                            .residual = residual.data,
                            .dx = dx.data,
                            .rows = rows,
                            .n = static_cast<unsigned>(n)};
  const bool aligned = rows_are_aligned(n, x.data, w.data, dy.data, residual.data, dx.data);
  const auto all_read = reads(x, w, mean, rstd, dy, residual);
  const auto rows_alone = [&] {
    with_row_way<T>(n, aligned, [&]<class Way>(Way way) {
      launch(on, all_read, writes(dx), "start layer norm's backward", grid_of_rows(way, rows),
             layer_norm_input_gradients<T, Way>, of);
    });
  };
  if (dw.data == nullptr && db.data == nullptr) return rows_alone();

  const std::size_t rows_of_part = pieces_of(rows, column_sum_parts);
  const std::size_t parts = pieces_of(rows, rows_of_part);
  const auto sums = part_of_scratch(on.scratch.sums, shape(parts, 2 * n), "layer norm's backward");
  const std::size_t packs = pieces_of(n, pack_count<T>);
  if (packs <= widest_summed_at_once) {
    launch(on, all_read, writes(dx, sums), "start layer norm's backward",
           {.x = parts, .threads = warps_summing_at_once * warp_threads},
           aligned ? layer_norm_gradients<T, true> : layer_norm_gradients<T, false>, of,
           rows_of_part, sums.data);
  } else {
    launch(on, reads(x, mean, rstd, dy), writes(sums), "start layer norm's sums of columns",
           {.x = pieces_of(packs, warp_threads), .y = parts, .threads = column_rows * warp_threads},
           aligned ? layer_norm_column_sums<T, true> : layer_norm_column_sums<T, false>, of,
           rows_of_part, sums.data);
    rows_alone();
  }
  launch(on, reads(sums, dw, db), writes(dw, db), "start layer norm's sums of columns",
         {.x = pieces_of(2 * n, warp_threads), .threads = parts_at_once * warp_threads},
         add_layer_norm_sums<G>, static_cast<const float*>(sums.data), static_cast<unsigned>(parts),
         of.n, dw.data, db.data);
}
}  // namespace detail

/// Normalizes each row to mean 0 and variance 1, then computes y = xhat w + b.
///
/// Shapes:  x, y (..., n); w, b (n,); mean, rstd (...,), kept for backward.
/// Cost:    x is read once where its rows are at multiples of 16 bytes, and no wider than a block's
///          registers hold, 16 KiB. The variance is taken about the mean in a second pass.
/// Source:  Ba, Kiros & Hinton, Layer Normalization, 2016.
template <KernelDevice D, detail::KernelDtype T>
void layer_norm_forward(const LayerContext<D>& on, In<T> x, In<T> w, In<T> b, Tensor<float> mean,
                        Tensor<float> rstd, Tensor<T> y) {
  const std::size_t n = detail::width_of(x), rows = detail::rows_of(x);
  const bool aligned = detail::rows_are_aligned(n, x.data, w.data, b.data, y.data);
  detail::with_row_way<T>(n, aligned, [&]<class Way>(Way way) {
    detail::launch(on, reads(x, w, b), writes(mean, rstd, y), "start layer norm",
                   detail::grid_of_rows(way, rows), detail::normalize_rows<T, Way>, x.data, w.data,
                   b.data, mean.data, rstd.data, y.data, rows, static_cast<unsigned>(n));
  });
}

/// Computes y = xhat w + b again from the saved statistics, so that y need not be saved: the same
/// bits as in forward.
template <KernelDevice D, detail::KernelDtype T>
void layer_norm_recompute(const LayerContext<D>& on, In<T> x, In<T> w, In<T> b, In<float> mean,
                          In<float> rstd, Tensor<T> y) {
  const std::size_t n = detail::width_of(x), rows = detail::rows_of(x);
  const auto with = [&]<class Way>(Way way) {
    detail::launch(on, reads(x, w, b, mean, rstd), writes(y), "start layer norm again",
                   detail::grid_of_rows(way, rows), detail::normalize_rows_again<T, Way>, x.data,
                   w.data, b.data, mean.data, rstd.data, y.data, rows, static_cast<unsigned>(n));
  };
  if (detail::rows_are_aligned(n, x.data, w.data, b.data, y.data))
    with(detail::RowWay<detail::warp_threads, 0, true>{});
  else
    with(detail::RowWay<detail::warp_threads, 0, false>{});
}

/// Adds the gradients of w and b, each left out where its data is null, and writes that of x.
///
/// Shapes:  x, dy, dx (..., n); w, dw, db (n,); mean, rstd (...,); scratch.sums of 2 n numbers for
///          each of column_sum_parts.
/// Order:   dw and db are summed in fp32 in an order that rows and n decide, and rounded once.
/// Cost:    rows of up to 128 packs of 16 bytes are read once, wider ones twice.
template <KernelDevice D, detail::KernelDtype T, class G>
void layer_norm_backward(const LayerContext<D>& on, In<T> x, In<T> w, In<float> mean,
                         In<float> rstd, In<T> dy, Tensor<G> dw, Tensor<G> db, Tensor<T> dx) {
  detail::enqueue_layer_norm_backward(on, x, w, mean, rstd, dy, Tensor<const T>{}, dw, db, dx);
}

/// As `layer_norm_backward`, and adds the gradient that went around the layer: dx = residual + ...
///
/// Shapes:  residual (..., n) may be dx itself.
template <KernelDevice D, detail::KernelDtype T, class G>
void layer_norm_residual_backward(const LayerContext<D>& on, In<T> x, In<T> w, In<float> mean,
                                  In<float> rstd, In<T> dy, In<T> residual, Tensor<G> dw,
                                  Tensor<G> db, Tensor<T> dx) {
  detail::enqueue_layer_norm_backward(on, x, w, mean, rstd, dy, residual, dw, db, dx);
}

}  // namespace shardexpr::nn
