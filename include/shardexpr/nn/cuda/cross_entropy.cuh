// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/fma.hpp>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/math.cuh>
#include <shardexpr/nn/cuda/reduce.cuh>
#include <shardexpr/nn/layer.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

// Cross-entropy on a GPU; on a CPU it is in nn/cpu/cross_entropy.hpp.
namespace shardexpr::nn {

namespace detail {

/// At most any logit that is finite, and finite itself: infinity less infinity is no number.
inline constexpr float lowest_logit = -3.4028235e38f;

/// -log softmax(row)[target] of a row, a block's; turns the row into softmax minus one-hot. Each
/// thread keeps the largest logit that it has met, and the sum of exponentials relative to that.
/// Source:  Milakov & Gimelshein, Online normalizer calculation for softmax, 2018.
template <class T, unsigned Threads, bool Aligned>
__global__ void __launch_bounds__(Threads)
    cross_entropy_of_rows(T* logits, std::size_t stride, unsigned vocabulary,
                          const std::int32_t* targets, float* losses) {
  constexpr unsigned count = pack_count<T>, step = Threads * count;
  __shared__ float largests[Threads / warp_threads], sums[Threads / warp_threads];
  T* const row = logits + blockIdx.x * stride;
  const auto target = static_cast<unsigned>(targets[blockIdx.x]);
  const float target_logit = static_cast<float>(row[target]);
  const unsigned mine = threadIdx.x * count;

  float largest = lowest_logit, sum = 0;
  const auto meet = [&](const float(&x)[count]) {
    float larger = largest, part = 0;
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < count; ++i) larger = fmaxf(larger, x[i]);
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < count; ++i) part += exp_approximately(x[i] - larger);
    sum = multiply_add(sum, exp_approximately(largest - larger), part);
    largest = larger;
  };
  unsigned at = mine;
  if constexpr (Aligned)
    for (; at + count <= vocabulary; at += step) {
      float x[count];
      load_values<true>(row, vocabulary, at, x);
      meet(x);
    }
  for (; at < vocabulary; at += step) {  // one by one what is left of the row
    float x[count];
    load_values<false>(row, vocabulary, at, x, -INFINITY);
    meet(x);
  }
  const float row_largest = reduce_block<Threads>(largest, Larger{}, lowest_logit, largests);
  sum = multiply_add(sum, exp_approximately(largest - row_largest), 0.0f);
  const float row_sum = reduce_block<Threads>(sum, Add{}, 0.0f, sums);
  const float factor = 1 / row_sum, right = target_logit - row_largest;
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(row_sum) - right;

  // Back from the end: what was read last may still be near.
  const auto finish = [&](float(&x)[count]) {
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < count; ++i) {
      const float e = exp_approximately(x[i] - row_largest);
      x[i] = at + i == target ? multiply_add(e, factor, -1.0f) : e * factor;
    }
  };
  while (at > mine) {
    at -= step;
    float x[count];
    if (Aligned && at + count <= vocabulary) {
      load_values<Aligned>(row, vocabulary, at, x);
      finish(x);
      store_values<Aligned>(row, vocabulary, at, x);
    } else {
      load_values<false>(row, vocabulary, at, x, -INFINITY);
      finish(x);
      store_values<false>(row, vocabulary, at, x);
    }
  }
}

inline constexpr unsigned mean_threads = 1024;

/// The mean of the rows' losses, by one block, in double.
template <class Loss>
__global__ void __launch_bounds__(mean_threads)
    mean_of_losses(const Loss* losses, std::size_t rows, Loss* mean) {
  __shared__ double sums[mean_threads / warp_threads];
  double sum = 0;
  for (std::size_t r = threadIdx.x; r < rows; r += mean_threads)
    sum += static_cast<double>(losses[r]);
  sum = reduce_block<mean_threads>(sum, Add{}, 0.0, sums);
  if (threadIdx.x == 0) *mean = static_cast<Loss>(sum / static_cast<double>(rows));
}

template <class T, unsigned Threads>
auto cross_entropy_kernel(bool aligned) {
  return aligned ? cross_entropy_of_rows<T, Threads, true>
                 : cross_entropy_of_rows<T, Threads, false>;
}
}  // namespace detail

/// Computes loss = the mean over rows of -log softmax(logits)[target], and turns the logits into
/// softmax minus one-hot: the gradient, but for the factor that only backward knows.
///
/// Shapes:  logits (..., >= V), of whose rows the first V are read and written; targets (rows,), as
///          `bring_tokens` returned them; loss (); scratch.sums a number for each row. The
///          vocabulary is V.
/// Cost:    two exponentials a logit. A row is read once from memory, and once more from the cache.
template <KernelDevice D, detail::KernelDtype T>
void cross_entropy_forward(const LayerContext<D>& on, Tensor<T> logits, std::size_t vocabulary,
                           const std::int32_t* targets, Tensor<float> loss) {
  const std::size_t stride = detail::width_of(logits), rows = detail::rows_of(logits);
  const auto losses = detail::part_of_scratch(on.scratch.sums, shape(rows), "cross-entropy");
  const bool aligned = detail::rows_are_aligned(stride, logits.data);
  constexpr unsigned many = 512, few = 128;  // decided by the width alone: it orders the sums
  const bool is_wide = detail::pieces_of(vocabulary, detail::pack_count<T>) >= many;
  detail::launch(on, reads(logits, std::span{targets, rows}), writes(logits, losses),
                 "start cross-entropy", {.x = rows, .threads = is_wide ? many : few},
                 is_wide ? detail::cross_entropy_kernel<T, many>(aligned)
                         : detail::cross_entropy_kernel<T, few>(aligned),
                 logits.data, stride, static_cast<unsigned>(vocabulary), targets, losses.data);
  detail::launch(on, reads(losses), writes(loss), "start the mean of losses",
                 {.threads = detail::mean_threads}, detail::mean_of_losses<float>,
                 static_cast<const float*>(losses.data), rows, loss.data);
}

}  // namespace shardexpr::nn
