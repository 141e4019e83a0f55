// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/concepts.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <span>

namespace shardexpr {

/// What a reduction leaves: the sum over ranks, or the sum times 1/W.
enum class Reduction { sum, mean };

/// Bytes that one rank sends, by collective, counted as a bandwidth-optimal (ring) algorithm sends
/// them: plans do not depend on the transport, and a transport that shares memory sends less.
struct Traffic {
  std::size_t all_gather_bytes = 0;  ///< `all_gather` and `gather`
  std::size_t reduce_scatter_bytes = 0;
  std::size_t all_reduce_bytes = 0;
  std::size_t broadcast_bytes = 0;  ///< counted on the root alone
  std::size_t all_to_all_bytes = 0;

  /// Of all collectives together.
  constexpr std::size_t total() const {
    return all_gather_bytes + reduce_scatter_bytes + all_reduce_bytes + broadcast_bytes +
           all_to_all_bytes;
  }
  friend constexpr bool operator==(const Traffic&, const Traffic&) = default;
  /// What was sent through two communicators.
  friend constexpr Traffic operator+(const Traffic& a, const Traffic& b) {
    return {a.all_gather_bytes + b.all_gather_bytes,
            a.reduce_scatter_bytes + b.reduce_scatter_bytes,
            a.all_reduce_bytes + b.all_reduce_bytes, a.broadcast_bytes + b.broadcast_bytes,
            a.all_to_all_bytes + b.all_to_all_bytes};
  }
  /// What was sent between two readings.
  friend constexpr Traffic operator-(const Traffic& a, const Traffic& b) {
    return {a.all_gather_bytes - b.all_gather_bytes,
            a.reduce_scatter_bytes - b.reduce_scatter_bytes,
            a.all_reduce_bytes - b.all_reduce_bytes, a.broadcast_bytes - b.broadcast_bytes,
            a.all_to_all_bytes - b.all_to_all_bytes};
  }

  /// Counts a call of `all_gather` or `gather`, each rank's part being `shard_bytes`.
  constexpr void add_all_gather(std::size_t world, std::size_t shard_bytes) {
    all_gather_bytes += (world - 1) * shard_bytes;
  }
  /// Counts a call of `reduce_scatter`, each rank's part of the sum being `shard_bytes`.
  constexpr void add_reduce_scatter(std::size_t world, std::size_t shard_bytes) {
    reduce_scatter_bytes += (world - 1) * shard_bytes;
  }
  /// Counts a call of `all_reduce` of `count` values.
  constexpr void add_all_reduce(std::size_t world, std::size_t count, std::size_t element_bytes) {
    all_reduce_bytes += 2 * (world - 1) * ceil_div(count, world) * element_bytes;
  }
  /// Counts a call of `broadcast`, on the root.
  constexpr void add_broadcast(std::size_t world, std::size_t size_bytes) {
    broadcast_bytes += (world - 1) * size_bytes;
  }
  /// Counts a call of `all_to_all`, `piece_bytes` going to each rank.
  constexpr void add_all_to_all(std::size_t world, std::size_t piece_bytes) {
    all_to_all_bytes += (world - 1) * piece_bytes;
  }
};

/// Each rank knows its number, below `size()`, and what it sent.
template <class C>
concept HasRank = requires(const C& comm) {
  { comm.rank() } -> std::same_as<std::size_t>;
  { comm.size() } -> std::same_as<std::size_t>;
  { comm.traffic() } -> std::same_as<const Traffic&>;
};

/// shard (n,) -> full (W*n,), in rank order. In place where shard is full's own slice.
template <class C, class D>
concept CanAllGather = requires(C& comm, const Context<D>& ctx, std::span<const float> shard,
                                std::span<float> full) {
  comm.all_gather(ctx, shard, full);
};

/// shard (n,) -> full (W*n,), where full lies in a buffer that `gather_buffer` gave. A communicator
/// whose ranks share memory then writes each shard once for all ranks, and says so to the plan:
/// `gather_is_shared` means that the ranks of a machine have one buffer, and each pays its part.
template <class C, class D>
concept CanGather = requires(C& comm, D& device, const Context<D>& ctx,
                             std::span<const float> shard, std::span<float> full) {
  { comm.template gather_buffer<float>(device, std::size_t{1}).data() } -> std::same_as<float*>;
  {
    comm.template gather_buffer<float>(device, std::size_t{1}).span()
    } -> std::same_as<std::span<float>>;
  comm.gather(ctx, shard, full);
};

/// full (W*n,) -> shard (n,): the sum over ranks of slice `rank`, in rank order.
template <class C, class D>
concept CanReduceScatter = requires(C& comm, const Context<D>& ctx, std::span<const float> full,
                                    std::span<float> shard) {
  comm.reduce_scatter(ctx, full, shard, Reduction::mean);
};

/// values (n,) -> values (n,), any n: the bits of reduce_scatter followed by all_gather.
template <class C, class D>
concept CanAllReduce = requires(C& comm, const Context<D>& ctx, std::span<float> values) {
  comm.all_reduce(ctx, values, Reduction::sum);
};

/// values (n,) of rank `root` -> values (n,) of every rank.
template <class C, class D>
concept CanBroadcast = requires(C& comm, const Context<D>& ctx, std::span<float> values) {
  comm.broadcast(ctx, values, std::size_t{0});
};

/// from (W*n,) -> to (W*n,): piece p of rank r becomes piece r of rank p.
template <class C, class D>
concept CanAllToAll = requires(C& comm, const Context<D>& ctx, std::span<const float> from,
                               std::span<float> to) {
  comm.all_to_all(ctx, from, to);
};

/// No rank goes on before every rank has come.
template <class C, class D>
concept CanBarrier = requires(C& comm, const Context<D>& ctx) {
  comm.barrier(ctx);
};

/// A communicator of the ranks with an equal color, ordered by (key, rank), as MPI_Comm_split.
template <class C>
concept CanSplit = requires(C& comm) {
  { comm.split(0, 0) } -> std::same_as<C>;
};

/// Holds what `reduction_room_bytes` counts, for as long as the result lives.
template <class T, class C, class D>
[[nodiscard]] std::shared_ptr<void> reserve_reductions([[maybe_unused]] C& comm,
                                                       [[maybe_unused]] D& device,
                                                       [[maybe_unused]] std::size_t count) {
  if constexpr (requires { comm.template reserve<T>(device, count); })
    return comm.template reserve<T>(device, count);
  else
    return nullptr;
}

/// (count,) of full gradients that are to be reduced over `comm`, zeroed, as
/// Purpose::full_gradients: where peers read them in place, if `comm` has such memory. Every rank
/// calls it.
template <class T, class C, class D>
auto reduction_memory([[maybe_unused]] C& comm, D& device, std::size_t count) {
  if constexpr (requires { comm.template reduction_buffer<T>(device, count); })
    return comm.template reduction_buffer<T>(device, count);
  else
    return device.template allocate<T>(count, Purpose::full_gradients);
}

/// Ranks that call the same collectives in the same order, each enqueued on a stream of a `D` and
/// ordered by it. Reductions do not depend on timing: they add in rank order, or say otherwise, and
/// form sums of 16-bit elements in fp32.
template <class C, class D>
concept Communicator = Device<D> && HasRank<C> && CanAllGather<C, D> && CanGather<C, D> &&
    CanReduceScatter<C, D> && CanAllReduce<C, D> && CanBroadcast<C, D> && CanAllToAll<C, D> &&
    CanBarrier<C, D> && CanSplit<C>;

}  // namespace shardexpr
