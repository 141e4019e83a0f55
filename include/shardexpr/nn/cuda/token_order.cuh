// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/math.cuh>
#include <shardexpr/nn/cuda/reduce.cuh>
#include <shardexpr/nn/layer.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

// The places of a batch in the order of their tokens, those of one token in the order of the batch:
// a radix sort by counting. Whole numbers are counted, so the result is one whatever is counted
// first.
namespace shardexpr::nn::detail {

inline constexpr unsigned order_threads = order_digits;

/// The i-th place of `order`, which is that of the batch where it is null.
template <class Number>
__device__ inline Number place_at(const Number* order, std::size_t i) {
  return order == nullptr ? static_cast<Number>(i) : order[i];
}

/// counts (digits, tiles): how often each digit occurs in each tile of `order_threads` places.
template <class Number>
__global__ void __launch_bounds__(order_threads)
    count_digits(const Number* tokens, const Number* order, std::size_t count, unsigned shift,
                 Number* counts) {
  __shared__ Number seen[order_digits];
  seen[threadIdx.x] = 0;
  __syncthreads();
  const std::size_t i = std::size_t{blockIdx.x} * order_threads + threadIdx.x;
  if (i < count) atomicAdd(&seen[(tokens[place_at(order, i)] >> shift) % order_digits], Number{1});
  __syncthreads();
  counts[std::size_t{threadIdx.x} * gridDim.x + blockIdx.x] = seen[threadIdx.x];
}

/// Turns the counts of a digit, a warp's, into those of all tiles before, and totals them.
template <class Number>
__global__ void __launch_bounds__(order_threads)
    count_before(Number* counts, std::size_t tiles, Number* totals) {
  const unsigned lane = threadIdx.x % warp_threads;
  const unsigned digit = (blockIdx.x * order_threads + threadIdx.x) / warp_threads;
  Number* const of_digit = counts + digit * tiles;
  Number before = 0;
  for (std::size_t first = 0; first < tiles; first += warp_threads) {
    const bool is_there = first + lane < tiles;
    const Number mine = is_there ? of_digit[first + lane] : 0;
    const Number in_these = sum_of_lanes_before(mine);
    if (is_there) of_digit[first + lane] = before + in_these;
    before += __shfl_sync(0xffffffffu, in_these + mine, warp_threads - 1);
  }
  if (lane == 0) totals[digit] = before;
}

/// Writes the places of a tile, a block's, where they belong by this digit, behind those of the
/// same digit that came before.
template <class Number>
__global__ void __launch_bounds__(order_threads)
    put_in_order(const Number* tokens, const Number* order, std::size_t count, unsigned shift,
                 const Number* counts, const Number* totals, Number* ordered) {
  __shared__ Number of_warps[order_threads / warp_threads];
  __shared__ Number first[order_digits], digits[order_threads];
  first[threadIdx.x] = sum_of_threads_before<order_threads>(totals[threadIdx.x], of_warps) +
                       counts[std::size_t{threadIdx.x} * gridDim.x + blockIdx.x];
  const std::size_t i = std::size_t{blockIdx.x} * order_threads + threadIdx.x;
  const bool is_there = i < count;
  const Number place = is_there ? place_at(order, i) : 0;
  const Number digit = is_there ? (tokens[place] >> shift) % static_cast<Number>(order_digits) : 0;
  digits[threadIdx.x] = digit;
  __syncthreads();
  if (!is_there) return;
  Number before = 0;
  for (unsigned t = 0; t < threadIdx.x; ++t) before += digits[t] == digit ? 1 : 0;
  ordered[first[digit] + before] = place;
}

/// Enqueues that, and returns the order: (count,) of `scratch.order`, made as `embedding_scratch`
/// says.
template <KernelDevice D>
Tensor<const std::int32_t> order_by_token(const LayerContext<D>& on, const std::int32_t* tokens,
                                          std::size_t count, std::size_t vocabulary,
                                          const EmbeddingScratch<Tensor>& scratch) {
  using Number = std::int32_t;
  const std::size_t tiles = pieces_of(count, order_threads);
  Number* const memory =
      part_of_scratch(scratch.order, shape(2 * count + order_digits * (tiles + 1)),
                      "the ordering of tokens")
          .data;
  const Tensor<Number> counts{memory + 2 * count, shape(order_digits, tiles)};
  const Tensor<Number> totals{counts.data + counts.count(), shape(order_digits)};
  const std::span<const Number> all{tokens, count};
  const char* what = "start the ordering of tokens";
  Tensor<Number> from, to{memory, shape(count)};  // from null: as they come
  for (unsigned shift = 0;; shift += 8) {
    const auto* order = static_cast<const Number*>(from.data);
    launch(on, reads(all, from), writes(counts), what, {.x = tiles, .threads = order_threads},
           count_digits<Number>, tokens, order, count, shift, counts.data);
    launch(on, reads(counts), writes(counts, totals), what,
           {.x = order_digits * warp_threads / order_threads, .threads = order_threads},
           count_before<Number>, counts.data, tiles, totals.data);
    launch(on, reads(all, from, counts, totals), writes(to), what,
           {.x = tiles, .threads = order_threads}, put_in_order<Number>, tokens, order, count,
           shift, static_cast<const Number*>(counts.data), static_cast<const Number*>(totals.data),
           to.data);
    if ((vocabulary - 1) >> shift < order_digits) return to;
    from = to;
    to.data = to.data == memory ? memory + count : memory;
  }
}

}  // namespace shardexpr::nn::detail
