// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/comm/mpi_channel.hpp>
#include <shardexpr/comm/mpi_node.hpp>
#include <shardexpr/comm/mpi_wire.hpp>
#include <shardexpr/comm/node_collectives.hpp>
#include <shardexpr/comm/rank_sum.hpp>
#include <shardexpr/comm/reduction_room.hpp>
#include <shardexpr/comm/shared_buffer.hpp>
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
/// anything. Ranks of one machine, a node, work in memory that they share; MPI moves bytes between
/// nodes and never adds: each rank adds its part, in rank order, to the bits of `Threads`. Elements
/// are sent as the bytes they are, between machines of one byte order.
///
/// Shapes:  as in `Communicator`; W = size().
/// Order:   every rank calls the same collectives in the same order. A rank's collectives go on one
///          stream at a time; `split`, `gather_buffer` and `reduction_buffer`, which run at once,
///          come behind a `synchronize` of it, and so does this object's end, which waits for the
///          peers' and comes before MPI_Finalize.
///          With MPI_THREAD_MULTIPLE, streams with threads may work while others call MPI. With
///          MPI_THREAD_SERIALIZED they take turns, and the user's own calls of MPI, constructors,
///          `split` and buffers come behind a `synchronize` of all streams of all communicators.
///          With less, the main thread alone may call: streams with threads are refused.
/// Errors:  ConfigError for spans, roots and reductions that do not fit, before anything is sent;
///          when MPI is not initialized, or does not allow the thread. CommError in every rank when
///          ranks make different calls (it names two of them; `MpiOptions::compare_calls`), and in
///          a rank where MPI reports an error: with rank, collective and number. Open MPI 4.1
///          reports it to MPI_COMM_WORLD, whose handler ends the job unless it is
///          MPI_ERRORS_RETURN. CommError in every rank, from the next call and from `synchronize`,
///          when a rank is gone or left by an exception, or when a collective has not ended in the
///          time it has; it names the rank, the collective and its number, and says where this
///          rank's last calls are. What MPI was asked for then still is under way: nothing of MPI
///          may be called any more but MPI_Abort. Outputs are unspecified.
/// Cost:    a waiting rank looks without pause, and yields its core. On a node: a barrier or two a
///          collective, and 1 MiB of shared memory a rank and communicator. Sums across nodes hold
///          `room_bytes`. A thread (`detail::Watch`) and, to rank 0, a connection of each rank.
class Mpi {
  using Channel = detail::MpiChannel;
  using Node = detail::MpiNode;

 public:
  /// A gather buffer is one for the ranks of a node: each is charged its part of it.
  static constexpr bool gather_is_shared = true;

  /// Order:   every rank of `users` makes one at the same time.
  /// Errors:  ConfigError when MPI is not there, for an intercommunicator, more than 32767 ranks,
  ///          or options that differ or are out of range; CommError when MPI reports an error.
  explicit Mpi(MPI_Comm users, const MpiOptions& options = {})
      : Mpi{Channel::make(users, options), "Mpi"} {}
  Mpi(Mpi&&) = default;
  Mpi& operator=(Mpi&&) = delete;
  /// Waits for the peers, unless an exception unwinds or the job has failed.
  ~Mpi() {
    if (channel_ == nullptr) return;
    bool is_well = channel_->ends_well();
    if (is_well) try {
        arrive(*channel_, *node_,
               {.collective = detail::Collective::barrier, .sequence = ++sequence_});
      } catch (...) {  // a peer does not end with us
        is_well = false;
      }
    channel_->leave(is_well);
  }

  std::size_t rank() const { return channel_->rank(); }
  std::size_t size() const { return channel_->size(); }
  const Traffic& traffic() const { return traffic_; }

  /// Shapes:  shard (n,) -> full (W*n,), in rank order; shard may be full's slice of this rank.
  template <class T, class D>
    requires detail::runs_on_host<D>
  void all_gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
                  std::span<T> full) {
    const auto call = this->call<T>(ctx, detail::Collective::all_gather, shard.size());
    check_gather<T>(call, shard, full);
    enqueue(ctx, reads(shard), writes(full), call, {}, [=](Channel& channel, Node& node) {
      if (node.is_whole()) return detail::node::all_gather<T>(node, shard, full);
      const bool is_in_place = shard.data() == full.data() + channel.rank() * shard.size();
      const auto from = std::as_bytes(shard);
      const auto to = std::as_writable_bytes(full);
      detail::wire::each_piece(channel, call, from.size(),
                               [&](std::size_t at, int n, const detail::MpiBlock& block,
                                   MPI_Comm comm, MPI_Request* request) {
                                 return MPI_Iallgather(
                                     is_in_place ? MPI_IN_PLACE : from.data() + at, n, MPI_BYTE,
                                     to.data() + at, block.count(), block.type(), comm, request);
                               });
    });
  }

  /// Zeroed memory for `gather`: one for all ranks of a node.
  ///
  /// Shapes:  (count,), aligned to 256 bytes or more; count is a multiple of W.
  /// Order:   every rank must call it, on no stream. The memory goes back to the machine when all
  ///          have let go of theirs and one calls this again, or at this object's end.
  /// Errors:  ConfigError for other counts; CommError when the machine has not as much memory that
  ///          processes may share; std::bad_alloc.
  /// Cost:    of count * sizeof(T) bytes each rank is charged its part, under Purpose::gathered.
  template <class T, class D>
    requires detail::runs_on_host<D> SharedBuffer<T> gather_buffer(D& device, std::size_t count) {
      const auto call = this->call<T>(detail::Collective::gather_buffer, count);
      if (count % size() != 0)
        call.refuse("the count must be a multiple of the " + std::to_string(size()) + " ranks");
      return shared<T>(device, call, detail::MpiWindow::Form::one, count,
                       ceil_div(count * sizeof(T), node_->size()), Purpose::gathered);
    }

  /// Zeroed memory of this rank alone, whose values peers of its node add up where they lie.
  ///
  /// Shapes:  (count,), aligned to 256 bytes or more.
  /// Order:   as `gather_buffer`.
  /// Errors:  as `gather_buffer`, for no count.
  /// Cost:    count * sizeof(T) bytes under Purpose::full_gradients.
  template <class T, class D>
    requires detail::runs_on_host<D> SharedBuffer<T> reduction_buffer(D& device,
                                                                      std::size_t count) {
      return shared<T>(device, call<T>(detail::Collective::reduction_buffer, count),
                       detail::MpiWindow::Form::one_each, count, count * sizeof(T),
                       Purpose::full_gradients);
    }

  /// Each rank writes its shard into the one buffer of its node, and sends it to one rank of each
  /// other node, which does the same there.
  ///
  /// Shapes:  shard (n,) -> full (W*n,), in rank order; shard may be full's slice of this rank.
  /// Order:   when a rank comes, it has done with the old content of full.
  /// Errors:  CommError in every rank of a node unless full is the same memory in all of them.
  template <class T, class D>
    requires detail::runs_on_host<D>
  void gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
              std::span<T> full) {
    const auto call = this->call<T>(ctx, detail::Collective::gather, shard.size());
    check_gather<T>(call, shard, full);
    enqueue(ctx, reads(shard), writes(full), call, std::as_bytes(full),
            [=](Channel& channel, Node& node) {
              check_is_one(channel, node, call);
              detail::node::copy_to_peers(shard, full.data() + channel.rank() * shard.size());
              if (!node.is_whole())
                detail::wire::gather_from_nodes(channel, node, call, std::as_bytes(shard),
                                                std::as_writable_bytes(full));
              node.sync();
            });
  }

  /// Whether this rank is the one of its node to which `gather` brings the part of `peer`, of
  /// another node.
  bool gets_from_elsewhere(std::size_t peer) const {
    return !node_->nodes().has(peer) && node_->nodes().gets(rank(), peer);
  }

  /// Shapes:  full (W*n,) -> shard (n,), which may be full's slice of this rank.
  template <detail::Summable T, class D>
    requires detail::runs_on_host<D>
  void reduce_scatter(const Context<D>& ctx, std::span<const std::type_identity_t<T>> full,
                      std::span<T> shard, Reduction reduction) {
    auto call = this->call<T>(ctx, detail::Collective::reduce_scatter, shard.size());
    call.reduction = reduction;
    detail::check_pieces(call, size(), "full", full.size(), shard.size());
    detail::check_in_place<T>(call, full, shard, rank());
    detail::check_reduction<T>(call);
    traffic_.add_reduce_scatter(size(), shard.size_bytes());
    const std::span<T> room = this->room<T>(ctx, shard.size());
    enqueue(ctx, reads(full), writes(shard, room), call, std::as_bytes(full),
            [=](Channel& channel, Node& node) {
              const std::size_t world = channel.size(), n = shard.size();
              const auto scale = detail::scale_of<T>(reduction, world);
              const bool in_windows = node.all_in_windows();
              const std::size_t step = node.is_whole() ? n : detail::wire::step_of<T>(channel, n);
              for (std::size_t at = 0; at < n; at += step) {
                const std::span<T> sum = detail::piece_at(shard, at, step);
                if (!node.is_whole())
                  detail::wire::send_slices(channel, node, call, full.data() + at, n, sum.size(),
                                            room.data());
                detail::node::sum_slices<T>(
                    node, world, full, n, at, sum, scale, in_windows,
                    [&](std::size_t peer) { return room.data() + peer * sum.size(); });
              }
              if (in_windows) node.sync();  // peers read there no more
            });
  }

  /// Shapes:  values (n,), any n, in place. The bits of reduce_scatter followed by all_gather.
  template <detail::Summable T, class D>
    requires detail::runs_on_host<D>
  void all_reduce(const Context<D>& ctx, std::span<T> values, Reduction reduction) {
    auto call = this->call<T>(ctx, detail::Collective::all_reduce, values.size());
    call.reduction = reduction;
    detail::check_reduction<T>(call);
    traffic_.add_all_reduce(size(), values.size(), sizeof(T));
    const std::size_t part = ceil_div(values.size(), size());
    const std::span<T> room = this->room<T>(ctx, part);
    enqueue(ctx, reads(values), writes(values, room), call, std::as_bytes(values),
            [=](Channel& channel, Node& node) {
              const std::size_t world = channel.size();
              const auto scale = detail::scale_of<T>(reduction, world);
              if (world == 1) return;
              if (node.is_whole() && node.all_in_windows())
                return detail::node::sum_to_all_in_windows<T>(node, values, scale);
              if (node.is_whole()) return detail::node::sum_to_all<T>(node, values, scale);
              const std::size_t step = world * detail::wire::step_of<T>(channel, part);
              for (std::size_t at = 0; at < values.size(); at += step)
                detail::wire::sum_to_all<T>(channel, call, detail::piece_at(values, at, step), room,
                                            scale);
            });
  }

  /// Shapes:  values (n,) of rank `root` -> values (n,) of every rank.
  template <class T, class D>
    requires detail::runs_on_host<D>
  void broadcast(const Context<D>& ctx, std::span<T> values, std::size_t root) {
    auto call = this->call<T>(ctx, detail::Collective::broadcast, values.size());
    call.root = root;
    detail::check_root(call, size());
    if (rank() == root) traffic_.add_broadcast(size(), values.size_bytes());
    enqueue(ctx, reads(values), writes(values), call, {}, [=](Channel& channel, Node& node) {
      if (node.is_whole()) return detail::node::broadcast(node, values, root);
      const auto memory = std::as_writable_bytes(values);
      const std::size_t step = channel.piece_bytes();
      for (std::size_t at = 0; at < memory.size(); at += step)
        channel.complete(call, [&](MPI_Comm comm, MPI_Request* request) {
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
    const auto call = this->call<T>(ctx, detail::Collective::all_to_all, piece);
    detail::check_pieces(call, size(), "to", to.size(), piece);
    detail::check_pieces(call, size(), "from", from.size(), piece);
    detail::check_disjoint<T>(call, from, to);
    traffic_.add_all_to_all(size(), piece * sizeof(T));
    enqueue(ctx, reads(from), writes(to), call, {}, [=](Channel& channel, Node& node) {
      if (node.is_whole()) return detail::node::all_to_all<T>(node, from, to);
      const auto sent = std::as_bytes(from);
      const auto received = std::as_writable_bytes(to);
      detail::wire::each_piece(channel, call, piece * sizeof(T),
                               [&](std::size_t at, int, const detail::MpiBlock& block,
                                   MPI_Comm comm, MPI_Request* request) {
                                 return MPI_Ialltoall(sent.data() + at, block.count(), block.type(),
                                                      received.data() + at, block.count(),
                                                      block.type(), comm, request);
                               });
    });
  }

  /// No rank goes on before every rank has come.
  template <class D>
    requires detail::runs_on_host<D>
  void barrier(const Context<D>& ctx) {
    const detail::Call call{
        .collective = detail::Collective::barrier, .sequence = ++sequence_, .unit = ctx.unit};
    enqueue(ctx, reads(), writes(), call, {}, [=](Channel& channel, Node& node) {
      if (!node.is_whole())
        channel.complete(
            call, [](MPI_Comm comm, MPI_Request* request) { return MPI_Ibarrier(comm, request); });
    });
  }

  /// A communicator of the ranks with an equal color, ordered by (key, rank), as MPI_Comm_split;
  /// any color is one.
  ///
  /// Order:   every rank must call it; at once, on no stream.
  Mpi split(int color, int key) {
    const detail::Call call{.collective = detail::Collective::split, .sequence = ++sequence_};
    channel_->log().add(call);
    const typename Channel::UnderWay under_way{*channel_, call};
    arrive(*channel_, *node_, call);
    return Mpi{channel_->split(call, color, key), call.text()};
  }

  /// Bytes that a rank of `world` holds for reductions of which its part is at most `count`
  /// elements, where at least `node_ranks` of them share memory; the plan counts them. None where
  /// all do.
  template <class T>
  static constexpr std::size_t room_bytes(std::size_t world, std::size_t count,
                                          std::size_t node_ranks) {
    return node_ranks == world ? 0 : detail::ReductionRoom::bytes_for<T>(world, count);
  }
  /// Holds them, as Purpose::full_gradients, for as long as the result lives. A reduction that
  /// finds less makes more for good, which waits for the stream and is charged to nobody.
  template <class T, class D>
  [[nodiscard]] std::shared_ptr<void> reserve(D& device, std::size_t count) {
    return room_.reserve(device, room_bytes<T>(size(), count, node_->size()));
  }

 private:
  Mpi(std::shared_ptr<Channel> channel, const std::string& what)
      : channel_{std::move(channel)}, node_{std::make_shared<Node>(channel_, what)} {}

  template <class T>
  detail::Call call(detail::Collective collective, std::size_t count) {
    return detail::call_of<T>(collective, ++sequence_, count);
  }
  template <class T, class D>
  detail::Call call(const Context<D>& ctx, detail::Collective collective, std::size_t count) {
    return detail::call_of<T>(collective, ++sequence_, count, ctx.unit);
  }

  /// Where the parts of all ranks lie that are added up at a time.
  template <class T, class D>
  std::span<T> room(const Context<D>& ctx, std::size_t count) {
    const std::size_t size_bytes = room_bytes<T>(size(), count, node_->size());
    return {reinterpret_cast<T*>(room_.take(ctx, size_bytes)), size_bytes / sizeof(T)};
  }
  /// Waits until this node's ranks have come to the same call, each with `data` where others may
  /// read or write them. They are compared with other nodes' calls before.
  static void arrive(Channel& channel, Node& node, const detail::Call& call,
                     std::span<const std::byte> data = {}) {
    channel.check_thread(call);
    if (!node.is_whole()) channel.compare(call);
    node.meet(call, node.place_of(data.data(), data.size()));
  }
  /// Enqueues `work(channel, node)`, which runs when the ranks have arrived with `data`.
  template <class D, std::size_t R, std::size_t W, class Work>
  void enqueue(const Context<D>& ctx, const Reads<R>& reads, const Writes<W>& writes,
               const detail::Call& call, std::span<const std::byte> data, Work work,
               SourceLocation where = SourceLocation::current()) {
    channel_->log().add(call);
    ctx.run(
        reads, writes,
        [=, channel = channel_.get(), node = node_.get()] {
          const typename Channel::UnderWay under_way{*channel, call};
          arrive(*channel, *node, call, data);
          work(*channel, *node);
        },
        where);
  }

  template <class T>
  void check_gather(const detail::Call& call, std::span<const T> shard, std::span<T> full) {
    detail::check_pieces(call, size(), "full", full.size(), shard.size());
    detail::check_in_place<T>(call, full, shard, rank());
    traffic_.add_all_gather(size(), shard.size_bytes());
  }
  static void check_is_one(const Channel& channel, const Node& node, const detail::Call& call) {
    for (std::size_t peer = 0; peer < node.size(); ++peer)
      if (node.size() > 1 && (node.place(peer).window == 0 || node.place(peer) != node.place(0)))
        throw CommError(call.text() + ": full in " + channel.rank_name(node.member(peer)) +
                        " is not the memory of a buffer of gather_buffer that " +
                        channel.rank_name(node.member(0)) +
                        " gathers into: name the same everywhere");
  }

  template <class T, class D>
  SharedBuffer<T> shared(D& device, const detail::Call& call, detail::MpiWindow::Form form,
                         std::size_t count, std::size_t charged_bytes, Purpose purpose) {
    channel_->log().add(call);
    const typename Channel::UnderWay under_way{*channel_, call};
    arrive(*channel_, *node_, call);
    if (count == 0) return {};
    const std::size_t size_bytes = count * sizeof(T);
    std::shared_ptr<void> memory;
    if (node_->size() == 1) {
      memory = {device.allocate_zeroed(size_bytes), &D::deallocate};
    } else {
      const std::uint64_t id = node_->allocate(form, size_bytes, call.text());
      memory = {node_->own(id), [id, node = node_](void*) { node->retire(id); }};
    }
    return {std::move(memory), count, device.account(), charged_bytes, purpose};
  }

  std::shared_ptr<Channel> channel_;
  std::shared_ptr<Node> node_;
  std::size_t sequence_ = 0;
  Traffic traffic_;
  detail::ReductionRoom room_;
};

static_assert(Communicator<Mpi, Cpu>);

}  // namespace shardexpr
