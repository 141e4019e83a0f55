// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/quantized_block.hpp>
#include <shardexpr/device/concepts.hpp>

#include <cstddef>
#include <span>

// Collectives that send blocks of codes, over any communicator. Blocks travel as bytes, in memory
// that the caller gives; a kernel is a functor called for each block.

namespace shardexpr {

namespace detail {

template <std::size_t bits, class T>
struct QuantizeBlocks {
  static constexpr bool is_loop = true;
  const T* from;
  QuantizedBlock<bits>* to;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t b) const {
    quantize<bits>(from + b * block_elements, to[b]);
  }
};

template <std::size_t bits, class T>
struct DequantizeBlocks {
  static constexpr bool is_loop = true;
  const QuantizedBlock<bits>* from;
  T* to;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t b) const {
    T* out = to + b * block_elements;
    for_each_value(from[b],
                   [=](std::size_t i, fp32 value) { store(out[i], static_cast<T>(value)); });
  }
};

/// Adds up rows of blocks in fp32, in their order. Products of codes and scales are exact, so that
/// contraction changes nothing.
template <std::size_t bits, class T>
struct SumBlocks {
  static constexpr bool is_loop = true;
  const QuantizedBlock<bits>* rows;
  std::size_t row_count, row_blocks;
  fp32 factor;
  T* to;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t b) const {
    fp32 sum[block_elements];
    for_each_value(rows[b], [&](std::size_t i, fp32 value) { sum[i] = value; });
    for (std::size_t r = 1; r < row_count; ++r)
      for_each_value(rows[r * row_blocks + b], [&](std::size_t i, fp32 value) { sum[i] += value; });
    T* out = to + b * block_elements;
    for (std::size_t i = 0; i < block_elements; ++i) store(out[i], static_cast<T>(sum[i] * factor));
  }
};

}  // namespace detail

/// Shapes:  from (n,), n a multiple of 64 -> to (n/64,).
template <std::size_t bits, class T, class D>
void quantize(const Context<D>& ctx, std::span<const T> from, std::span<QuantizedBlock<bits>> to) {
  ctx.for_each(to.size(), reads(from), writes(to),
               detail::QuantizeBlocks<bits, T>{from.data(), to.data()});
}

/// Shapes:  from (n/64,) -> to (n,), rounded to T.
template <std::size_t bits, class T, class D>
void dequantize(const Context<D>& ctx, std::span<const QuantizedBlock<bits>> from,
                std::span<T> to) {
  ctx.for_each(from.size(), reads(from), writes(to),
               detail::DequantizeBlocks<bits, T>{from.data(), to.data()});
}

/// Every rank's blocks -> the values of all, the same bits on every rank, this one's own among
/// them.
///
/// Shapes:  part (n/64,) -> blocks (W*n/64,) -> full (W*n,), in rank order; part may be blocks'
///          slice of this rank. `blocks` and `full` lie in buffers that `gather_buffer` gave.
/// Order:   when a rank comes, it has done with the old content of `full`.
/// Cost:    sends (W-1) * n/64 blocks. Where ranks share one buffer, each writes its own values
///          and a part of those from elsewhere, and a barrier ends the call; else each writes all.
template <std::size_t bits, class T, class C, class D>
void gather_quantized(C& comm, const Context<D>& ctx, std::span<const QuantizedBlock<bits>> part,
                      std::span<QuantizedBlock<bits>> blocks, std::span<T> full) {
  comm.gather(ctx, std::as_bytes(part), std::as_writable_bytes(blocks));
  if constexpr (C::gather_is_shared) {
    // Named as written in full: between the gather and the barrier peers write the rest.
    const std::size_t count = part.size();
    const auto write = [&](std::span<const QuantizedBlock<bits>> from, std::size_t rank) {
      ctx.for_each(count, reads(from), writes(full),
                   detail::DequantizeBlocks<bits, T>{from.data(),
                                                     full.data() + rank * count * block_elements});
    };
    write(part, comm.rank());
    if constexpr (requires { comm.gets_from_elsewhere(comm.rank()); })
      for (std::size_t rank = 0; rank < comm.size(); ++rank)
        if (comm.gets_from_elsewhere(rank)) write(blocks.subspan(rank * count, count), rank);
    comm.barrier(ctx);
  } else {
    dequantize(ctx, std::span<const QuantizedBlock<bits>>{blocks}, full);
  }
}

/// Each rank rounds its `full` once, and gets of every rank, itself among them, the blocks of its
/// own slice, which it adds up in fp32, in rank order; a mean is that sum times 1/W.
///
/// Shapes:  full (W*n,) -> shard (n,), which may be full's slice; sent, received (W*n/64,).
/// Cost:    sends (W-1) * n/64 blocks.
template <std::size_t bits, class T, class C, class D>
void reduce_scatter_quantized(C& comm, const Context<D>& ctx, std::span<const T> full,
                              std::span<T> shard, std::span<QuantizedBlock<bits>> sent,
                              std::span<QuantizedBlock<bits>> received, Reduction reduction) {
  quantize(ctx, full, sent);
  comm.all_to_all(ctx, std::as_bytes(std::span<const QuantizedBlock<bits>>{sent}),
                  std::as_writable_bytes(received));
  const fp32 factor = reduction == Reduction::sum ? 1 : 1 / static_cast<fp32>(comm.size());
  const std::size_t blocks = block_count(shard.size());
  ctx.for_each(
      blocks, reads(received), writes(shard),
      detail::SumBlocks<bits, T>{received.data(), comm.size(), blocks, factor, shard.data()});
}

}  // namespace shardexpr
