// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/comm/mpi_channel.hpp>
#include <shardexpr/comm/rank_sum.hpp>
#include <shardexpr/comm/reduction_room.hpp>
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/cpu.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <mpi.h>

namespace shardexpr {

/// Ranks that are processes, joined by MPI 3.1 or later, of one machine or many.
///
///   MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
///   sx::Mpi comm{MPI_COMM_WORLD};
///
/// MPI is the user's: this duplicates their communicator and never initializes, finalizes or ends
/// anything. Elements are sent as the bytes they are, between machines of one byte order. MPI moves
/// them and never adds: each rank adds its part, in rank order, to the bits of `Threads`.
///
/// Shapes:  as in `Communicator`; W = size().
/// Order:   every rank calls the same collectives in the same order. A rank's collectives go on one
///          stream at a time; `split` and `gather_buffer`, which run at once, come behind a
///          `synchronize` of it, and so does this object's end, which comes before MPI_Finalize.
///          With MPI_THREAD_MULTIPLE, streams with threads may work while others call MPI. With
///          MPI_THREAD_SERIALIZED they take turns, and the user's own calls of MPI, constructors
///          and `split` come behind a `synchronize` of all streams of all communicators. With less,
///          the main thread alone may call: streams with threads of their own are refused.
/// Errors:  ConfigError for spans, roots and reductions that do not fit, before anything is sent;
///          when MPI is not initialized, or does not allow the thread. CommError in every rank when
///          ranks make different calls (it names two of them; `MpiOptions::compare_calls`), and in
///          a rank where MPI reports an error: with rank, collective and number. Open MPI 4.1
///          reports it to MPI_COMM_WORLD, whose handler ends the job unless it is
///          MPI_ERRORS_RETURN. Outputs are then unspecified. A rank that ends otherwise leaves its
///          peers waiting, until mpirun ends them: nothing here watches the clock yet.
/// Cost:    a waiting rank asks MPI without pause, and yields its core. Sums hold `room_bytes`.
class Mpi {
 public:
  /// Each rank gathers into memory of its own.
  static constexpr bool gather_is_shared = false;

  /// Order:   every rank of `users` makes one at the same time.
  /// Errors:  ConfigError when MPI is not there, for an intercommunicator, more than 32767 ranks,
  ///          or options that differ or are out of range; CommError when MPI reports an error.
  explicit Mpi(MPI_Comm users, const MpiOptions& options = {})
      : channel_{std::make_unique<detail::MpiChannel>(users, options)} {}

  std::size_t rank() const { return channel_->rank(); }
  std::size_t size() const { return channel_->size(); }
  const Traffic& traffic() const { return traffic_; }

  /// Shapes:  shard (n,) -> full (W*n,), in rank order; shard may be full's slice of this rank.
  template <class T, class D>
    requires detail::runs_on_host<D>
  void all_gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
                  std::span<T> full) {
    gather<T>(ctx, call<T>(detail::Collective::all_gather, shard.size()), shard, full);
  }

  /// Zeroed memory for `gather`.
  ///
  /// Shapes:  (count,), aligned as the device's memory; count is a multiple of W.
  /// Errors:  ConfigError for other counts; std::bad_alloc.
  /// Cost:    count * sizeof(T) bytes under Purpose::gathered.
  template <class T, class D>
    requires detail::runs_on_host<D>
  auto gather_buffer(D& device, std::size_t count) {
    const auto call = this->call<T>(detail::Collective::gather_buffer, count);
    if (count % size() != 0)
      call.refuse("the count must be a multiple of the " + std::to_string(size()) + " ranks");
    return device.template allocate<T>(count, Purpose::gathered);
  }

  /// Shapes:  shard (n,) -> full (W*n,), in rank order; shard may be full's slice of this rank.
  template <class T, class D>
    requires detail::runs_on_host<D>
  void gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
              std::span<T> full) {
    gather<T>(ctx, call<T>(detail::Collective::gather, shard.size()), shard, full);
  }

  /// Shapes:  full (W*n,) -> shard (n,), which may be full's slice of this rank.
  template <detail::Summable T, class D>
    requires detail::runs_on_host<D>
  void reduce_scatter(const Context<D>& ctx, std::span<const std::type_identity_t<T>> full,
                      std::span<T> shard, Reduction reduction) {
    auto call = this->call<T>(detail::Collective::reduce_scatter, shard.size());
    call.reduction = reduction;
    detail::check_pieces(call, size(), "full", full.size(), shard.size());
    detail::check_in_place<T>(call, full, shard, rank());
    detail::check_reduction<T>(call);
    traffic_.add_reduce_scatter(size(), shard.size_bytes());
    const std::span<T> room = this->room<T>(ctx, shard.size());
    ctx.run(reads(full), writes(shard, room), [=, channel = channel_.get()] {
      channel->begin(call);
      const std::size_t world = channel->size(), step = step_of<T>(*channel, shard.size());
      if (world == 1) return copy<T>(full, shard);
      const auto scale = detail::scale_of<T>(reduction, world);
      for (std::size_t at = 0; at < shard.size(); at += step) {
        const std::size_t n = std::min(step, shard.size() - at);
        const detail::MpiBlock from{*channel, call, n * sizeof(T), shard.size_bytes()};
        channel->complete(call, [&](MPI_Comm comm, MPI_Request* request) {
          return MPI_Ialltoall(full.data() + at, from.count(), from.type(), room.data(),
                               bytes<T>(n), MPI_BYTE, comm, request);
        });
        detail::sum_rows<T>(world, n, scale, shard.data() + at,
                            [&](std::size_t peer) { return room.data() + peer * n; });
      }
    });
  }

  /// Shapes:  values (n,), any n, in place. The bits of reduce_scatter followed by all_gather.
  template <detail::Summable T, class D>
    requires detail::runs_on_host<D>
  void all_reduce(const Context<D>& ctx, std::span<T> values, Reduction reduction) {
    auto call = this->call<T>(detail::Collective::all_reduce, values.size());
    call.reduction = reduction;
    detail::check_reduction<T>(call);
    traffic_.add_all_reduce(size(), values.size(), sizeof(T));
    const std::size_t part = ceil_div(values.size(), size());
    const std::span<T> room = this->room<T>(ctx, part);
    ctx.run(reads(values), writes(values, room), [=, channel = channel_.get()] {
      channel->begin(call);
      const std::size_t world = channel->size(), step = world * step_of<T>(*channel, part);
      if (world == 1) return;
      for (std::size_t at = 0; at < values.size(); at += step)
        sum_to_all<T>(*channel, call, values.subspan(at, std::min(step, values.size() - at)), room,
                      detail::scale_of<T>(reduction, world));
    });
  }

  /// Shapes:  values (n,) of rank `root` -> values (n,) of every rank.
  template <class T, class D>
    requires detail::runs_on_host<D>
  void broadcast(const Context<D>& ctx, std::span<T> values, std::size_t root) {
    auto call = this->call<T>(detail::Collective::broadcast, values.size());
    call.root = root;
    detail::check_root(call, size());
    if (rank() == root) traffic_.add_broadcast(size(), values.size_bytes());
    ctx.run(reads(values), writes(values), [=, channel = channel_.get()] {
      channel->begin(call);
      const auto memory = std::as_writable_bytes(values);
      const std::size_t step = channel->piece_bytes();
      for (std::size_t at = 0; at < memory.size(); at += step)
        channel->complete(call, [&](MPI_Comm comm, MPI_Request* request) {
          return MPI_Ibcast(memory.data() + at,
                            static_cast<int>(std::min(step, memory.size() - at)), MPI_BYTE,
                            static_cast<int>(root), comm, request);
        });
    });
  }

  /// Shapes:  from (W*n,) -> to (W*n,), disjoint: piece p of rank r becomes piece r of rank p.
  template <class T, class D>
    requires detail::runs_on_host<D>
  void all_to_all(const Context<D>& ctx, std::span<const std::type_identity_t<T>> from,
                  std::span<T> to) {
    const std::size_t piece = to.size() / size();
    const auto call = this->call<T>(detail::Collective::all_to_all, piece);
    detail::check_pieces(call, size(), "to", to.size(), piece);
    detail::check_pieces(call, size(), "from", from.size(), piece);
    detail::check_disjoint<T>(call, from, to);
    traffic_.add_all_to_all(size(), piece * sizeof(T));
    ctx.run(reads(from), writes(to), [=, channel = channel_.get()] {
      channel->begin(call);
      const auto sent = std::as_bytes(from);
      const auto received = std::as_writable_bytes(to);
      each_piece(*channel, call, piece * sizeof(T),
                 [&](std::size_t at, int, const detail::MpiBlock& block, MPI_Comm comm,
                     MPI_Request* request) {
                   return MPI_Ialltoall(sent.data() + at, block.count(), block.type(),
                                        received.data() + at, block.count(), block.type(), comm,
                                        request);
                 });
    });
  }

  /// No rank goes on before every rank has come.
  template <class D>
    requires detail::runs_on_host<D>
  void barrier(const Context<D>& ctx) {
    const detail::Call call{.collective = detail::Collective::barrier, .sequence = ++sequence_};
    ctx.run(reads(), writes(), [=, channel = channel_.get()] {
      channel->begin(call);
      channel->complete(
          call, [](MPI_Comm comm, MPI_Request* request) { return MPI_Ibarrier(comm, request); });
    });
  }

  /// A communicator of the ranks with an equal color, ordered by (key, rank), as MPI_Comm_split;
  /// any color is one.
  ///
  /// Order:   every rank must call it; at once, on no stream.
  Mpi split(int color, int key) {
    const detail::Call call{.collective = detail::Collective::split, .sequence = ++sequence_};
    return Mpi{channel_->split(call, color, key)};
  }

  /// Bytes that a rank of `world` holds for reductions of which its part is at most `count`
  /// elements; the plan counts them.
  template <class T>
  static constexpr std::size_t room_bytes(std::size_t world, std::size_t count) {
    return detail::ReductionRoom::bytes_for<T>(world, count);
  }
  /// Holds them, as Purpose::full_gradients, for as long as the result lives. A reduction that
  /// finds less makes more for good, which waits for the stream.
  template <class T, class D>
  [[nodiscard]] std::shared_ptr<void> reserve(D& device, std::size_t count) {
    return room_.reserve(device, room_bytes<T>(size(), count));
  }

 private:
  explicit Mpi(std::unique_ptr<detail::MpiChannel> channel) : channel_{std::move(channel)} {}

  template <class T>
  detail::Call call(detail::Collective collective, std::size_t count) {
    return detail::call_of<T>(collective, ++sequence_, count);
  }

  /// Where the parts of all ranks lie that are added up at a time.
  template <class T, class D>
  std::span<T> room(const Context<D>& ctx, std::size_t count) {
    const std::size_t size_bytes = room_bytes<T>(size(), count);
    return {reinterpret_cast<T*>(room_.take(ctx, size_bytes)), size_bytes / sizeof(T)};
  }
  /// Elements of a rank's part of `count` that are added up at a time.
  template <class T>
  static std::size_t step_of(const detail::MpiChannel& channel, std::size_t count) {
    return std::min(detail::ReductionRoom::elements_at_once<T>(channel.size(), count),
                    std::max<std::size_t>(channel.piece_bytes() / sizeof(T), 1));
  }
  template <class T>
  static int bytes(std::size_t count) {
    return static_cast<int>(count * sizeof(T));
  }
  template <class T>
  static void copy(std::span<const T> from, std::span<T> to) {
    if (from.data() != to.data()) detail::copy_bytes(to.data(), from.data(), from.size_bytes());
  }

  /// Starts `start(first byte, bytes, block, communicator, request)` for each piece of what every
  /// rank has `size_bytes` of.
  template <class Start>
  static void each_piece(detail::MpiChannel& channel, const detail::Call& call,
                         std::size_t size_bytes, Start start) {
    const std::size_t step = channel.piece_bytes();
    for (std::size_t at = 0; at < size_bytes; at += step) {
      const std::size_t n = std::min(step, size_bytes - at);
      const detail::MpiBlock block{channel, call, n, size_bytes};
      channel.complete(call, [&](MPI_Comm comm, MPI_Request* request) {
        return start(at, static_cast<int>(n), block, comm, request);
      });
    }
  }

  template <class T, class D>
  void gather(const Context<D>& ctx, const detail::Call& call, std::span<const T> shard,
              std::span<T> full) {
    detail::check_pieces(call, size(), "full", full.size(), shard.size());
    detail::check_in_place<T>(call, full, shard, rank());
    traffic_.add_all_gather(size(), shard.size_bytes());
    ctx.run(reads(shard), writes(full), [=, channel = channel_.get()] {
      channel->begin(call);
      const bool is_in_place = shard.data() == full.data() + channel->rank() * shard.size();
      const auto from = std::as_bytes(shard);
      const auto to = std::as_writable_bytes(full);
      each_piece(*channel, call, from.size(),
                 [&](std::size_t at, int n, const detail::MpiBlock& block, MPI_Comm comm,
                     MPI_Request* request) {
                   return MPI_Iallgather(is_in_place ? MPI_IN_PLACE : from.data() + at, n, MPI_BYTE,
                                         to.data() + at, block.count(), block.type(), comm,
                                         request);
                 });
    });
  }

  /// Each rank adds up a part of `values`, which is short, and gives it to all.
  template <class T>
  static void sum_to_all(detail::MpiChannel& channel, const detail::Call& call, std::span<T> values,
                         std::span<T> room, detail::SumOf<T> scale) {
    const std::size_t rank = channel.rank(), world = channel.size();
    const std::size_t part = ceil_div(values.size(), world);
    const std::span<T> own = detail::part_of(values, part, rank);
    int *const part_bytes = channel.counts(0), *const part_at = channel.counts(1);
    int *const own_bytes = channel.counts(2), *const row_at = channel.counts(3);
    for (std::size_t peer = 0; peer < world; ++peer) {
      const std::span<T> theirs = detail::part_of(values, part, peer);
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
      detail::sum_rows<T>(world, own.size(), scale, own.data(),
                          [&](std::size_t peer) { return room.data() + peer * own.size(); });
    channel.complete(call, [&](MPI_Comm comm, MPI_Request* request) {
      return MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_BYTE, values.data(), part_bytes, part_at,
                             MPI_BYTE, comm, request);
    });
  }

  std::unique_ptr<detail::MpiChannel> channel_;
  std::size_t sequence_ = 0;
  Traffic traffic_;
  detail::ReductionRoom room_;
};

static_assert(Communicator<Mpi, Cpu>);

}  // namespace shardexpr
