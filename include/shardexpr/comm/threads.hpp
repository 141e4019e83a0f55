// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/comm/rank_kernels.hpp>
#include <shardexpr/comm/rank_sum.hpp>
#include <shardexpr/comm/shared_buffer.hpp>
#include <shardexpr/comm/team.hpp>
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/cpu.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace shardexpr {

/// Ranks that are threads of one process. They publish pointers and read the peers' memory in
/// place: nothing is staged. On a GPU, kernels read it: of one GPU, or of several that reach each
/// other's memory.
///
/// Shapes:  as in `Communicator`; W = size().
/// Order:   every rank calls the same collectives in the same order; calls and spans are compared.
///          A rank's collectives go on one stream; `split` and `gather_buffer`, which run at once,
///          come behind a `synchronize` of it, and so does this object's end.
/// Errors:  ConfigError for spans, roots and reductions that do not fit, before any waiting.
///          CommError in every rank when ranks make different calls (it names two of them), when a
///          rank failed, or when a rank left whose part is missing. Outputs are then unspecified.
/// Cost:    two barriers a collective; W S bytes read and S written by reduce_scatter (S: bytes of
///          full), S and S by gather, W S and W S by all_gather and all_reduce, over all ranks.
class Threads {
 public:
  /// A gather buffer is one for all ranks: each is charged 1/W of it.
  static constexpr bool gather_is_shared = true;

  /// Rank `rank` of a team, for threads made by hand; `launch` makes both.
  /// Errors:  ConfigError if there is no team, or no such rank, or another `Threads` is that rank.
  Threads(std::shared_ptr<Team> team, std::size_t rank)
      : team_{std::move(team)}, rank_{rank}, exceptions_{std::uncaught_exceptions()} {
    if (team_ == nullptr) throw ConfigError("Threads needs a team, got a null pointer");
    if (rank_ >= team_->size())
      throw ConfigError("rank " + std::to_string(rank_) + " is not below the team's size, " +
                        std::to_string(team_->size()));
    if (team_->slots_[rank_].taken.exchange(true))
      throw ConfigError(team_->name(rank_) + " is taken by another communicator of this team");
  }
  Threads(Threads&&) = default;
  Threads& operator=(Threads&&) = delete;
  /// The rank leaves: peers that still need it throw CommError.
  ~Threads() {
    if (team_ != nullptr)
      team_->leave(rank_, std::uncaught_exceptions() > exceptions_, /*everywhere=*/false);
  }

  std::size_t rank() const { return rank_; }
  std::size_t size() const { return team_->size(); }
  const Traffic& traffic() const { return traffic_; }

  /// Shapes:  shard (n,) -> full (W*n,), in rank order; shard may be full's slice of this rank.
  template <class T, class D>
  void all_gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
                  std::span<T> full) {
    const auto call = this->call<T>(ctx, detail::Collective::all_gather, shard.size());
    detail::check_pieces(call, size(), "full", full.size(), shard.size());
    detail::check_in_place<T>(call, full, shard, rank_);
    traffic_.add_all_gather(size(), shard.size_bytes());
    enqueue(ctx, reads(shard), writes(full), call, shard.data(), [=](const auto& met) {
      if constexpr (detail::runs_on_host<D>)
        for (std::size_t peer = 0; peer < met.size(); ++peer)
          copy<T>(met.template data<const T>(peer), full.data() + peer * shard.size(),
                  shard.size());
      else
        D::for_each_at_once(full.size(), detail::GatherRows<T>{rows<const T>(met), met.size(),
                                                               shard.size(), full.data()});
    });
  }

  /// Zeroed memory for `gather`: one allocation for all ranks.
  ///
  /// Shapes:  (count,), aligned to 256 bytes or more; count is a multiple of W.
  /// Order:   every rank must call it.
  /// Errors:  ConfigError for other counts; std::bad_alloc in rank 0, which ends the others.
  /// Cost:    count * sizeof(T) / W bytes charged to each rank under Purpose::gathered; freed with
  ///          the last rank's handle. The device must outlive the handle.
  template <class T, class D>
  SharedBuffer<T> gather_buffer(D& device, std::size_t count) {
    const auto call = this->call<T>(detail::Collective::gather_buffer, count);
    if (count % size() != 0)
      call.refuse("the count must be a multiple of the " + std::to_string(size()) + " ranks");
    std::shared_ptr<void> memory;
    if (rank_ == 0 && count != 0)
      memory = {device.allocate_zeroed(count * sizeof(T)), &D::deallocate};
    const auto met = team_->meet(rank_, {call, &memory});
    if (rank_ != 0) memory = *met.template data<const std::shared_ptr<void>>(0);
    team_->part();
    if (count == 0) return {};
    return {std::move(memory), count, device.account(), count / size() * sizeof(T)};
  }

  /// Each rank writes its shard into the one buffer of the process.
  ///
  /// Shapes:  shard (n,) -> full (W*n,), in rank order; shard may be full's slice of this rank.
  /// Order:   when a rank comes, it has done with the old content of full.
  /// Errors:  CommError unless full is the same memory in every rank.
  template <class T, class D>
  void gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
              std::span<T> full) {
    auto call = this->call<T>(ctx, detail::Collective::gather, shard.size());
    call.shared = full.data();
    detail::check_pieces(call, size(), "full", full.size(), shard.size());
    detail::check_in_place<T>(call, full, shard, rank_);
    traffic_.add_all_gather(size(), shard.size_bytes());
    enqueue(ctx, reads(shard), writes(full), call, nullptr, [=, rank = rank_](const auto&) {
      copy_piece<D, T>(shard.data(), full.data() + rank * shard.size(), shard.size());
    });
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
    enqueue(ctx, reads(full), writes(shard), call, full.data(), [=, rank = rank_](const auto& met) {
      const std::size_t at = rank * shard.size();
      const auto scale = detail::scale_of<T>(reduction, met.size());
      if constexpr (detail::runs_on_host<D>)
        detail::sum_rows<T>(met.size(), shard.size(), scale, shard.data(), [&](std::size_t peer) {
          return met.template data<const T>(peer) + at;
        });
      else
        D::for_each_at_once(shard.size(), detail::SumRows<T>{rows<const T>(met, at), met.size(),
                                                             scale, shard.data()});
    });
  }

  /// Shapes:  values (n,), any n, in place. The bits of reduce_scatter followed by all_gather.
  template <detail::Summable T, class D>
  void all_reduce(const Context<D>& ctx, std::span<T> values, Reduction reduction) {
    auto call = this->call<T>(ctx, detail::Collective::all_reduce, values.size());
    call.reduction = reduction;
    detail::check_reduction<T>(call);
    traffic_.add_all_reduce(size(), values.size(), sizeof(T));
    enqueue(ctx, reads(values), writes(values), call, values.data(),
            [=, rank = rank_](const auto& met) {
              // Each rank owns a slice: it alone reads it, from every rank, and writes it back to
              // every rank.
              const std::size_t world = met.size();
              const std::size_t slice = round_up(ceil_div(values.size(), world), block_elements);
              const std::size_t begin = std::min(values.size(), rank * slice);
              const std::size_t end = std::min(values.size(), begin + slice);
              const auto scale = detail::scale_of<T>(reduction, world);
              if constexpr (detail::runs_on_host<D>)
                detail::sum_rows_to_all<T>(world, begin, end, scale, [&](std::size_t peer) {
                  return met.template data<T>(peer);
                });
              else
                D::for_each_at_once(end - begin,
                                    detail::SumRowsToAll<T>{rows<T>(met, begin), world, scale});
            });
  }

  /// Shapes:  values (n,) of rank `root` -> values (n,) of every rank.
  template <class T, class D>
  void broadcast(const Context<D>& ctx, std::span<T> values, std::size_t root) {
    auto call = this->call<T>(ctx, detail::Collective::broadcast, values.size());
    call.root = root;
    detail::check_root(call, size());
    if (rank_ == root) traffic_.add_broadcast(size(), values.size_bytes());
    enqueue(ctx, reads(values), writes(values), call, values.data(), [=](const auto& met) {
      copy_piece<D, T>(met.template data<const T>(root), values.data(), values.size());
    });
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
    enqueue(ctx, reads(from), writes(to), call, from.data(), [=, rank = rank_](const auto& met) {
      const std::size_t at = rank * piece;
      if constexpr (detail::runs_on_host<D>)
        for (std::size_t peer = 0; peer < met.size(); ++peer)
          copy<T>(met.template data<const T>(peer) + at, to.data() + peer * piece, piece);
      else
        D::for_each_at_once(
            to.size(), detail::GatherRows<T>{rows<const T>(met, at), met.size(), piece, to.data()});
    });
  }

  /// No rank goes on before every rank has come.
  template <class D>
  void barrier(const Context<D>& ctx) {
    const detail::Call call{
        .collective = detail::Collective::barrier, .sequence = ++sequence_, .unit = ctx.unit};
    run_on_host(ctx, reads(), writes(),
                [=, team = team_.get(), rank = rank_] { team->meet(rank, {call}); });
  }

  /// A communicator of the ranks with an equal color, ordered by (key, rank), as MPI_Comm_split.
  ///
  /// Order:   every rank must call it; at once, on no stream.
  /// Errors:  a failure in it ends the ranks of this communicator too, and of all others.
  Threads split(int color, int key) {
    const detail::Call call{.collective = detail::Collective::split, .sequence = ++sequence_};
    const auto colors = team_->meet(rank_, {call, nullptr, color, key});
    std::vector<std::size_t> ranks;
    for (std::size_t peer = 0; peer < size(); ++peer)
      if (colors[peer].color == color) ranks.push_back(peer);
    std::stable_sort(ranks.begin(), ranks.end(),
                     [&](std::size_t a, std::size_t b) { return colors[a].key < colors[b].key; });
    std::shared_ptr<Team> team;
    if (ranks.front() == rank_) team = team_->subteam(ranks);
    const auto met = team_->meet(rank_, {call, &team});
    if (team == nullptr) team = *met.data<const std::shared_ptr<Team>>(ranks.front());
    team_->part();
    const auto mine = std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin();
    return {std::move(team), static_cast<std::size_t>(mine)};
  }

 private:
  template <class T>
  detail::Call call(detail::Collective collective, std::size_t count) {
    return detail::call_of<T>(collective, ++sequence_, count);
  }
  template <class T, class D>
  detail::Call call(const Context<D>& ctx, detail::Collective collective, std::size_t count) {
    return detail::call_of<T>(collective, ++sequence_, count, ctx.unit);
  }

  /// Enqueues what this rank does when all have met: `work(meeting)`. A rank whose kernel fails
  /// parts from its peers all the same.
  template <class D, std::size_t R, std::size_t W, class Work>
  void enqueue(const Context<D>& ctx, const Reads<R>& reads, const Writes<W>& writes,
               const detail::Call& call, const void* mine, Work work,
               SourceLocation where = SourceLocation::current()) {
    if constexpr (!detail::runs_on_host<D>)
      if (size() > detail::Rows<int>::most)
        call.refuse("kernels read the memory of at most " +
                    std::to_string(detail::Rows<int>::most) + " ranks of a process");
    run_on_host(
        ctx, reads, writes,
        [=, team = team_.get(), rank = rank_] {
          struct Part {
            Team* team;
            ~Part() { team->part(); }
          };
          const auto met = team->meet(rank, {call, mine});
          const Part part{team};
          work(met);
        },
        where);
  }
  /// To wait for peers takes a thread of the host.
  template <class D, std::size_t R, std::size_t W, class Work>
  static void run_on_host(const Context<D>& ctx, const Reads<R>& reads, const Writes<W>& writes,
                          Work work, SourceLocation where = SourceLocation::current()) {
    if constexpr (detail::runs_on_host<D>)
      ctx.run(reads, writes, std::move(work), where);
    else
      ctx.device.host().run(ctx.stream, reads, writes, std::move(work), where);
  }

  template <class T>
  static void copy(const T* from, T* to, std::size_t count) {
    if (from != to) detail::copy_bytes(to, from, count * sizeof(T));
  }
  template <class D, class T>
  static void copy_piece(const T* from, T* to, std::size_t count) {
    if constexpr (detail::runs_on_host<D>)
      copy<T>(from, to, count);
    else if (from != to)
      D::for_each_at_once(count, detail::CopyRow<T>{from, to});
  }
  template <class T>
  static detail::Rows<T> rows(const auto& met, std::size_t at = 0) {
    detail::Rows<T> rows;
    for (std::size_t peer = 0; peer < met.size(); ++peer)
      rows.row[peer] = met.template data<T>(peer) + at;
    return rows;
  }

  std::shared_ptr<Team> team_;
  std::size_t rank_;
  int exceptions_;
  std::size_t sequence_ = 0;
  Traffic traffic_;
};

static_assert(Communicator<Threads, Cpu>);

/// Runs `body(Threads&)` as `world` ranks, rank 0 on the calling thread, and waits for all.
///
/// Order:   the ranks call one `body` object at the same time.
/// Errors:  an exception that leaves `body` in any rank ends every rank. The first is thrown as
///          RankError, with the rank's own exception nested inside. ConfigError unless
///          1 <= world <= 1024.
template <class Body>
void launch(std::size_t world, Body&& body) {
  const auto team = std::make_shared<Team>(world);
  const auto run = [&body, &team](std::size_t rank) noexcept {
    Threads comm{team, rank};
    try {
      body(comm);
    } catch (...) {
      team->fail(rank, std::current_exception());
    }
    team->leave(rank, /*unwinding=*/false, /*everywhere=*/true);
  };
  {
    std::vector<std::jthread> ranks;
    std::size_t rank = 1;
    try {
      for (; rank < world; ++rank) ranks.emplace_back(run, rank);
    } catch (...) {  // no thread for this rank: those that run must not wait for it
      team->fail(rank, std::current_exception());
    }
    if (rank == world) run(0);
  }
  team->rethrow();
}

}  // namespace shardexpr
