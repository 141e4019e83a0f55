// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/device/cpu.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

namespace shardexpr {

/// How long a collective takes between machines.
struct Network {
  std::chrono::nanoseconds latency{};                                 ///< of each collective
  double bytes_per_second = std::numeric_limits<double>::infinity();  ///< that a rank can send

  /// The time of one collective in which this rank sends so many bytes; at most 30 years.
  constexpr std::chrono::nanoseconds time_of(std::size_t sent_bytes) const {
    constexpr double most_ns = 1e18;  // beyond it the clock would overflow
    const double sending_ns = static_cast<double>(sent_bytes) / bytes_per_second * 1e9;
    const double ns = std::min(most_ns, static_cast<double>(latency.count()) + sending_ns);
    return std::chrono::nanoseconds{static_cast<std::chrono::nanoseconds::rep>(ns)};
  }

  /// Errors:  ConfigError unless latency >= 0 and bytes_per_second > 0.
  void check() const {
    if (latency.count() < 0)
      throw ConfigError("a network's latency must be at least 0, got " +
                        std::to_string(latency.count()) + " ns");
    if (!(bytes_per_second > 0))
      throw ConfigError("a network's bytes_per_second must be above 0, got " +
                        std::to_string(bytes_per_second));
  }
};

namespace detail {
/// Waits without keeping a core busy. A Linux system adds 50 to 100 us, never takes any away.
struct Sleep {
  void operator()(std::chrono::nanoseconds time) const {
    std::this_thread::sleep_until(std::chrono::steady_clock::now() + time);
  }
};
}  // namespace detail

/// A communicator with a network's time added: each collective waits latency + bytes / bandwidth on
/// its stream, and then is `C`'s. It shows on one machine what overlap hides between machines.
///
/// Units:   bytes are those that `Traffic` counts for the call on this rank: a ring's.
/// Order:   the wait is an operation of the caller's stream; calls on other streams do not share
///          the bandwidth. `split` does not wait.
/// Errors:  those of `C`. A call that `C` refuses has waited by then.
/// Cost:    one operation more on the stream, none where the time is zero.
template <class C, class Sleep = detail::Sleep>
class Delayed {
 public:
  static constexpr bool gather_is_shared = C::gather_is_shared;

  /// `sleep(nanoseconds)` runs inside the operation; tests bring their own.
  /// Errors:  ConfigError unless latency >= 0 and bytes_per_second > 0.
  Delayed(C&& inner, Network network, Sleep sleep = {})
      : inner_{checked(std::move(inner), network)}, network_{network}, sleep_{std::move(sleep)} {}

  std::size_t rank() const { return inner_.rank(); }
  std::size_t size() const { return inner_.size(); }
  const Traffic& traffic() const { return inner_.traffic(); }
  /// What it was made with.
  const Network& network() const { return network_; }

  template <class T, class D>
  void all_gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
                  std::span<T> full) {
    Traffic sent;
    sent.add_all_gather(size(), shard.size_bytes());
    send(ctx, sent);
    inner_.all_gather(ctx, shard, full);
  }

  template <class T, class D>
  auto gather_buffer(D& device, std::size_t count) {
    return inner_.template gather_buffer<T>(device, count);
  }

  template <class T, class D>
  auto reduction_buffer(D& device, std::size_t count) requires requires(C& inner) {
    inner.template reduction_buffer<T>(device, count);
  }
  { return inner_.template reduction_buffer<T>(device, count); }

  bool gets_from_elsewhere(std::size_t peer) const requires requires(const C& inner) {
    inner.gets_from_elsewhere(peer);
  }
  { return inner_.gets_from_elsewhere(peer); }

  template <class T, class... Ranks>
  static constexpr std::size_t room_bytes(std::size_t world, std::size_t count,
                                          Ranks... node_ranks) requires requires {
    C::template room_bytes<T>(world, count, node_ranks...);
  }
  { return C::template room_bytes<T>(world, count, node_ranks...); }
  template <class T, class D>
  [[nodiscard]] std::shared_ptr<void> reserve(D& device, std::size_t count) requires
      requires(C& inner) {
    inner.template reserve<T>(device, count);
  }
  { return inner_.template reserve<T>(device, count); }

  template <class T, class D>
  void gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
              std::span<T> full) {
    Traffic sent;
    sent.add_all_gather(size(), shard.size_bytes());
    send(ctx, sent);
    inner_.gather(ctx, shard, full);
  }

  template <class T, class D>
  void reduce_scatter(const Context<D>& ctx, std::span<const std::type_identity_t<T>> full,
                      std::span<T> shard, Reduction reduction) {
    Traffic sent;
    sent.add_reduce_scatter(size(), shard.size_bytes());
    send(ctx, sent);
    inner_.reduce_scatter(ctx, full, shard, reduction);
  }

  template <class T, class D>
  void all_reduce(const Context<D>& ctx, std::span<T> values, Reduction reduction) {
    Traffic sent;
    sent.add_all_reduce(size(), values.size(), sizeof(T));
    send(ctx, sent);
    inner_.all_reduce(ctx, values, reduction);
  }

  template <class T, class D>
  void broadcast(const Context<D>& ctx, std::span<T> values, std::size_t root) {
    Traffic sent;
    if (rank() == root) sent.add_broadcast(size(), values.size_bytes());
    send(ctx, sent);
    inner_.broadcast(ctx, values, root);
  }

  template <class T, class D>
  void all_to_all(const Context<D>& ctx, std::span<const std::type_identity_t<T>> from,
                  std::span<T> to) {
    Traffic sent;
    sent.add_all_to_all(size(), to.size_bytes() / size());
    send(ctx, sent);
    inner_.all_to_all(ctx, from, to);
  }

  template <class D>
  void barrier(const Context<D>& ctx) {
    send(ctx, Traffic{});
    inner_.barrier(ctx);
  }

  Delayed split(int color, int key) { return {inner_.split(color, key), network_, sleep_}; }

 private:
  static C&& checked(C&& inner, const Network& network) {
    network.check();
    return std::move(inner);
  }

  template <class D>
  void send(const Context<D>& ctx, const Traffic& sent) const {
    const std::chrono::nanoseconds time = network_.time_of(sent.total());
    if (time.count() == 0) return;
    ctx.run(reads(), writes(), [sleep = sleep_, time] { sleep(time); });
  }

  C inner_;
  Network network_;
  [[no_unique_address]] Sleep sleep_;
};

static_assert(Communicator<Delayed<Threads>, Cpu>);

}  // namespace shardexpr
