// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

namespace shardexpr::detail {

/// The last calls that one rank made of a communicator. One thread makes them, another looks.
class CallLog {
 public:
  static constexpr std::size_t kept = 1024;

  using Clock = std::chrono::steady_clock;

  void add(const Call& call) {
    const auto now = Clock::now();
    const std::scoped_lock lock{mutex_};
    times_[made_ % kept] = now;
    calls_[made_++ % kept] = call;
  }
  /// The last `most` calls and when they were made, oldest first: `each(call, time)`.
  template <class Each>
  void for_each_last(std::size_t most, Each each) const {
    const std::scoped_lock lock{mutex_};
    for (std::uint64_t i = made_ - std::min<std::uint64_t>({made_, kept, most}); i < made_; ++i)
      each(calls_[i % kept], times_[i % kept]);
  }
  /// The call of that number; one of number 0 where it was not made, or is no longer kept.
  Call find(std::uint64_t sequence) const {
    const std::scoped_lock lock{mutex_};
    for (const Call& call : calls_)
      if (call.sequence == sequence) return call;
    return {};
  }
  std::string text(std::uint64_t sequence) const {
    const Call call = find(sequence);
    return call.sequence == 0 ? "call #" + std::to_string(sequence) : call.text();
  }
  /// The last one, of number 0 if there is none.
  Call last() const {
    const std::scoped_lock lock{mutex_};
    return made_ == 0 ? Call{} : calls_[(made_ - 1) % kept];
  }

 private:
  mutable std::mutex mutex_;
  std::array<Call, kept> calls_{};
  std::array<Clock::time_point, kept> times_{};
  std::uint64_t made_ = 0;
};

/// What a watch knows of a communicator between processes, on one rank. What derives from it has:
///
///   Progress progress() const;
///   Error error();          // what the transport says went wrong
///   void abort() noexcept;  // ends what is under way: whoever waits for it goes on. Called once
class Watched {
 public:
  /// Numbers of the last call that has begun to wait for its peers, and of the last that is over.
  struct Progress {
    std::uint64_t begun = 0, ended = 0;
  };
  /// An empty text: nothing. `is_of_peer`: elsewhere, so that somebody else may know more.
  struct Error {
    std::string text{};
    bool is_of_peer = false;
  };

  /// `name` is the same in every rank that belongs to it.
  explicit Watched(std::string name) : name_{std::move(name)} {}
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

  const std::string& name() const { return name_; }
  CallLog& log() { return log_; }
  const CallLog& log() const { return log_; }

 private:
  std::string name_;
  CallLog log_;
};

}  // namespace shardexpr::detail
