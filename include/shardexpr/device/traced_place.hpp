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
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

namespace shardexpr {

template <class D>
class Traced;

namespace detail {

/// A stream of `D` and where its trace is written.
template <class D>
class TracedStream {
 public:
  /// Without a name or a device: it is called "stream" and recorded from its first operation.
  TracedStream() requires std::default_initializable<typename D::Stream>
  = default;
  TracedStream(Traced<D>& device, std::string_view name)
      : inner_{device.device_, name}, trace_{&device.trace_->add_stream(device.rank_, name)} {}
  TracedStream(Traced<D>& device, std::string_view name, OwnThread own) requires
      std::constructible_from<typename D::Stream, D&, std::string_view, OwnThread>
      : inner_{device.device_, name, own}, trace_{&device.trace_->add_stream(device.rank_, name)} {}

 private:
  friend class Traced<D>;
  template <class, class>
  friend class TracedPlace;
  typename D::Stream inner_;
  StreamTrace* trace_ = nullptr;
  std::size_t enqueued_ = 0;  // operations so far
};

/// Memory of `Traced<D>` and the operations on it, recorded on their streams: on the device itself,
/// where `Inner` is `D`, or on the host beside it, where it is `D::Host&`.
template <class D, class Inner>
class TracedPlace {
  using Place = std::remove_reference_t<Inner>;
  static constexpr bool is_host = std::is_reference_v<Inner>;

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
    device_.run(
        stream.inner_, reads, writes,
        [trace = trace_of(stream), where, number = ++stream.enqueued_,
         work = std::forward<Work>(work)]() mutable {
          const TracedScope scope{*trace, where, number};
          work();
        },
        where);
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
    mark(stream, [trace = trace_of(stream), purpose, size_bytes] {
      trace->note_live(purpose, size_bytes, is_host);
    });
  }

 protected:
  StreamTrace* trace_of(Stream& stream) {
    if (stream.trace_ == nullptr) stream.trace_ = &trace_->add_stream(rank_, "stream");
    return stream.trace_;
  }
  /// An operation that writes into the trace when its turn comes.
  template <class Note>
  void mark(Stream& stream, Note note, SourceLocation where = SourceLocation::current()) {
    device_.run(stream.inner_, reads(), writes(), note, where);
  }
  /// Records what `enqueue` puts on the stream as one operation.
  template <class Enqueue>
  void between(Stream& stream, SourceLocation where, Enqueue enqueue) {
    StreamTrace* trace = trace_of(stream);
    mark(
        stream, [trace] { trace->begin(); }, where);
    enqueue();
    const std::size_t number = ++stream.enqueued_;
    mark(
        stream, [trace, where, number] { trace->end(where, number); }, where);
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
