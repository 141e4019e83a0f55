// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/comm/launched.hpp>
#include <shardexpr/comm/meeting_point.hpp>
#include <shardexpr/comm/nccl_buffer.cuh>
#include <shardexpr/comm/nccl_channel.cuh>
#include <shardexpr/comm/nccl_start.cuh>
#include <shardexpr/comm/rank_kernels.hpp>
#include <shardexpr/comm/rank_sum.hpp>
#include <shardexpr/comm/reduction_room.hpp>
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/cuda.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <nccl.h>

namespace shardexpr {

/// How elements of 32 and 64 bits are added up.
enum class SumOrder {
  nccl,  ///< as NCCL does: by rings, trees or switches, which for one job's shapes give one result
  rank,  ///< in rank order: the bits of `Threads`
};

namespace detail {

/// Of elements that NCCL adds up.
template <class T>
inline constexpr ncclDataType_t nccl_type = std::is_same_v<T, float>    ? ncclFloat32
                                            : std::is_same_v<T, double> ? ncclFloat64
                                                                        : ncclInt64;

/// Sends `from(peer)` to each peer and gets `to(peer)` of it.
template <class T, class From, class To>
ncclResult_t nccl_exchange(ncclComm_t comm, cudaStream_t on, std::size_t rank, std::size_t world,
                           From from, To to) {
  ncclResult_t result = ncclGroupStart();
  const auto keep = [&result](ncclResult_t next) {
    if (result == ncclSuccess && next != ncclInProgress) result = next;
  };
  for (std::size_t peer = 0; peer < world; ++peer) {
    if (peer == rank) continue;
    const std::span<const T> sent = from(peer);
    const std::span<T> received = to(peer);
    const auto number = static_cast<int>(peer);
    if (!sent.empty()) keep(ncclSend(sent.data(), sent.size_bytes(), ncclUint8, number, comm, on));
    if (!received.empty())
      keep(ncclRecv(received.data(), received.size_bytes(), ncclUint8, number, comm, on));
  }
  const ncclResult_t ended = ncclGroupEnd();
  return result == ncclSuccess ? ended : result;
}

}  // namespace detail

/// Ranks that are processes, or threads, each with a GPU of its own, of one machine or many.
///
///   sx::Cuda gpu{launched.local_rank};
///   sx::Nccl comm{gpu.ordinal(), launched};
///
/// Sums of 16-bit elements are formed in fp32, in rank order, and rounded once: each rank sends the
/// others their pieces and adds up what it gets. That sends a ring's bytes, but all of them
/// straight to who adds: across several machines, more over each network adapter than NCCL's own
/// sums do.
///
/// Shapes:  as in `Communicator`; W = size().
/// Order:   every rank calls the same collectives in the same order. A rank's collectives go on one
///          stream at a time; `split` and `gather_buffer`, which run at once, come behind a
///          `synchronize` of it. This object's end waits for all calls; the device outlives it.
/// Errors:  ConfigError for spans, roots and reductions that do not fit, before anything is sent.
///          CommError in every rank, from the next call and from `synchronize`, when a rank is gone
///          or left by an exception, when NCCL reports an error, or when a collective has not ended
///          in the time it has; it names the rank, the collective and its number. All ranks' work
///          is aborted then. Outputs are unspecified.
/// Cost:    two words written by the stream a collective; a thread (`detail::Watch`). Sums of
///          16-bit elements hold `room_bytes` of the device.
template <SumOrder order>
class NcclOf {
 public:
  /// Each rank gathers into memory of its own.
  static constexpr bool gather_is_shared = false;

  /// Of a job that torchrun or Slurm started: `launched_by_environment()`.
  /// Errors:  DeviceError where there is no such GPU; CommError when ranks do not meet, when their
  ///          NCCLs are of different versions, or when NCCL cannot connect them.
  NcclOf(int gpu, const Launched& launched, const NcclOptions& options = {})
      : NcclOf{gpu, launched.rank, launched.world,
               [&](std::span<std::byte> bytes) {
                 return detail::meet(launched, bytes, options.to_meet);
               },
               options} {}
  /// Where ranks can talk already: `share(std::span<std::byte>)` gives every rank the bytes of rank
  /// 0, as MPI_Bcast does.
  template <class Share>
  NcclOf(int gpu, std::size_t rank, std::size_t world, Share&& share,
         const NcclOptions& options = {})
      : NcclOf{rank, world,
               detail::nccl_start(detail::cuda_ordinal(gpu), rank, world, share, options)} {}
  /// The ranks of a user's communicator, which is left as it is: this is a copy, by a split that
  /// every rank takes part in.
  explicit NcclOf(ncclComm_t users, const NcclOptions& options = {})
      : NcclOf{detail::nccl_ask(users, ncclCommUserRank), detail::nccl_ask(users, ncclCommCount),
               detail::nccl_copy(users, options)} {}
  NcclOf(NcclOf&&) = default;
  NcclOf& operator=(NcclOf&&) = delete;
  ~NcclOf() {
    if (channel_ == nullptr) return;
    const std::shared_ptr<detail::NcclWatch> watch = channel_->shared_watch();
    if (std::uncaught_exceptions() > exceptions_)
      watch->fail("rank " + std::to_string(watch->rank()) +
                  " left, by an exception of its own; see its messages");
    else if (!watch->failure()->is_set())
      channel_->finish();
    watch->remove(*channel_);
  }

  std::size_t rank() const { return rank_; }
  std::size_t size() const { return size_; }
  const Traffic& traffic() const { return traffic_; }

  /// Shapes:  shard (n,) -> full (W*n,), in rank order; shard may be full's slice of this rank.
  template <class T, class D>
  void all_gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
                  std::span<T> full) {
    gather<T>(ctx, call<T>(ctx, detail::Collective::all_gather, shard.size()), shard, full);
  }

  /// Zeroed memory for `gather`, which NCCL uses in place where it can (2.19 on).
  ///
  /// Shapes:  (count,), aligned to 256 bytes or more; count is a multiple of W.
  /// Errors:  ConfigError for other counts; std::bad_alloc.
  /// Cost:    count * sizeof(T) bytes under Purpose::gathered.
  template <class T, class D>
  NcclBuffer<T> gather_buffer(D& device, std::size_t count) {
    const auto call = this->call<T>(detail::Collective::gather_buffer, count);
    if (count % size() != 0)
      call.refuse("the count must be a multiple of the " + std::to_string(size()) + " ranks");
    if (count == 0) return {};
    return {channel_, count, device.account()};
  }

  /// Shapes:  shard (n,) -> full (W*n,), in rank order; shard may be full's slice of this rank.
  template <class T, class D>
  void gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
              std::span<T> full) {
    gather<T>(ctx, call<T>(ctx, detail::Collective::gather, shard.size()), shard, full);
  }

  /// Shapes:  full (W*n,) -> shard (n,), which may be full's slice of this rank.
  template <detail::Summable T, class D>
  void reduce_scatter(const Context<D>& ctx, std::span<const std::type_identity_t<T>> full,
                      std::span<T> shard, Reduction reduction) {
    auto call = this->call<T>(ctx, detail::Collective::reduce_scatter, shard.size());
    call.reduction = reduction;
    detail::check_pieces(call, size(), "full", full.size(), shard.size());
    detail::check_in_place<T>(call, full, shard, rank_);
    detail::check_reduction<T>(call);
    traffic_.add_reduce_scatter(size(), shard.size_bytes());
    begin(ctx, call);
    if constexpr (sums_here<T>) {
      sum_parts<T>(ctx, call, full, shard.size(), shard, reduction);
    } else {
      enqueue(ctx, reads(full), writes(shard), call, [=](ncclComm_t comm, cudaStream_t on) {
        return ncclReduceScatter(full.data(), shard.data(), shard.size(), detail::nccl_type<T>,
                                 ncclSum, comm, on);
      });
      scale(ctx, shard, reduction);
    }
    end(ctx, call);
  }

  /// Shapes:  values (n,), any n, in place.
  template <detail::Summable T, class D>
  void all_reduce(const Context<D>& ctx, std::span<T> values, Reduction reduction) {
    auto call = this->call<T>(ctx, detail::Collective::all_reduce, values.size());
    call.reduction = reduction;
    detail::check_reduction<T>(call);
    traffic_.add_all_reduce(size(), values.size(), sizeof(T));
    begin(ctx, call);
    if constexpr (sums_here<T>) {
      const std::size_t slice = ceil_div(values.size(), size());
      sum_parts<T>(ctx, call, values, slice, detail::part_of(values, slice, rank_), reduction);
      share_parts<T>(ctx, call, values, slice);
    } else {
      enqueue(ctx, reads(values), writes(values), call, [=](ncclComm_t comm, cudaStream_t on) {
        return ncclAllReduce(values.data(), values.data(), values.size(), detail::nccl_type<T>,
                             ncclSum, comm, on);
      });
      scale(ctx, values, reduction);
    }
    end(ctx, call);
  }

  /// Shapes:  values (n,) of rank `root` -> values (n,) of every rank.
  template <class T, class D>
  void broadcast(const Context<D>& ctx, std::span<T> values, std::size_t root) {
    auto call = this->call<T>(ctx, detail::Collective::broadcast, values.size());
    call.root = root;
    detail::check_root(call, size());
    if (rank_ == root) traffic_.add_broadcast(size(), values.size_bytes());
    begin(ctx, call);
    enqueue(ctx, reads(values), writes(values), call, [=](ncclComm_t comm, cudaStream_t on) {
      return ncclBroadcast(values.data(), values.data(), values.size_bytes(), ncclUint8,
                           static_cast<int>(root), comm, on);
    });
    end(ctx, call);
  }

  /// Shapes:  from (W*n,) -> to (W*n,), disjoint: piece p of rank r becomes piece r of rank p.
  template <class T, class D>
  void all_to_all(const Context<D>& ctx, std::span<const std::type_identity_t<T>> from,
                  std::span<T> to) {
    const std::size_t piece = to.size() / size();
    const auto call = this->call<T>(ctx, detail::Collective::all_to_all, piece);
    detail::check_pieces(call, size(), "to", to.size(), piece);
    detail::check_pieces(call, size(), "from", from.size(), piece);
    detail::check_disjoint<T>(call, from, to);
    traffic_.add_all_to_all(size(), piece * sizeof(T));
    begin(ctx, call);
    const std::size_t rank = rank_, world = size_;
    enqueue(ctx, reads(from), writes(to), call, [=](ncclComm_t comm, cudaStream_t on) {
      return detail::nccl_exchange<T>(
          comm, on, rank, world,
          [=](std::size_t peer) { return from.subspan(peer * piece, piece); },
          [=](std::size_t peer) { return to.subspan(peer * piece, piece); });
    });
    ctx.device.copy(ctx.stream, from.subspan(rank * piece, piece), to.subspan(rank * piece, piece));
    end(ctx, call);
  }

  /// No rank goes on before every rank has come.
  template <class D>
  void barrier(const Context<D>& ctx) {
    const detail::Call call{
        .collective = detail::Collective::barrier, .sequence = ++sequence_, .unit = ctx.unit};
    begin(ctx, call);
    void* const word = scratch_.get();
    enqueue(ctx, reads(), writes(), call, [=](ncclComm_t comm, cudaStream_t on) {
      return ncclAllReduce(word, word, 1, ncclInt64, ncclSum, comm, on);
    });
    end(ctx, call);
  }

  /// A communicator of the ranks with an equal color, ordered by (key, rank), as MPI_Comm_split.
  ///
  /// Order:   every rank must call it; at once, on no stream.
  NcclOf split(int color, int key) {
    const detail::Call call{.collective = detail::Collective::split, .sequence = ++sequence_};
    auto part = detail::nccl_split(*channel_, call, ++splits_, rank_, size_, color, key);
    return {part.rank, part.size, std::move(part.channel)};
  }

  /// Bytes that a rank of `world` holds for reductions of which its part is at most `count`
  /// elements; the plan counts them. None where NCCL adds up.
  template <class T>
  static constexpr std::size_t room_bytes(std::size_t world, std::size_t count) {
    return sums_here<T> ? detail::ReductionRoom::bytes_for<T>(world, count) : 0;
  }
  /// Holds them, as Purpose::full_gradients, for as long as the result lives. A reduction that
  /// finds less makes more for good, which waits for the device.
  template <class T, class D>
  [[nodiscard]] std::shared_ptr<void> reserve(D& device, std::size_t count) {
    return room_.reserve(device, room_bytes<T>(size(), count));
  }

 private:
  template <class T>
  static constexpr bool sums_here = order == SumOrder::rank || sizeof(T) == 2;

  NcclOf(std::size_t rank, std::size_t size, std::shared_ptr<detail::NcclChannel> channel)
      : rank_{rank},
        size_{size},
        exceptions_{std::uncaught_exceptions()},
        channel_{std::move(channel)},
        scratch_{detail::device_memory(channel_->gpu(), sizeof(std::int64_t))} {}

  // What collectives are made of ----------------------------------------------------------------

  template <class T>
  detail::Call call(detail::Collective collective, std::size_t count) {
    return detail::call_of<T>(collective, ++sequence_, count);
  }
  template <class T, class D>
  detail::Call call(const Context<D>& ctx, detail::Collective collective, std::size_t count) {
    return detail::call_of<T>(collective, ++sequence_, count, ctx.unit);
  }
  template <class D>
  void begin(const Context<D>& ctx, const detail::Call& call) {
    ctx.device.enqueue(
        ctx.stream, reads(), writes(), [&](cudaStream_t on) { channel_->begin(call, on); },
        channel_->failure());
  }
  template <class D>
  void end(const Context<D>& ctx, const detail::Call& call) {
    ctx.device.enqueue(
        ctx.stream, reads(), writes(), [&](cudaStream_t on) { channel_->end(call, on); },
        channel_->failure());
  }
  /// Enqueues `issue(comm, stream)`.
  template <class D, std::size_t R, std::size_t W, class Issue>
  void enqueue(const Context<D>& ctx, const Reads<R>& reads, const Writes<W>& writes,
               const detail::Call& call, Issue issue) {
    ctx.device.enqueue(
        ctx.stream, reads, writes,
        [&](cudaStream_t on) {
          channel_->enqueue(call, [&](ncclComm_t comm) { return issue(comm, on); });
        },
        channel_->failure());
  }

  template <class T, class D>
  void gather(const Context<D>& ctx, const detail::Call& call, std::span<const T> shard,
              std::span<T> full) {
    detail::check_pieces(call, size(), "full", full.size(), shard.size());
    detail::check_in_place<T>(call, full, shard, rank_);
    traffic_.add_all_gather(size(), shard.size_bytes());
    begin(ctx, call);
    enqueue(ctx, reads(shard), writes(full), call, [=](ncclComm_t comm, cudaStream_t on) {
      return ncclAllGather(shard.data(), full.data(), shard.size_bytes(), ncclUint8, comm, on);
    });
    end(ctx, call);
  }
  template <class T, class D>
  void scale(const Context<D>& ctx, std::span<T> values, Reduction reduction) {
    if constexpr (!std::is_integral_v<T>)
      if (reduction == Reduction::mean && size() > 1)
        ctx.for_each(
            values.size(), reads(values), writes(values),
            detail::ScaleElement<T>{values.data(), detail::scale_of<T>(reduction, size())});
  }

  /// Every rank's `full`, cut into slices -> the sum of this rank's slices.
  template <class T, class D>
  void sum_parts(const Context<D>& ctx, const detail::Call& call, std::span<const T> full,
                 std::size_t slice, std::span<T> to, Reduction reduction) {
    const std::size_t rank = rank_, world = size_,
                      step = detail::ReductionRoom::elements_at_once<T>(world, slice);
    const auto factor = detail::scale_of<T>(reduction, world);
    T* const sent = reinterpret_cast<T*>(room_.take(ctx, room_bytes<T>(world, slice)));
    const std::span<T> all{sent, sent == nullptr ? 0 : world * step};
    for (std::size_t at = 0; at < slice; at += step) {
      const auto of = [=](std::size_t r) {
        return detail::piece_at(detail::part_of(full, slice, r), at, step);
      };
      const std::span<const T> own = of(rank);
      if (world > 1)
        enqueue(ctx, reads(full), writes(all), call, [=](ncclComm_t comm, cudaStream_t on) {
          return detail::nccl_exchange<T>(comm, on, rank, world, of, [=](std::size_t peer) {
            return std::span<T>{sent + peer * step, own.size()};
          });
        });
      const std::span<T> sum = to.subspan(std::min(at, to.size()), own.size());
      ctx.for_each(own.size(), reads(all, own), writes(sum),
                   detail::SumSentRows<T>{sent, step, own.data(), rank, world, factor, sum.data()});
    }
  }
  /// Each rank's slice -> every rank.
  template <class T, class D>
  void share_parts(const Context<D>& ctx, const detail::Call& call, std::span<T> values,
                   std::size_t slice) {
    if (size_ == 1) return;
    const std::size_t rank = rank_, world = size_;
    const std::span<const T> own = detail::part_of(values, slice, rank);
    enqueue(ctx, reads(values), writes(values), call, [=](ncclComm_t comm, cudaStream_t on) {
      if (values.size() == world * slice)
        return ncclAllGather(own.data(), values.data(), own.size_bytes(), ncclUint8, comm, on);
      return detail::nccl_exchange<T>(
          comm, on, rank, world, [=](std::size_t) { return own; },
          [=](std::size_t peer) { return detail::part_of(values, slice, peer); });
    });
  }
  std::size_t rank_, size_;
  int exceptions_;
  std::size_t sequence_ = 0, splits_ = 0;
  Traffic traffic_;
  std::shared_ptr<detail::NcclChannel> channel_;
  std::shared_ptr<void> scratch_;  // of `barrier`
  detail::ReductionRoom room_;
};

/// Sums of 32 and 64 bits in NCCL's own order.
using Nccl = NcclOf<SumOrder::nccl>;
/// All sums in rank order, to the bits of `Threads`.
using NcclInRankOrder = NcclOf<SumOrder::rank>;

static_assert(Communicator<Nccl, Cuda> && Communicator<NcclInRankOrder, Cuda>);

}  // namespace shardexpr
