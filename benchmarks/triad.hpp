// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace shardexpr::benchmarks {

using Clock = std::chrono::steady_clock;

/// Runs `work()` in every rank; the time from the last rank's arrival to the last rank's end. A
/// rank that is not scheduled for a while neither hides what the others did, nor is hidden.
template <class Work>
double seconds_together(Threads& comm, const Context<Cpu>& ctx, Work work) {
  const auto now = [] {
    return static_cast<std::int64_t>(Clock::now().time_since_epoch().count());
  };
  const std::int64_t arrival = now();
  comm.barrier(ctx);
  work();
  const std::int64_t mine[] = {arrival, now()};
  std::vector<std::int64_t> all(2 * comm.size());
  comm.all_gather(ctx, mine, std::span{all});
  std::int64_t start = all[0], end = all[1];
  for (std::size_t rank = 1; rank < comm.size(); ++rank) {
    start = std::max(start, all[2 * rank]);
    end = std::max(end, all[2 * rank + 1]);
  }
  return std::chrono::duration<double>(Clock::duration{end - start}).count();
}

inline double median(std::vector<double> x) {
  const auto middle = x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2);
  std::nth_element(x.begin(), middle, x.end());
  return *middle;
}

struct Bandwidth {
  double best = 0, median = 0;  // bytes per second
};

/// STREAM triad, a[i] = b[i] + s * c[i]: what this machine's memory gives to the ranks of a
/// communicator. Each rank works on its slice.
///
/// Shapes:  three arrays of `count` elements over all ranks.
/// Units:   bytes counted three per element; what a cache line costs before it is written is not.
/// Order:   every rank must call it.
/// Source:  McCalpin, STREAM.
template <class T>
class Triad {
 public:
  static constexpr std::size_t array_bytes = std::size_t{64} << 20;

  explicit Triad(const Threads& comm, std::size_t count = array_bytes / sizeof(T))
      : count_{count / comm.size()},
        size_bytes_{3 * count_ * comm.size() * sizeof(T)},
        a_{device_.allocate<T>(count_, Purpose::other)},
        b_{device_.allocate<T>(count_, Purpose::other)},
        c_{device_.allocate<T>(count_, Purpose::other)} {
    std::fill_n(b_.data(), count_, T{1});
    std::fill_n(c_.data(), count_, T{2});
  }

  /// The time of one pass.
  double seconds(Threads& comm) {
    return seconds_together(comm, {device_, stream_},
                            [&] { pass(a_.data(), b_.data(), c_.data(), count_); });
  }

  Bandwidth measure(Threads& comm, int repeats = 10) {
    std::vector<double> times;
    for (int i = 0; i < repeats; ++i) times.push_back(seconds(comm));
    const double bytes = static_cast<double>(size_bytes_);
    return {bytes / *std::min_element(times.begin(), times.end()), bytes / median(times)};
  }

  std::size_t size_bytes() const { return size_bytes_; }

 private:
  static void pass(T* __restrict a, const T* __restrict b, const T* __restrict c, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) a[i] = b[i] + T{3} * c[i];
  }

  Cpu device_;
  Cpu::Stream stream_;
  std::size_t count_, size_bytes_;
  Cpu::Buffer<T> a_, b_, c_;
};

}  // namespace shardexpr::benchmarks
