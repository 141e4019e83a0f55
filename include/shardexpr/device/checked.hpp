// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/access_log.hpp>
#include <shardexpr/device/checked_place.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cpu_stream.hpp>
#include <shardexpr/device/race_report.hpp>
#include <shardexpr/device/vector_clock.hpp>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace shardexpr {

/// How far `Checked` disturbs the order in which operations run.
struct CheckOptions {
  std::uint64_t seed = 1;  ///< of the delays
  /// One in four operations of a stream that has a thread waits a random time below it before it
  /// runs, on the device and on its host.
  std::chrono::microseconds longest_delay{0};
};

/// A device that proves, with vector clocks, that no bytes are touched without an event ordering
/// it: operations run on `D`, and each is checked by what it says that it reads and writes, when it
/// is enqueued. The verdict does not depend on timing, nor on how `D` executes.
///
/// Two accesses of one byte, one of them a write, must be ordered: by one stream, by `record` and
/// `wait`, or by the host through `synchronize`. To retire bytes, and to free a buffer, is a write.
/// Bytes that were retired must be written before they are read again; bytes that were freed must
/// not be touched. `drain` orders what its stream did itself, not what that waited for: behind a
/// failure, a stream discards its waits.
///
/// A collective of `Threads` is checked by each rank's object for itself. Peers touch a rank's
/// memory between `meet` and `part` alone, which lie inside the rank's own operation, and that
/// declares what they touch: its `full` written by `gather`, its `values` by `all_reduce`, its
/// parts read. Whatever this rank orders before or behind its operation, it orders before or behind
/// its peers' accesses.
///
/// What the host beside `D` does, and what is done with a `FileRange`, is checked with the rest:
/// one log, the same streams and events. The host's memory has an account of its own.
///
/// Order:   one object a rank, and one thread uses it. It outlives its streams and buffers.
/// Errors:  RaceError, thrown where an operation is enqueued or retires, before it runs; it names
///          both accesses. A race found when a buffer is freed is kept: the next operation,
///          `synchronize` or `check()` throws it. If none comes, the destructor writes it to stderr
///          and aborts, or only writes it while an exception is unwinding.
/// Cost:    a search in a log for each access; it allocates. Freed buffers are held back,
///          `held_bytes` of them at most on each side, so that nobody else gets their addresses too
///          soon; `account()` does not count them.
template <class D>
class Checked : public detail::CheckedPlace<D, D>, public detail::CheckedHost<D> {
  using Place = detail::CheckedPlace<D, D>;
  using Place::device_;
  friend detail::CheckedStream<D>;
  template <class, class>
  friend class detail::CheckedPlace;

 public:
  using Stream = typename Place::Stream;

  /// A point in a stream, with the clock that says what was done before it.
  class Event {
    friend class Checked;
    typename D::Event owned_;
    detail::VectorClock clock_;
  };

  /// What `D` is made from.
  template <class... Args>
    requires std::constructible_from<D, Args...>
  explicit Checked(Args&&... args) : Place{*this, std::forward<Args>(args)...} {}
  /// The same, with delays.
  template <class... Args>
    requires std::constructible_from<D, Args...>
  explicit Checked(const CheckOptions& options, Args&&... args)
      : Place{*this, std::forward<Args>(args)...}, options_{options} {}
  Checked(const Checked&) = delete;
  Checked& operator=(const Checked&) = delete;
  ~Checked() {
    if (!kept_) return;
    std::fprintf(stderr, "shardexpr::RaceError: %s\n", kept_->c_str());
    if (std::uncaught_exceptions() == 0) std::abort();
  }

  /// The host beside the device: what is done there is checked together with what the device does.
  auto& host() requires HasHost<D> {
    if (!this->host_place_) this->host_place_.emplace(*this, device_.host());
    return *this->host_place_;
  }

  void record(Event& event, Stream& stream) {
    enter(stream);
    event.clock_ = stream.clock_;
    device_.record(event.owned_, stream.owned_);
  }
  void wait(Stream& stream, const Event& event) {
    enter(stream);
    if (dropped_.contains(wait_count_++)) return;
    stream.clock_.join(event.clock_);
    device_.wait(stream.owned_, event.owned_);
  }
  /// Errors:  what an operation threw; else a race that is kept.
  void synchronize(Stream& stream) {
    enter(stream);
    host_.raise(stream.component_, stream.clock_[stream.component_]);
    device_.synchronize(stream.owned_);
    host_.join(stream.clock_);  // not if it threw: the stream has then discarded its waits
    check();
  }
  void drain(Stream& stream) noexcept {
    enter(stream);
    host_.raise(stream.component_, stream.clock_[stream.component_]);
    device_.drain(stream.owned_);
  }

  void annotate(Stream& stream, const Label& label) {
    stream.label_ = label;
    device_.annotate(stream.owned_, label);
  }

  /// Throws a race that was found when a buffer was freed, once.
  void check() {
    if (kept_) throw RaceError(*std::exchange(kept_, std::nullopt));
  }
  /// Calls of `wait` so far.
  std::size_t wait_count() const { return wait_count_; }
  /// Lets the n-th call of `wait`, counted from 0, do nothing: to prove that it was needed.
  void drop_wait(std::size_t n) { dropped_.insert(n); }
  /// Accesses that are kept for later ones to be compared with.
  std::size_t log_size() const { return log_.size(); }

  /// As `D` says.
  auto execution() const requires requires(const D& device) { device.execution(); }
  { return device_.execution(); }
  /// Memory that nobody is charged for, where `D` gives such.
  void* allocate_zeroed(std::size_t size_bytes) requires requires(D& device) {
    device.allocate_zeroed(std::size_t{1});
  }
  { return device_.allocate_zeroed(size_bytes); }
  static void deallocate(void* memory) requires requires(void* some) { D::deallocate(some); }
  { D::deallocate(memory); }
  /// Outside of all streams, and so unchecked.
  template <class Functor>
  static void for_each_at_once(std::size_t count, const Functor& functor) {
    D::for_each_at_once(count, functor);
  }

 private:
  // A component of the clocks is taken over by a later stream: by then the host knows the former
  // one's end, and with it the new one.
  void enter(Stream& stream, std::string_view name = {}) {
    if (stream.device_ != nullptr) return;
    if (free_components_.empty()) free_components_.push_back(++component_count_);
    stream.component_ = free_components_.back();
    free_components_.pop_back();
    stream.device_ = this;
    stream.name_ = *names_
                        .emplace(name.empty() ? "stream " + std::to_string(stream.component_)
                                              : std::string{name})
                        .first;
    stream.random_.seed(static_cast<std::minstd_rand::result_type>(
        options_.seed * 0x9e3779b97f4a7c15u + stream.component_));
  }
  void leave(Stream& stream) noexcept {
    drain(stream);
    free_components_.push_back(stream.component_);
  }

  detail::Touch touch_of(Stream& stream, detail::Touching how, SourceLocation where) {
    enter(stream);
    stream.clock_.join(host_);
    const std::uint64_t time = stream.clock_[stream.component_] + 1;
    stream.clock_.raise(stream.component_, time);
    return {stream.component_, time, how, stream.label_, where, stream.name_};
  }

  bool is_asynchronous() const {
    if constexpr (requires { device_.execution() == Execution::immediate; })
      return device_.execution() != Execution::immediate;
    else
      return false;
  }

  template <std::size_t R, std::size_t W>
  void judge(Stream& stream, const Reads<R>& reads, const Writes<W>& writes, SourceLocation where) {
    check();
    detail::Touch read = touch_of(stream, detail::Touching::read, where), write = read;
    write.how = detail::Touching::write;
    refuse_conflict(reads.list, read, stream.clock_);
    refuse_conflict(writes.list, write, stream.clock_);
    note(reads.list, read, stream.clock_);
    note(writes.list, write, stream.clock_);
  }
  void judge_retirement(Stream& stream, const Access& access, SourceLocation where) {
    check();
    const detail::Touch touch = touch_of(stream, detail::Touching::retire, where);
    refuse_conflict({&access, 1}, touch, stream.clock_);
    note({&access, 1}, touch, stream.clock_);
  }
  void judge_free(const Access& access) noexcept {
    const detail::Touch touch{.time = host_[0] + 1, .how = detail::Touching::free};
    host_.raise(0, touch.time);
    if (const auto conflict = log_.find(access, touch, host_); conflict && !kept_)
      kept_ = detail::conflict_text(log_, *conflict);
    log_.note(access, touch, host_);
  }
  void refuse_conflict(std::span<const Access> list, const detail::Touch& touch,
                       const detail::VectorClock& clock) const {
    for (const Access& access : list)
      if (const auto conflict = log_.find(access, touch, clock))
        throw RaceError(detail::conflict_text(log_, *conflict));
  }
  void note(std::span<const Access> list, const detail::Touch& touch,
            const detail::VectorClock& clock) {
    for (const Access& access : list) log_.note(access, touch, clock);
  }

  CheckOptions options_;
  detail::AccessLog log_;
  detail::VectorClock host_;
  std::optional<std::string> kept_;
  std::set<std::string, std::less<>> names_;
  std::vector<std::size_t> free_components_;
  std::size_t component_count_ = 0, wait_count_ = 0;
  std::set<std::size_t> dropped_;
};

}  // namespace shardexpr
