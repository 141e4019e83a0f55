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
/// Elements of each of `rows` rows of a message.
template <class T>
constexpr std::size_t row_elements(std::size_t rows) {
  return std::max<std::size_t>(
      MpiNode::message_bytes / sizeof(T) / rows / block_elements * block_elements, 1);
}
/// Messages with a row for each rank but the one that wrote them.
template <class T>
class RowsForPeers {
 public:
  explicit RowsForPeers(const MpiNode& node)
      : rank_{node.rank()}, step_{row_elements<T>(std::max<std::size_t>(node.size() - 1, 1))} {}
  std::size_t step() const { return step_; }
  T* for_peer(std::byte* mine, std::size_t peer) const {
    return reinterpret_cast<T*>(mine) + (peer - (peer > rank_)) * step_;
  }
  const T* for_me(const std::byte* theirs, std::size_t peer) const {
    return reinterpret_cast<const T*>(theirs) + (rank_ - (rank_ > peer)) * step_;
  }

 private:
  std::size_t rank_, step_;
};

/// shard (n,) -> full (W*n,), each rank's own.
template <class T>
void all_gather(MpiNode& node, std::span<const T> shard, std::span<T> full) {
  const std::size_t step = row_elements<T>(1), n = shard.size(), rank = node.rank();
  if (node.size() == 1) return copy(shard, full.data());
  node.pass(
      ceil_div(n, step),
      [&](std::size_t k, std::byte* to) {
        const std::span<const T> part = piece_at(shard, k * step, step);
        copy_to_peers(part, reinterpret_cast<T*>(to));
        copy(part, full.data() + rank * n + k * step);
      },
      [&](std::size_t k, auto from) {
        const std::size_t count = std::min(step, n - k * step);
        for (std::size_t peer = 0; peer < node.size(); ++peer)
          if (peer != rank)
            copy<T>({reinterpret_cast<const T*>(from(peer)), count},
                    full.data() + peer * n + k * step);
      });
}

/// values (n,) of the node's rank `root` -> all.
template <class T>
void broadcast(MpiNode& node, std::span<T> values, std::size_t root) {
  if (node.size() == 1) return;
  const std::size_t step = row_elements<T>(1);
  const auto part = [&](std::size_t k) { return piece_at(values, k * step, step); };
  node.pass(
      ceil_div(values.size(), step),
      [&](std::size_t k, std::byte* to) {
        if (node.rank() == root) copy_to_peers<T>(part(k), reinterpret_cast<T*>(to));
      },
      [&](std::size_t k, auto from) {
        if (node.rank() != root)
          copy<T>({reinterpret_cast<const T*>(from(root)), part(k).size()}, part(k).data());
      });
}

/// from (W*n,) -> to (W*n,): piece p of rank r becomes piece r of rank p.
template <class T>
void all_to_all(MpiNode& node, std::span<const T> from, std::span<T> to) {
  const std::size_t world = node.size(), n = to.size() / world, rank = node.rank();
  const RowsForPeers<T> rows{node};
  copy(from.subspan(rank * n, n), to.data() + rank * n);
  if (world == 1) return;
  node.pass(
      ceil_div(n, rows.step()),
      [&](std::size_t k, std::byte* message) {
        const std::size_t at = k * rows.step(), count = std::min(rows.step(), n - at);
        for (std::size_t peer = 0; peer < world; ++peer)
          if (peer != rank)
            copy_to_peers(from.subspan(peer * n + at, count), rows.for_peer(message, peer));
      },
      [&](std::size_t k, auto message) {
        const std::size_t at = k * rows.step(), count = std::min(rows.step(), n - at);
        for (std::size_t peer = 0; peer < world; ++peer)
          if (peer != rank)
            copy<T>({rows.for_me(message(peer), peer), count}, to.data() + peer * n + at);
      });
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
  const RowsForPeers<T> rows{node};
  node.pass(
      ceil_div(to.size(), rows.step()),
      [&](std::size_t k, std::byte* message) {
        const std::size_t at = k * rows.step(), count = std::min(rows.step(), to.size() - at);
        for (std::size_t peer = 0; peer < node.size(); ++peer)
          if (peer != node.rank())
            copy_to_peers(full.subspan(node.member(peer) * slice + begin + at, count),
                          rows.for_peer(message, peer));
      },
      [&](std::size_t k, auto message) {
        const std::size_t at = k * rows.step();
        add(at, piece_at(to, at, rows.step()), [&](std::size_t peer) -> const T* {
          if (peer == node.rank()) return full.data() + me * slice + begin + at;
          return rows.for_me(message(peer), peer);
        });
      });
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
  sum_rows_to_all<T>(world, begin, std::min(values.size(), begin + slice), scale, of);
  node.sync();
}

/// The same where values lie anywhere. Messages are parts of values and sums in turns, each sum
/// behind the parts that follow its own: part 0, part 1, sum 0, part 2, sum 1, ..., no part, sum.
template <class T>
void sum_to_all(MpiNode& node, std::span<T> values, SumOf<T> scale) {
  const std::size_t world = node.size(), rank = node.rank();
  const RowsForPeers<T> rows{node};
  const std::size_t slice = ceil_div(values.size(), world), steps = ceil_div(slice, rows.step());
  if (steps == 0) return;
  const auto of = [&](std::size_t peer, std::size_t j) {
    return piece_at(part_of(values, slice, peer), j * rows.step(), rows.step());
  };
  const auto is_sum = [](std::size_t k) { return k > 0 && k % 2 == 0; };
  node.pass(
      2 * steps + 1,
      [&](std::size_t k, std::byte* message) {
        if (is_sum(k)) return copy_to_peers<T>(of(rank, k / 2 - 1), reinterpret_cast<T*>(message));
        for (std::size_t peer = 0; peer < world; ++peer)
          if (peer != rank) copy_to_peers<T>(of(peer, (k + 1) / 2), rows.for_peer(message, peer));
      },
      [&](std::size_t k, auto message) {
        if (is_sum(k)) {
          for (std::size_t peer = 0; peer < world; ++peer) {
            const std::span<T> theirs = of(peer, k / 2 - 1);
            if (peer != rank)
              copy<T>({reinterpret_cast<const T*>(message(peer)), theirs.size()}, theirs.data());
          }
          return;
        }
        const std::span<T> own = of(rank, (k + 1) / 2);
        if (!own.empty())
          sum_rows<T>(world, own.size(), scale, own.data(), [&](std::size_t peer) -> const T* {
            return peer == rank ? own.data() : rows.for_me(message(peer), peer);
          });
      });
}

}  // namespace shardexpr::detail::node
