// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>

#include <atomic>
#include <mutex>
#include <string>

namespace shardexpr::detail {

/// What ended a job that operations of a stream belong to, found out by somebody else: a peer that
/// is gone, a collective that does not end. Who waits for such operations throws it.
class OutsideFailure {
 public:
  /// The first counts.
  void set(const std::string& why) {
    const std::scoped_lock lock{mutex_};
    if (is_set()) return;
    why_ = why;
    is_set_.store(true, std::memory_order_release);
  }
  bool is_set() const { return is_set_.load(std::memory_order_acquire); }
  /// Errors:  CommError, once it is set.
  void rethrow() const {
    if (is_set()) throw CommError(why_);
  }

 private:
  std::mutex mutex_;
  std::string why_;  // does not change once it is set
  std::atomic<bool> is_set_{false};
};

}  // namespace shardexpr::detail
