// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <limits>
#include <utility>

namespace shardexpr::detail {

/// Lets threads sleep until another has changed something that they look at.
class Bell {
 public:
  /// Order: after the change.
  void ring() noexcept {
    rung_.fetch_add(1, std::memory_order_seq_cst);
    // Either this load sees the sleeper, or the sleeper's load of rung_ sees the count above.
    if (sleepers_.load(std::memory_order_seq_cst) != 0) rung_.notify_all();
  }

  /// Sleeps until `ready()`, which reads what was changed with acquire.
  template <class Ready>
  void await(Ready ready) noexcept {
    if (ready()) return;
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    for (;;) {
      const std::uint32_t heard = rung_.load(std::memory_order_seq_cst);
      if (ready()) break;
      rung_.wait(heard, std::memory_order_acquire);
    }
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
  // 32 bits, because the standard library then sleeps on this very word. On a wider one all waits
  // of the process share a few words, and each ring would wake every sleeper.
  std::atomic<std::uint32_t> rung_{0}, sleepers_{0};
};

/// How far a stream has come, and what ended it. Events and streams that wait share it with the
/// stream, so that they may go in any order.
///
/// Units:   a position counts what was enqueued before it; only its order has a meaning.
class StreamProgress {
 public:
  /// Sleeps until all that was enqueued before `position` has run or was discarded.
  void await(std::uint64_t position) noexcept {
    moved_.await([&] { return done_.load(std::memory_order_acquire) >= position; });
  }

  /// Errors:  throws what an operation enqueued before `position` threw.
  /// Order:   after `await(position)`.
  void rethrow(std::uint64_t position) const {
    if (failed_at_.load(std::memory_order_relaxed) < position) std::rethrow_exception(error_);
  }

  // The stream's worker alone calls these two; a failure first, then the position behind it.
  void fail(std::uint64_t position, std::exception_ptr error) noexcept {
    error_ = std::move(error);
    failed_at_.store(position, std::memory_order_relaxed);
  }
  void advance(std::uint64_t position) noexcept {
    done_.store(position, std::memory_order_release);
    moved_.ring();
  }

 private:
  std::atomic<std::uint64_t> done_{0};
  std::atomic<std::uint64_t> failed_at_{std::numeric_limits<std::uint64_t>::max()};
  std::exception_ptr error_;  // written before done_ passes failed_at_, never again
  Bell moved_;
};

}  // namespace shardexpr::detail
