// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/device/trace.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

namespace shardexpr {

template <class D>
class Traced;

namespace detail {

/// A device whose operations cannot write a trace: a GPU. Its streams can write its clock's time to
/// memory that it makes, `times(count)`, and it knows how that clock stands to the host's.
template <class D>
concept Stamps = requires(D& device, typename D::Stream& stream, std::int64_t* to) {
  device.stamp(stream, to);
  { device.times(std::size_t{1}) } -> std::same_as<std::shared_ptr<std::int64_t[]>>;
  { device.match_clocks() } -> std::same_as<ClockMatch>;
};

/// A stream of `D` and where its trace is written.
template <class D>
class TracedStream {
 public:
  /// Without a name or a device: it is called "stream" and recorded from its first operation.
  TracedStream() requires std::default_initializable<typename D::Stream>
  = default;
  TracedStream(Traced<D>& device, std::string_view name)
      : inner_{device.device_, name}, trace_{&device.trace_->add_stream(device.rank_, name)} {
    stamp_into_own(device);
  }
  TracedStream(Traced<D>& device, std::string_view name, OwnThread own) requires
      std::constructible_from<typename D::Stream, D&, std::string_view, OwnThread>
      : inner_{device.device_, name, own}, trace_{&device.trace_->add_stream(device.rank_, name)} {
    stamp_into_own(device);
  }
  TracedStream(const TracedStream&) = delete;
  TracedStream& operator=(const TracedStream&) = delete;
  ~TracedStream() {
    if constexpr (Stamps<D>) {
      device_->drain(inner_);
      complete();
    }
  }

 private:
  void stamp_into_own([[maybe_unused]] Traced<D>& device) {
    if constexpr (Stamps<D>) {
      device_ = &device.device_;
      times_ = device_->times(2 * device.trace_->options().events_per_stream);
      trace_->stamp_into(times_.get(), device.clock_match());
    }
  }
  void complete() noexcept {
    if constexpr (Stamps<D>) trace_->complete();
  }

  friend class Traced<D>;
  template <class, class>
  friend class TracedPlace;
  std::shared_ptr<std::int64_t[]> times_;  // null: the trace's events have them
  typename D::Stream inner_;
  StreamTrace* trace_ = nullptr;
  std::size_t enqueued_ = 0;  // operations so far
  D* device_ = nullptr;       // of a stream with times
};

/// Memory of `Traced<D>` and the operations on it, recorded on their streams: on the device itself,
/// where `Inner` is `D`, or on the host beside it, where it is `D::Host&`.
template <class D, class Inner>
class TracedPlace {
  using Place = std::remove_reference_t<Inner>;
  static constexpr bool is_host = std::is_reference_v<Inner>;
  static constexpr bool stamps = Stamps<D>;

 public:
  using Stream = TracedStream<D>;
  static constexpr bool runs_on_host = std::is_base_of_v<Cpu, Place> || requires {
    requires Place::runs_on_host;
  };
  static constexpr bool shares_memory = Place::shares_memory;
  template <class T>
  using Buffer = typename Place::template Buffer<T>;

  template <class... Arguments>
  explicit TracedPlace(Trace& trace, std::size_t rank, Arguments&&... arguments)
      : trace_{&trace}, rank_{rank}, device_(std::forward<Arguments>(arguments)...) {}
  TracedPlace(const TracedPlace&) = delete;
  TracedPlace& operator=(const TracedPlace&) = delete;

  template <class T>
  Buffer<T> allocate(std::size_t count, Purpose purpose) {
    return device_.template allocate<T>(count, purpose);
  }
  decltype(auto) account() { return device_.account(); }
  decltype(auto) account() const { return device_.account(); }
  std::size_t available_bytes() const requires requires(const Place& place) {
    place.available_bytes();
  }
  { return device_.available_bytes(); }

  template <std::size_t R, std::size_t W, class Work>
  void run(Stream& stream, const Reads<R>& reads, const Writes<W>& writes, Work&& work,
           SourceLocation where = SourceLocation::current()) {
    static_assert(runs_on_host || stamps, "a GPU's operations cannot be traced without its time");
    if constexpr (!runs_on_host) {
      between(stream, where,
              [&] { device_.run(stream.inner_, reads, writes, std::forward<Work>(work), where); });
    } else if constexpr (stamps) {
      StreamTrace* trace = trace_of(stream);
      device_.run(
          stream.inner_, reads, writes,
          [times = trace->times(), work = std::forward<Work>(work)]() mutable {
            const StampedScope scope{times};
            work();
          },
          where);
      trace->end(where, ++stream.enqueued_, is_host);
    } else {
      device_.run(
          stream.inner_, reads, writes,
          [trace = trace_of(stream), where, number = ++stream.enqueued_,
           work = std::forward<Work>(work)]() mutable {
            const TracedScope scope{*trace, where, number};
            work();
          },
          where);
    }
  }
  template <std::size_t R, std::size_t W, class Functor>
  void for_each(Stream& stream, std::size_t count, const Reads<R>& reads, const Writes<W>& writes,
                Functor functor, SourceLocation where = SourceLocation::current()) {
    between(stream, where,
            [&] { device_.for_each(stream.inner_, count, reads, writes, functor, where); });
  }
  /// What a library enqueues by itself, where the device lets it.
  template <std::size_t R, std::size_t W, class Launch, class Danger>
  void enqueue(Stream& stream, const Reads<R>& reads, const Writes<W>& writes, Launch&& launch,
               const Danger& danger, SourceLocation where = SourceLocation::current()) {
    between(stream, where, [&] {
      device_.enqueue(stream.inner_, reads, writes, std::forward<Launch>(launch), danger, where);
    });
  }
  template <class T>
  void copy(Stream& stream, std::span<const T> from, std::span<T> to,
            SourceLocation where = SourceLocation::current()) {
    between(stream, where, [&] { device_.copy(stream.inner_, from, to, where); });
  }
  template <class From, class To>
  void cast(Stream& stream, std::span<const From> from, std::span<To> to,
            SourceLocation where = SourceLocation::current()) {
    between(stream, where, [&] { device_.cast(stream.inner_, from, to, where); });
  }
  template <class T>
  void fill_zero(Stream& stream, std::span<T> to,
                 SourceLocation where = SourceLocation::current()) {
    between(stream, where, [&] { device_.fill_zero(stream.inner_, to, where); });
  }
  template <class T, class Sum>
  void sum_squares(Stream& stream, std::span<const T> values, Sum* sum,
                   SourceLocation where = SourceLocation::current()) {
    between(stream, where, [&] { device_.sum_squares(stream.inner_, values, sum, where); });
  }
  template <class T>
  void retire(Stream& stream, std::span<T> dead) {
    device_.retire(stream.inner_, dead);
  }
  void note_live(Stream& stream, Purpose purpose, std::size_t size_bytes) {
    device_.note_live(stream.inner_, purpose, size_bytes);
    if constexpr (stamps) stamp(stream, trace_of(stream)->times());
    mark(stream, [trace = trace_of(stream), purpose, size_bytes] {
      trace->note_live(purpose, size_bytes, is_host);
    });
  }

 protected:
  StreamTrace* trace_of(Stream& stream) {
    if (stream.trace_ == nullptr) stream.trace_ = &trace_->add_stream(rank_, "stream");
    return stream.trace_;
  }
  /// An operation that writes into the trace when its turn comes; at once where only times are
  /// written then.
  template <class Note>
  void mark(Stream& stream, Note note, SourceLocation where = SourceLocation::current()) {
    if constexpr (stamps)
      note();
    else
      device_.run(stream.inner_, reads(), writes(), note, where);
  }
  /// Lets the stream write the time, by the clock of who works here. Null: nowhere.
  void stamp(Stream& stream, std::int64_t* to) {
    if (to == nullptr) return;
    if constexpr (is_host)
      device_.run(stream.inner_, reads(), writes(), [to] { StampedScope::stamp(to); });
    else
      device_.stamp(stream.inner_, to);
  }
  /// Records what `enqueue` puts on the stream as one operation.
  template <class Enqueue>
  void between(Stream& stream, SourceLocation where, Enqueue enqueue) {
    StreamTrace* trace = trace_of(stream);
    if constexpr (stamps) {
      std::int64_t* const times = trace->times();
      stamp(stream, times);
      enqueue();
      stamp(stream, times == nullptr ? nullptr : times + 1);
      trace->end(where, ++stream.enqueued_, is_host);
    } else {
      mark(
          stream, [trace] { trace->begin(); }, where);
      enqueue();
      const std::size_t number = ++stream.enqueued_;
      mark(
          stream, [trace, where, number] { trace->end(where, number); }, where);
    }
  }

  Trace* trace_;
  std::size_t rank_;
  Inner device_;

  friend class TracedStream<D>;
};

/// The host beside `D`, where it has one. It is made when it is first asked for.
template <class D>
class TracedHost {};
template <HasHost D>
class TracedHost<D> {
 public:
  using Host = TracedPlace<D, typename D::Host&>;

 protected:
  std::optional<Host> host_place_;
};

}  // namespace detail

}  // namespace shardexpr
