// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/nn/cuda/math.cuh>
#include <shardexpr/nn/cuda/reduce.cuh>
#include <shardexpr/nn/layer.hpp>

#include <cmath>
#include <cstddef>

// Kernels of layer norm. Which columns a thread sums up, and in which order, follows from the width
// alone: neither where rows lie nor how they are read changes a bit.
namespace shardexpr::nn::detail {

/// How threads share a row: `Threads` of them, the packs dealt out in turns. Of each a thread holds
/// up to `Held` in registers; of rows beyond that, 0, it reads them again each time.
template <unsigned Threads_, unsigned Held_, bool Aligned_>
struct RowWay {
  static constexpr unsigned threads = Threads_, held = Held_;
  static constexpr bool aligned = Aligned_;
  static constexpr unsigned block = threads < 128 ? 128 : threads, rows = block / threads;
};

/// Rows of up to this many packs are a warp's; wider ones a block's.
inline constexpr unsigned widest_of_warp = 8 * warp_threads;
inline constexpr unsigned wide_row_threads = 256;

/// Calls each(j, at) for the packs of thread `thread`: the j-th begins at column `at`.
template <class T, class Way, class Each>
__device__ inline void for_each_pack(unsigned n, unsigned thread, Each each) {
  constexpr unsigned count = pack_count<T>;
  if constexpr (Way::held > 0) {
    SHARDEXPR_UNROLL
    for (unsigned j = 0; j < Way::held; ++j) {
      const unsigned at = (thread + j * Way::threads) * count;
      if (at < n) each(j, at);
    }
  } else {
    for (unsigned at = thread * count; at < n; at += Way::threads * count) each(0, at);
  }
}

/// One thread's packs of a row; of null, zeros.
template <class T, class Way>
struct RowOfThread {
  const T* row;
  unsigned n;
  RowPack<T> pack[Way::held > 0 ? Way::held : 1];

  __device__ RowOfThread(const T* rows, std::size_t r, unsigned width, unsigned thread)
      : row{rows == nullptr ? nullptr : rows + r * width}, n{width} {
    if constexpr (Way::held > 0)
      for_each_pack<T, Way>(n, thread, [this](unsigned j, unsigned at) { pack[j] = read(at); });
  }
  __device__ void values(unsigned j, unsigned at, float (&to)[pack_count<T>]) const {
    if constexpr (Way::held > 0)
      widen(pack[j], to);
    else
      widen(read(at), to);
  }

 private:
  __device__ RowPack<T> read(unsigned at) const {
    return row == nullptr ? RowPack<T>{} : load_pack<Way::aligned>(row, n, at);
  }
};

template <class Way>
__device__ inline float sum_of_row(float part, float (&between)[Way::threads / warp_threads]) {
  return reduce_block<Way::threads>(part, Add{}, 0.0f, between);
}

template <bool Aligned, class T>
__device__ inline void normalize_pack(const float (&x)[pack_count<T>], float mean, float rstd,
                                      const T* w, const T* b, unsigned n, unsigned at, T* y) {
  constexpr unsigned count = pack_count<T>;
  float scale[count], shift[count];
  load_values<Aligned>(w, n, at, scale);
  load_values<Aligned>(b, n, at, shift);
  SHARDEXPR_UNROLL
  for (unsigned i = 0; i < count; ++i)
    scale[i] = multiply_add((x[i] - mean) * rstd, scale[i], shift[i]);
  store_values<Aligned>(y, n, at, scale);
}

template <class T, class Way>
__global__ void __launch_bounds__(Way::block)
    normalize_rows(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
                   float* __restrict__ mean, float* __restrict__ rstd, T* __restrict__ y,
                   std::size_t rows, unsigned n) {
  constexpr unsigned count = pack_count<T>;
  __shared__ float sums[Way::threads / warp_threads], squares[Way::threads / warp_threads];
  const std::size_t r = std::size_t{blockIdx.x} * Way::rows + threadIdx.x / Way::threads;
  const unsigned thread = threadIdx.x % Way::threads;
  if (r >= rows) return;  // with its whole warp; a block of one row has it
  const RowOfThread<T, Way> row{x, r, n, thread};

  float sum = 0;
  for_each_pack<T, Way>(n, thread, [&](unsigned j, unsigned at) {
    float v[count];
    row.values(j, at, v);
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < count; ++i) sum += v[i];
  });
  const float row_mean = sum_of_row<Way>(sum, sums) / static_cast<float>(n);
  float about = 0;
  for_each_pack<T, Way>(n, thread, [&](unsigned j, unsigned at) {
    float v[count];
    row.values(j, at, v);
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < count; ++i) {
      const bool is_there = Way::aligned || at + i < n;
      const float d = is_there ? v[i] - row_mean : 0.0f;
      about = multiply_add(d, d, about);
    }
  });
  const float variance = sum_of_row<Way>(about, squares) / static_cast<float>(n);
  const float row_rstd = 1 / sqrtf(variance + static_cast<float>(layer_norm_epsilon));
  if (thread == 0) {
    mean[r] = row_mean;
    rstd[r] = row_rstd;
  }
  for_each_pack<T, Way>(n, thread, [&](unsigned j, unsigned at) {
    float v[count];
    row.values(j, at, v);
    normalize_pack<Way::aligned>(v, row_mean, row_rstd, w, b, n, at, y + r * n);
  });
}

template <class T, class Way>
__global__ void __launch_bounds__(Way::block)
    normalize_rows_again(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
                         const float* __restrict__ mean, const float* __restrict__ rstd,
                         T* __restrict__ y, std::size_t rows, unsigned n) {
  const std::size_t r = std::size_t{blockIdx.x} * Way::rows + threadIdx.x / Way::threads;
  if (r >= rows) return;
  const float row_mean = mean[r], row_rstd = rstd[r];
  for_each_pack<T, Way>(n, threadIdx.x % Way::threads, [&](unsigned, unsigned at) {
    float v[pack_count<T>];
    load_values<Way::aligned>(x + r * n, n, at, v);
    normalize_pack<Way::aligned>(v, row_mean, row_rstd, w, b, n, at, y + r * n);
  });
}

/// What backward reads of all rows, and where dx goes; `residual` may be null, or dx itself.
template <class T>
struct LayerNormRows {
  const T *x, *w;
  const float *mean, *rstd;
  const T *dy, *residual;
  T* dx;
  std::size_t rows;
  unsigned n;
};

/// One row of dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy w, plus the residual. Tells
/// column(j, i, dy, xhat) of each element: the i-th of the thread's j-th pack.
template <class T, class Way, class Column>
__device__ inline void layer_norm_dx(const LayerNormRows<T>& of, std::size_t r, unsigned thread,
                                     float (&sums)[2][Way::threads / warp_threads], Column column) {
  constexpr unsigned count = pack_count<T>;
  const unsigned n = of.n;
  const RowOfThread<T, Way> x{of.x, r, n, thread}, dy{of.dy, r, n, thread},
      residual{of.residual, r, n, thread};  // all under way at once
  const float mean = of.mean[r], rstd = of.rstd[r];

  float g_sum = 0, gx_sum = 0;
  for_each_pack<T, Way>(n, thread, [&](unsigned j, unsigned at) {
    float v[count], d[count], w[count];
    x.values(j, at, v);
    dy.values(j, at, d);
    load_values<Way::aligned>(of.w, n, at, w);
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < count; ++i) {  // beyond the end dy is 0
      const float xhat = (v[i] - mean) * rstd;
      g_sum = multiply_add(d[i], w[i], g_sum);
      gx_sum = multiply_add(d[i] * w[i], xhat, gx_sum);
      column(j, i, d[i], xhat);
    }
  });
  const float g_mean = sum_of_row<Way>(g_sum, sums[0]) / static_cast<float>(n);
  const float gx_mean = sum_of_row<Way>(gx_sum, sums[1]) / static_cast<float>(n);
  for_each_pack<T, Way>(n, thread, [&](unsigned j, unsigned at) {
    float v[count], d[count], w[count], around[count];
    x.values(j, at, v);
    dy.values(j, at, d);
    residual.values(j, at, around);
    load_values<Way::aligned>(of.w, n, at, w);
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < count; ++i) {
      const float xhat = (v[i] - mean) * rstd;
      d[i] = multiply_add(-xhat, gx_mean, multiply_add(d[i], w[i], -g_mean));
      d[i] = multiply_add(rstd, d[i], around[i]);
    }
    store_values<Way::aligned>(of.dx + r * n, n, at, d);
  });
}

template <class T, class Way>
__global__ void __launch_bounds__(Way::block) layer_norm_input_gradients(LayerNormRows<T> of) {
  __shared__ float sums[2][Way::threads / warp_threads];
  const std::size_t r = std::size_t{blockIdx.x} * Way::rows + threadIdx.x / Way::threads;
  if (r >= of.rows) return;
  layer_norm_dx<T, Way>(of, r, threadIdx.x % Way::threads, sums,
                        [](unsigned, unsigned, float, float) {});
}

}  // namespace shardexpr::nn::detail
