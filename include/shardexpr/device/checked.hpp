// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/exact_sum.hpp>
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/access_log.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cpu_stream.hpp>
#include <shardexpr/device/race_report.hpp>
#include <shardexpr/device/vector_clock.hpp>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace shardexpr {

struct CheckOptions {
  std::uint64_t seed = 1;  ///< of the delays
  /// One in four operations of an asynchronous stream waits a random time below it before it runs.
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
/// Order:   one object a rank, and one thread uses it. It outlives its streams and buffers.
/// Errors:  RaceError, thrown where an operation is enqueued or retires, before it runs; it names
///          both accesses. A race found when a buffer is freed is kept: the next operation,
///          `synchronize` or `check()` throws it. If none comes, the destructor writes it to stderr
///          and aborts, or only writes it while an exception is unwinding.
/// Cost:    a search in a log for each access; it allocates. Freed buffers are held back,
///          `held_bytes` of them at most, so that nobody else gets their addresses too soon;
///          `account()` does not count them.
template <class D>
class Checked {
  using Bytes = typename D::template Buffer<std::byte>;

 public:
  static constexpr bool runs_on_host = requires { requires D::runs_on_host; };
  static constexpr std::size_t held_bytes = std::size_t{16} << 20;

  class Stream {
   public:
    Stream() = default;
    Stream(Checked& device, std::string_view name) : owned_{device.device_, name} {
      device.enter(*this, name);
    }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() {
      if (device_ != nullptr) device_->leave(*this);
    }

   private:
    friend class Checked;
    typename D::Stream owned_;
    Checked* device_ = nullptr;  // null: not used yet
    std::size_t component_ = 0;
    std::string_view name_;
    detail::VectorClock clock_;
    Label label_;
    std::minstd_rand random_;
  };

  class Event {
    friend class Checked;
    typename D::Event owned_;
    detail::VectorClock clock_;
  };

  /// Memory as `D` gives it.
  template <class T>
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : device_{std::exchange(other.device_, nullptr)},
          bytes_{std::move(other.bytes_)},
          purpose_{other.purpose_} {}
    Buffer& operator=(Buffer&& other) noexcept {
      std::swap(device_, other.device_);
      std::swap(bytes_, other.bytes_);
      std::swap(purpose_, other.purpose_);
      return *this;
    }
    ~Buffer() {
      if (device_ != nullptr) device_->free(std::move(bytes_), purpose_);
    }

    T* data() const { return reinterpret_cast<T*>(bytes_.data()); }
    std::size_t count() const { return bytes_.count() / sizeof(T); }
    std::size_t size_bytes() const { return bytes_.count(); }
    std::span<T> span() const { return {data(), count()}; }

   private:
    friend class Checked;
    Buffer(Checked* device, Bytes&& bytes, Purpose purpose)
        : device_{device}, bytes_{std::move(bytes)}, purpose_{purpose} {}

    Checked* device_ = nullptr;
    Bytes bytes_;
    Purpose purpose_ = Purpose::other;
  };

  /// What `D` is made from.
  template <class... Args>
    requires std::constructible_from<D, Args...>
  explicit Checked(Args&&... args) : device_(std::forward<Args>(args)...) {}
  template <class... Args>
    requires std::constructible_from<D, Args...>
  explicit Checked(const CheckOptions& options, Args&&... args)
      : device_(std::forward<Args>(args)...), options_{options} {}
  Checked(const Checked&) = delete;
  Checked& operator=(const Checked&) = delete;
  ~Checked() {
    if (!kept_) return;
    std::fprintf(stderr, "shardexpr::RaceError: %s\n", kept_->c_str());
    if (std::uncaught_exceptions() == 0) std::abort();
  }

  template <class T>
  Buffer<T> allocate(std::size_t count, Purpose purpose) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (count == 0) return {};
    Bytes bytes = device_.template allocate<std::byte>(count * sizeof(T), purpose);
    log_.allocate(bytes.data(), bytes.count(), purpose);
    account_.add(purpose, bytes.count());
    return {this, std::move(bytes), purpose};
  }

  template <std::size_t R, std::size_t W, class Work>
  void run(Stream& stream, const Reads<R>& reads, const Writes<W>& writes, Work&& work,
           SourceLocation where = SourceLocation::current()) {
    admit(stream, reads, writes, where);
    device_.run(stream.owned_, reads, writes, std::forward<Work>(work), where);
  }
  template <std::size_t R, std::size_t W, class Functor>
  void for_each(Stream& stream, std::size_t count, const Reads<R>& reads, const Writes<W>& writes,
                Functor functor, SourceLocation where = SourceLocation::current()) {
    admit(stream, reads, writes, where);
    device_.for_each(stream.owned_, count, reads, writes, functor, where);
  }
  template <class T>
  void copy(Stream& stream, std::span<const T> from, std::span<T> to,
            SourceLocation where = SourceLocation::current()) {
    admit(stream, reads(from), writes(to), where);
    device_.copy(stream.owned_, from, to, where);
  }
  template <class From, class To>
  void cast(Stream& stream, std::span<const From> from, std::span<To> to,
            SourceLocation where = SourceLocation::current()) {
    admit(stream, reads(from), writes(to), where);
    device_.cast(stream.owned_, from, to, where);
  }
  template <class T>
  void fill_zero(Stream& stream, std::span<T> to,
                 SourceLocation where = SourceLocation::current()) {
    admit(stream, reads(), writes(to), where);
    device_.fill_zero(stream.owned_, to, where);
  }
  template <class T>
  void sum_squares(Stream& stream, std::span<const T> values, ExactSum* sum,
                   SourceLocation where = SourceLocation::current()) {
    const std::span<ExactSum> total{sum, 1};
    admit(stream, reads(values, total), writes(total), where);
    device_.sum_squares(stream.owned_, values, sum, where);
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
  template <class T>
  void retire(Stream& stream, std::span<T> span, SourceLocation where = SourceLocation::current()) {
    check();
    const std::array<Access, 1> access{detail::access(span)};
    judge(access, touch_of(stream, detail::Touching::retire, where), stream.clock_);
    device_.retire(stream.owned_, span);
  }
  void note_live(Stream& stream, Purpose purpose, std::size_t size_bytes) {
    device_.note_live(stream.owned_, purpose, size_bytes);
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

  const MemoryAccount& account() const { return account_; }
  MemoryAccount& account() { return account_; }
  auto execution() const requires requires(const D& device) { device.execution(); }
  { return device_.execution(); }
  static void* allocate_zeroed(std::size_t size_bytes) requires requires {
    D::allocate_zeroed(std::size_t{1});
  }
  { return D::allocate_zeroed(size_bytes); }

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

  template <std::size_t R, std::size_t W>
  void admit(Stream& stream, const Reads<R>& reads, const Writes<W>& writes, SourceLocation where) {
    check();
    detail::Touch read = touch_of(stream, detail::Touching::read, where), write = read;
    write.how = detail::Touching::write;
    refuse_conflict(reads.list, read, stream.clock_);
    refuse_conflict(writes.list, write, stream.clock_);
    note(reads.list, read, stream.clock_);
    note(writes.list, write, stream.clock_);
    delay(stream);
  }
  void judge(std::span<const Access> list, const detail::Touch& touch,
             const detail::VectorClock& clock) {
    refuse_conflict(list, touch, clock);
    note(list, touch, clock);
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

  void free(Bytes&& bytes, Purpose purpose) noexcept {
    account_.remove(purpose, bytes.count());
    const Access access{bytes.data(), bytes.count()};
    detail::Touch touch{.time = host_[0] + 1, .how = detail::Touching::free};
    host_.raise(0, touch.time);
    if (const auto conflict = log_.find(access, touch, host_); conflict && !kept_)
      kept_ = detail::conflict_text(log_, *conflict);
    log_.note(access, touch, host_);
    held_.push_back(std::move(bytes));
    held_size_ += access.size_bytes;
    while (held_size_ > held_bytes) {
      held_size_ -= held_.front().count();
      log_.forget(held_.front().data(), held_.front().count());
      held_.pop_front();
    }
  }

  void delay([[maybe_unused]] Stream& stream) {
    if constexpr (runs_on_host && requires(const D& d) { d.execution() == Execution::immediate; }) {
      const auto longest = static_cast<std::uint64_t>(options_.longest_delay.count());
      if (options_.longest_delay.count() <= 0 || device_.execution() == Execution::immediate ||
          stream.random_() / 7 % 4 != 0)  // a system's sleep is long: some suffice
        return;
      device_.run(stream.owned_, shardexpr::reads(), shardexpr::writes(),
                  [time = std::chrono::microseconds{stream.random_() % longest}] {
                    if (time.count() == 0)
                      std::this_thread::yield();
                    else
                      std::this_thread::sleep_for(time);
                  });
    }
  }

  D device_;
  CheckOptions options_;
  MemoryAccount account_;  // `device_` counts what is held back too
  detail::AccessLog log_;
  detail::VectorClock host_;
  std::optional<std::string> kept_;
  std::set<std::string, std::less<>> names_;
  std::vector<std::size_t> free_components_;
  std::size_t component_count_ = 0, wait_count_ = 0;
  std::set<std::size_t> dropped_;
  std::deque<Bytes> held_;
  std::size_t held_size_ = 0;
};

}  // namespace shardexpr
