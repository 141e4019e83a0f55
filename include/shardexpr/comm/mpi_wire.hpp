// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/mpi_channel.hpp>
#include <shardexpr/comm/mpi_node.hpp>
#include <shardexpr/comm/rank_sum.hpp>
#include <shardexpr/comm/reduction_room.hpp>
#include <shardexpr/core/bytes.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include <mpi.h>

// Collectives of processes of several nodes, by MPI's own, which move bytes in pieces that it can
// count. Each is called when the ranks' calls have been compared.

namespace shardexpr::detail {

/// `size_bytes` bytes of each rank as MPI counts them; the next rank's begin `stride_bytes` behind.
class MpiBlock {
 public:
  /// Errors:  CommError when MPI reports one.
  MpiBlock(const MpiChannel& channel, const Call& call, std::size_t size_bytes,
           std::size_t stride_bytes)
      : channel_{channel}, count_{static_cast<int>(size_bytes)} {
    if (size_bytes == stride_bytes) return;
    const MpiChannel::Turn turn{channel};
    MPI_Datatype bytes = MPI_DATATYPE_NULL;
    channel.check(MPI_Type_contiguous(std::exchange(count_, 1), MPI_BYTE, &bytes), call.text());
    const int result =
        MPI_Type_create_resized(bytes, 0, static_cast<MPI_Aint>(stride_bytes), &type_);
    MPI_Type_free(&bytes);
    channel.check(result, call.text());
    channel.check(MPI_Type_commit(&type_), call.text());
  }
  MpiBlock(const MpiBlock&) = delete;
  MpiBlock& operator=(const MpiBlock&) = delete;
  ~MpiBlock() {
    if (type_ == MPI_BYTE) return;
    const MpiChannel::Turn turn{channel_};
    MPI_Type_free(&type_);
  }

  int count() const { return count_; }
  MPI_Datatype type() const { return type_; }
  /// From one rank's to the next one's, in extents of the type.
  int stride() const { return type_ == MPI_BYTE ? count_ : 1; }

 private:
  const MpiChannel& channel_;
  int count_;
  MPI_Datatype type_ = MPI_BYTE;
};

}  // namespace shardexpr::detail

namespace shardexpr::detail::wire {

/// Elements of a rank's part of `count` that are added up at a time.
template <class T>
std::size_t step_of(const MpiChannel& channel, std::size_t count) {
  return std::min(ReductionRoom::elements_at_once<T>(channel.size(), count),
                  std::max<std::size_t>(channel.piece_bytes() / sizeof(T), 1));
}
template <class T>
int bytes(std::size_t count) {
  return static_cast<int>(count * sizeof(T));
}
/// Starts `start(first byte, bytes, block, communicator, request)` for each piece of what every
/// rank has `size_bytes` of.
template <class Start>
void each_piece(MpiChannel& channel, const Call& call, std::size_t size_bytes, Start start) {
  const std::size_t step = channel.piece_bytes();
  for (std::size_t at = 0; at < size_bytes; at += step) {
    const std::size_t n = std::min(step, size_bytes - at);
    const MpiBlock block{channel, call, n, size_bytes};
    channel.complete(call, [&](MPI_Comm comm, MPI_Request* request) {
      return start(at, static_cast<int>(n), block, comm, request);
    });
  }
}

/// Sends this rank's part to one rank of each other node and gets the parts that are this one's
/// to write: a node's n-th rank gets those of every node's n-th, and of those that have no other.
inline void gather_from_nodes(MpiChannel& channel, const MpiNode& node, const Call& call,
                              std::span<const std::byte> shard, std::span<std::byte> full) {
  const MpiNodes& nodes = node.nodes();
  each_piece(
      channel, call, shard.size(),
      [&](std::size_t at, int n, const MpiBlock& block, MPI_Comm comm, MPI_Request* request) {
        int *const sent = channel.counts(0), *const from = channel.counts(1);
        int *const received = channel.counts(2), *const to = channel.counts(3);
        for (std::size_t peer = 0; peer < channel.size(); ++peer) {
          const bool is_away = !nodes.has(peer);
          sent[peer] = is_away && nodes.gets(peer, channel.rank()) ? n : 0;
          received[peer] = is_away && nodes.gets(channel.rank(), peer) ? block.count() : 0;
          from[peer] = -1;
          to[peer] = static_cast<int>(peer) * block.stride();
        }
        // Of rank 0's part in place, Open MPI would take the equal addresses for
        // MPI_IN_PLACE, which means another thing.
        return MPI_Ialltoallv(shard.data() + at + 1, sent, from, MPI_BYTE, full.data() + at,
                              received, to, block.type(), comm, request);
      });
}
/// Sends each rank of other nodes `count` elements of its slice, which begin at `data` for rank 0
/// and lie `slice` apart; what they send comes to `room`, `count` apart.
template <class T>
void send_slices(MpiChannel& channel, const MpiNode& node, const Call& call, const T* data,
                 std::size_t slice, std::size_t count, T* room) {
  const MpiBlock block{channel, call, count * sizeof(T), slice * sizeof(T)};
  int *const sent = channel.counts(0), *const from = channel.counts(1);
  int *const received = channel.counts(2), *const to = channel.counts(3);
  for (std::size_t peer = 0; peer < channel.size(); ++peer) {
    const bool is_away = !node.nodes().has(peer);
    sent[peer] = is_away ? block.count() : 0;
    from[peer] = static_cast<int>(peer) * block.stride();
    received[peer] = is_away ? bytes<T>(count) : 0;
    to[peer] = bytes<T>(peer * count);
  }
  channel.complete(call, [&](MPI_Comm comm, MPI_Request* request) {
    return MPI_Ialltoallv(data, sent, from, block.type(), room, received, to, MPI_BYTE, comm,
                          request);
  });
}

/// Each rank adds up a part of `values`, which is short, and gives it to all.
template <class T>
void sum_to_all(MpiChannel& channel, const Call& call, std::span<T> values, std::span<T> room,
                SumOf<T> scale) {
  const std::size_t rank = channel.rank(), world = channel.size();
  const std::size_t part = ceil_div(values.size(), world);
  const std::span<T> own = part_of(values, part, rank);
  int *const part_bytes = channel.counts(0), *const part_at = channel.counts(1);
  int *const own_bytes = channel.counts(2), *const row_at = channel.counts(3);
  for (std::size_t peer = 0; peer < world; ++peer) {
    const std::span<T> theirs = part_of(values, part, peer);
    part_bytes[peer] = bytes<T>(theirs.size());
    part_at[peer] = bytes<T>(static_cast<std::size_t>(theirs.data() - values.data()));
    own_bytes[peer] = bytes<T>(own.size());
    row_at[peer] = bytes<T>(peer * own.size());
  }
  channel.complete(call, [&](MPI_Comm comm, MPI_Request* request) {
    return MPI_Ialltoallv(values.data(), part_bytes, part_at, MPI_BYTE, room.data(), own_bytes,
                          row_at, MPI_BYTE, comm, request);
  });
  if (!own.empty())
    sum_rows<T>(world, own.size(), scale, own.data(),
                [&](std::size_t peer) { return room.data() + peer * own.size(); });
  channel.complete(call, [&](MPI_Comm comm, MPI_Request* request) {
    return MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_BYTE, values.data(), part_bytes, part_at, MPI_BYTE,
                           comm, request);
  });
}

}  // namespace shardexpr::detail::wire
