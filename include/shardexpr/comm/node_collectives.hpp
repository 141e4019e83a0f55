// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/mpi_node.hpp>
#include <shardexpr/comm/rank_sum.hpp>
#include <shardexpr/comm/reduction_room.hpp>
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/cpu_copy.hpp>

#include <algorithm>
#include <cstddef>
#include <span>

// Collectives of processes of one machine, by the memory that they share. Each is called when the
// ranks have met.

namespace shardexpr::detail::node {

template <class T>
void copy(std::span<const T> from, T* to) {
  if (from.data() != to) copy_bytes(to, from.data(), from.size_bytes());
}
/// To where peers read.
template <class T>
void copy_to_peers(std::span<const T> from, T* to) {
  if (from.data() != to) copy_bytes(to, from.data(), from.size_bytes(), streaming_share_bytes);
}
/// Elements [at, at + step) of `values`, as far as there are any.
template <class T>
std::span<T> window_of(std::span<T> values, std::size_t at, std::size_t step) {
  const std::size_t begin = std::min(at, values.size());
  return values.subspan(begin, std::min(step, values.size() - begin));
}
/// Elements of a stage that is cut into `rows` rows.
template <class T>
constexpr std::size_t row_elements(std::size_t rows) {
  return std::max<std::size_t>(
      MpiNode::stage_bytes / sizeof(T) / rows / block_elements * block_elements, 1);
}
template <class T>
T* row(MpiNode& node, std::size_t peer, std::size_t number, std::size_t elements) {
  return reinterpret_cast<T*>(node.stage(peer)) + number * elements;
}

/// shard (n,) -> full (W*n,), each rank's own.
template <class T>
void all_gather(MpiNode& node, std::span<const T> shard, std::span<T> full) {
  const std::size_t step = row_elements<T>(1), n = shard.size();
  copy(shard, full.data() + node.rank() * n);
  if (node.size() == 1) return;
  for (std::size_t at = 0; at < n; at += step) {
    const std::size_t count = std::min(step, n - at);
    copy_to_peers(shard.subspan(at, count), row<T>(node, node.rank(), 0, step));
    node.sync();
    for (std::size_t peer = 0; peer < node.size(); ++peer)
      if (peer != node.rank())
        copy<T>({row<T>(node, peer, 0, step), count}, full.data() + peer * n + at);
    node.turn();
  }
}

/// values (n,) of the node's rank `root` -> all.
template <class T>
void broadcast(MpiNode& node, std::span<T> values, std::size_t root) {
  if (node.size() == 1) return;
  const std::size_t step = row_elements<T>(1);
  for (std::size_t at = 0; at < values.size(); at += step) {
    const std::span<T> part = window_of(values, at, step);
    if (node.rank() == root) copy_to_peers<T>(part, row<T>(node, root, 0, step));
    node.sync();
    if (node.rank() != root) copy<T>({row<T>(node, root, 0, step), part.size()}, part.data());
    node.turn();
  }
}

/// from (W*n,) -> to (W*n,): piece p of rank r becomes piece r of rank p.
template <class T>
void all_to_all(MpiNode& node, std::span<const T> from, std::span<T> to) {
  const std::size_t world = node.size(), n = to.size() / world, step = row_elements<T>(world);
  const std::size_t rank = node.rank();
  copy(from.subspan(rank * n, n), to.data() + rank * n);
  if (world == 1) return;
  for (std::size_t at = 0; at < n; at += step) {
    const std::size_t count = std::min(step, n - at);
    for (std::size_t peer = 0; peer < world; ++peer)
      if (peer != rank)
        copy_to_peers(from.subspan(peer * n + at, count), row<T>(node, rank, peer, step));
    node.sync();
    for (std::size_t peer = 0; peer < world; ++peer)
      if (peer != rank) copy<T>({row<T>(node, peer, rank, step), count}, to.data() + peer * n + at);
    node.turn();
  }
}

/// Elements [begin, begin + to.size()) of this rank's slice of `full`, added up over the ranks of
/// the communicator in their order. What this node's ranks have is read where it lies if it lies
/// `in_windows`; `other(rank)` is what another node's rank sent of the same elements.
///
/// Shapes:  full (W*slice,) -> to (count,), which may be the same elements of `full`.
template <class T, class Other>
void sum_slices(MpiNode& node, std::size_t world, std::span<const T> full, std::size_t slice,
                std::size_t begin, std::span<T> to, SumOf<T> scale, bool in_windows, Other other) {
  const std::size_t me = node.member(node.rank());
  const auto add = [&](std::size_t at, std::span<T> sum, auto here) {
    sum_rows<T>(world, sum.size(), scale, sum.data(), [&](std::size_t rank) {
      return node.nodes().has(rank) ? here(node.nodes().place_of[rank]) : other(rank) + at;
    });
  };
  if (in_windows || node.size() == 1)
    return add(0, to, [&](std::size_t peer) -> const T* {
      const std::size_t of_slice = me * slice + begin;
      if (peer == node.rank()) return full.data() + of_slice;
      return reinterpret_cast<const T*>(node.at(peer, node.place(peer))) + of_slice;
    });
  const std::size_t step = row_elements<T>(node.size());
  for (std::size_t at = 0; at < to.size(); at += step) {
    const std::span<T> sum = window_of(to, at, step);
    for (std::size_t peer = 0; peer < node.size(); ++peer)
      if (peer != node.rank())
        copy_to_peers(full.subspan(node.member(peer) * slice + begin + at, sum.size()),
                      row<T>(node, node.rank(), peer, step));
    node.sync();
    add(at, sum, [&](std::size_t peer) -> const T* {
      if (peer == node.rank()) return full.data() + me * slice + begin + at;
      return row<T>(node, peer, node.rank(), step);
    });
    node.turn();
  }
}

/// values (n,), every rank's where its peers read and write them: each rank adds up a part and
/// gives it to all.
template <class T>
void sum_to_all_in_windows(MpiNode& node, std::span<T> values, SumOf<T> scale) {
  const std::size_t world = node.size();
  const std::size_t slice = round_up(ceil_div(values.size(), world), block_elements);
  const auto of = [&](std::size_t peer) {
    return reinterpret_cast<T*>(node.at(peer, node.place(peer)));
  };
  const std::size_t begin = std::min(values.size(), node.rank() * slice);
  const std::size_t end = std::min(values.size(), begin + slice);
  alignas(cache_line_bytes) T sum[sum_block];  // block by block while it is in cache
  for (std::size_t at = begin; at < end; at += sum_block) {
    const std::size_t n = std::min(sum_block, end - at);
    sum_rows<T>(world, n, scale, sum, [&](std::size_t peer) -> const T* { return of(peer) + at; });
    for (std::size_t peer = 0; peer < world; ++peer) copy<T>({sum, n}, of(peer) + at);
  }
  node.sync();
}

/// The same where values lie anywhere.
template <class T>
void sum_to_all(MpiNode& node, std::span<T> values, SumOf<T> scale) {
  const std::size_t world = node.size(), rank = node.rank(), step = row_elements<T>(world);
  const std::size_t slice = ceil_div(values.size(), world);
  const auto of = [&](std::size_t peer, std::size_t at) {
    return window_of(part_of(values, slice, peer), at, step);
  };
  for (std::size_t at = 0; at < slice; at += step) {
    for (std::size_t peer = 0; peer < world; ++peer)
      if (peer != rank) copy_to_peers<T>(of(peer, at), row<T>(node, rank, peer, step));
    node.sync();
    const std::span<T> own = of(rank, at);
    if (!own.empty())
      sum_rows<T>(world, own.size(), scale, own.data(), [&](std::size_t peer) -> const T* {
        return peer == rank ? own.data() : row<T>(node, peer, rank, step);
      });
    copy_to_peers<T>(own, row<T>(node, rank, rank, step));  // the row that nobody has read yet
    node.sync();
    for (std::size_t peer = 0; peer < world; ++peer)
      if (peer != rank) {
        const std::span<T> theirs = of(peer, at);
        copy<T>({row<T>(node, peer, peer, step), theirs.size()}, theirs.data());
      }
    node.turn();
  }
}

}  // namespace shardexpr::detail::node
