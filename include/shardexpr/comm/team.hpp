// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/spin.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/device/task_queue.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace shardexpr {

class Team;
class Threads;

namespace detail {

/// Thrown in a rank because a peer ended: never the first error of a job.
class PeerEnded : public CommError {
 public:
  PeerEnded(std::string origin, const std::string& consequence)
      : CommError(origin + "; " + consequence), origin_{std::move(origin)} {}
  /// Who ended first, and why.
  const std::string& origin() const noexcept { return origin_; }

 private:
  std::string origin_;
};

/// What all teams of one job share: the first failure, and who must be woken by it.
struct Job {
  std::mutex mutex;
  std::vector<Team*> teams;
  std::exception_ptr error;
  std::size_t failed_rank = 0;
  std::string cause;     // what the error says
  std::string origin;    // "rank R failed: cause", or the origin that the error names itself
  bool primary = false;  // the error is the rank's own, not a consequence of a peer's end
};

}  // namespace detail

/// What the ranks of one communicator share when they are threads of one process: a barrier, a
/// place where each publishes its call, and the news that a rank ended.
///
/// A collective is: `meet`, read the peers' memory, `part`. `meet` is all or nothing: either every
/// rank leaves it, or every rank throws from it. After it no rank can fail before `part`, so `part`
/// waits for all whatever happens elsewhere, and no rank frees memory that a peer still reads.
///
/// Ranks in messages are those of the whole job, also in a team that `split` made.
class Team {
 public:
  static constexpr std::size_t max_world = 1024;

  /// Errors:  throws ConfigError unless 1 <= world <= 1024.
  explicit Team(std::size_t world)
      : Team{std::make_shared<detail::Job>(), all_ranks(world), more_than_cores(world)} {}
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    std::scoped_lock lock{job_->mutex};
    std::erase(job_->teams, this);
  }

  std::size_t size() const { return world_ranks_.size(); }

  /// Ends every rank of the job, in this team and in all others: who waits in a collective, or
  /// enters one later, throws CommError with this rank and its error. `launch` calls it; threads
  /// made by hand call it from their catch block with `std::current_exception()`.
  void fail(std::size_t rank, std::exception_ptr error) {
    std::string cause, origin;
    bool primary = true;
    try {
      std::rethrow_exception(error);
    } catch (const detail::PeerEnded& e) {
      cause = e.what();
      origin = e.origin();
      primary = false;
    } catch (const std::exception& e) {
      cause = e.what();
    } catch (...) {
      cause = "unknown exception";
    }
    if (primary) origin = name(rank) + " failed: " + cause;
    std::scoped_lock lock{job_->mutex};
    if (job_->error == nullptr || (primary && !job_->primary)) {
      job_->error = std::move(error);
      job_->failed_rank = world_ranks_[rank];
      job_->cause = std::move(cause);
      job_->origin = std::move(origin);
      job_->primary = primary;
    }
    for (Team* team : job_->teams) team->end();
  }

  /// Throws RankError with the first failure, if there was one, nested inside.
  void rethrow() const {
    std::unique_lock lock{job_->mutex};
    if (job_->error == nullptr) return;
    const RankError error{job_->failed_rank, job_->cause};
    const std::exception_ptr cause = job_->error;
    lock.unlock();
    try {
      std::rethrow_exception(cause);
    } catch (...) {
      std::throw_with_nested(error);
    }
  }

 private:
  friend class Threads;
  template <class Body>
  friend void launch(std::size_t world, Body&& body);

  struct Published {
    detail::Call call;
    const void* data = nullptr;
    int color = 0, key = 0;
  };
  // Two places a rank, used in turns: a rank that has met goes on to publish its next call while
  // a slower one still reads this one.
  struct alignas(detail::cache_line_bytes) Slot {
    Published published[2];
    std::size_t turn = 0;            // touched by the owner alone
    std::atomic<bool> taken{false};  // by a `Threads`
  };

  /// What the ranks published when they met.
  class Meeting {
   public:
    Meeting(const std::vector<Slot>& slots, std::size_t turn)
        : slots_{slots.data()}, size_{slots.size()}, turn_{turn} {}
    std::size_t size() const { return size_; }
    const Published& operator[](std::size_t rank) const { return slots_[rank].published[turn_]; }
    template <class T>
    T* data(std::size_t rank) const {
      return static_cast<T*>(const_cast<void*>((*this)[rank].data));
    }

   private:
    const Slot* slots_;
    std::size_t size_, turn_;
  };

  static std::vector<std::size_t> all_ranks(std::size_t world) {
    if (world == 0 || world > max_world)
      throw ConfigError("a team has 1 to " + std::to_string(max_world) + " ranks, not " +
                        std::to_string(world));
    std::vector<std::size_t> ranks(world);
    std::iota(ranks.begin(), ranks.end(), std::size_t{0});
    return ranks;
  }
  static bool more_than_cores(std::size_t world) {
    return world > std::max(1u, std::thread::hardware_concurrency());
  }

  Team(std::shared_ptr<detail::Job> job, std::vector<std::size_t> world_ranks, bool crowded)
      : job_{std::move(job)},
        world_ranks_{std::move(world_ranks)},
        slots_(world_ranks_.size()),
        spins_{crowded ? 0 : max_spins} {
    std::scoped_lock lock{job_->mutex};
    job_->teams.push_back(this);
    if (job_->error != nullptr) end();
  }

  /// The team of some of this team's ranks.
  std::shared_ptr<Team> subteam(const std::vector<std::size_t>& ranks) const {
    std::vector<std::size_t> world_ranks;
    for (std::size_t rank : ranks) world_ranks.push_back(world_ranks_[rank]);
    return std::shared_ptr<Team>{new Team{job_, std::move(world_ranks), spins_ == 0}};
  }

  /// Publishes this rank's call, waits for every rank's, and checks that they agree.
  Meeting meet(std::size_t rank, const Published& mine) {
    Slot& slot = slots_[rank];
    const std::size_t turn = slot.turn++ % 2;
    slot.published[turn] = mine;
    if (!arrive_and_wait(true)) throw_ended(rank, mine.call);
    const Meeting meeting{slots_, turn};
    for (std::size_t peer = 1; peer < size(); ++peer)
      if (!(meeting[peer].call == meeting[0].call))  // the same verdict in every rank
        throw CommError(name(0) + ": " + meeting[0].call.text() + ", " + name(peer) + ": " +
                        meeting[peer].call.text() +
                        ": every rank must make the same calls in the same order");
    return meeting;
  }

  /// Waits until no rank needs its peers' memory any more.
  void part() { arrive_and_wait(false); }

  /// Who waits for `rank` in this team, or will, learns that it does not come; with `everywhere`,
  /// also in the teams that `split` made.
  void leave(std::size_t rank, bool unwinding, bool everywhere) {
    std::scoped_lock lock{job_->mutex};
    const std::size_t world_rank = world_ranks_[rank];
    for (Team* team : job_->teams)
      if (team == this || (everywhere && team->has(world_rank))) {
        if (team->left_.empty())
          team->left_ =
              name(rank) + (unwinding ? " failed: an exception unwound its communicator" : " left");
        team->end();
      }
  }

  bool has(std::size_t world_rank) const {
    return std::find(world_ranks_.begin(), world_ranks_.end(), world_rank) != world_ranks_.end();
  }
  std::string name(std::size_t rank) const { return "rank " + std::to_string(world_ranks_[rank]); }

  [[noreturn]] void throw_ended(std::size_t rank, const detail::Call& call) const {
    std::scoped_lock lock{job_->mutex};
    throw detail::PeerEnded(job_->error == nullptr ? left_ : job_->origin,
                            name(rank) + " needs it in " + call.text());
  }

  // round_ counts completed barriers from bit 1 up; bit 0 says that this team has ended. One word
  // holds both, so that a barrier is completed or ended, for all ranks alike, never both.
  static constexpr std::uint32_t ended = 1;
  static constexpr int max_spins = 4000;  // some 50 us: less than a sleep and a wake cost at worst

  void end() {
    round_.fetch_or(ended, std::memory_order_acq_rel);
    round_.notify_all();
  }

  /// False if the team ended first; a wait that is not `breakable` goes on all the same.
  bool arrive_and_wait(bool breakable) {
    std::uint32_t seen = round_.load(std::memory_order_acquire);
    if (breakable && (seen & ended)) return false;
    const std::uint32_t before = seen & ~ended;
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size()) {
      arrived_.store(0, std::memory_order_relaxed);
      if (!breakable)
        round_.fetch_add(2, std::memory_order_acq_rel);
      else if (!round_.compare_exchange_strong(seen, before + 2, std::memory_order_acq_rel))
        return false;
      round_.notify_all();
      return true;
    }
    const int spins = detail::in_stream_worker ? 0 : spins_;
    for (int spin = 0;; ++spin) {
      seen = round_.load(std::memory_order_acquire);
      if ((seen & ~ended) != before) return true;
      if (breakable && (seen & ended)) return false;
      if (spin < spins)
        detail::relax();
      else
        round_.wait(seen, std::memory_order_acquire);
    }
  }

  std::shared_ptr<detail::Job> job_;
  std::vector<std::size_t> world_ranks_;
  std::vector<Slot> slots_;
  int spins_;
  std::string left_;  // who left first, and how; guarded by the job's mutex
  alignas(detail::cache_line_bytes) std::atomic<std::uint32_t> arrived_{0};
  alignas(detail::cache_line_bytes) std::atomic<std::uint32_t> round_{0};
};

}  // namespace shardexpr
