// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/device/label.hpp>
#include <shardexpr/device/trace.hpp>

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

namespace shardexpr {

/// A device that records what `D` does: each operation's begin and end, when it runs, in the thread
/// that runs it; whom it serves; who waited for whom; how many bytes were live.
///
///   sx::Trace trace;  // one for all ranks
///   sx::launch(2, [&](sx::Threads& comm) {
///     sx::Traced<sx::Cpu> device{trace, comm.rank()};
///     ...
///   });
///   sx::write_trace(file, trace);  // device/trace_json.hpp
///
/// Order:   as `D`; what is recorded about a stream is in the order of its operations.
/// Errors:  those of `D`; an operation of `run` that throws is recorded, too.
/// Cost:    two readings of the clock an operation, 80 bytes of the stream's buffer, no allocation
///          and no lock. What is not `run` is three operations of `D`.
template <class D>
class Traced {
 public:
  static constexpr bool runs_on_host = std::is_base_of_v<Cpu, D> || requires {
    requires D::runs_on_host;
  };
  template <class T>
  using Buffer = typename D::template Buffer<T>;

  class Stream {
   public:
    /// Without a name or a device: it is called "stream" and recorded from its first operation.
    Stream() requires std::default_initializable<typename D::Stream>
    = default;
    Stream(Traced& device, std::string_view name)
        : inner_{device.device_, name}, trace_{&device.trace_->add_stream(device.rank_, name)} {}

   private:
    friend class Traced;
    typename D::Stream inner_;
    detail::StreamTrace* trace_ = nullptr;
    std::size_t enqueued_ = 0;  // operations so far
  };

  class Event {
    friend class Traced;
    typename D::Event inner_;
    const detail::StreamTrace* source_ = nullptr;
    std::size_t number_ = 0;  // of the last operation before the point
  };

  /// The device of a rank, made of `arguments`. The trace must outlive it.
  template <class... Arguments>
    requires std::constructible_from<D, Arguments...>
  explicit Traced(Trace& trace, std::size_t rank, Arguments&&... arguments)
      : trace_{&trace}, rank_{rank}, device_(std::forward<Arguments>(arguments)...) {}
  Traced(const Traced&) = delete;
  Traced& operator=(const Traced&) = delete;

  template <class T>
  Buffer<T> allocate(std::size_t count, Purpose purpose) {
    return device_.template allocate<T>(count, purpose);
  }
  static void* allocate_zeroed(std::size_t size_bytes) requires requires {
    D::allocate_zeroed(size_bytes);
  }
  { return D::allocate_zeroed(size_bytes); }
  decltype(auto) account() { return device_.account(); }
  decltype(auto) account() const { return device_.account(); }
  decltype(auto) execution() const requires requires(const D& device) { device.execution(); }
  { return device_.execution(); }

  template <std::size_t R, std::size_t W, class Work>
  void run(Stream& stream, const Reads<R>& reads, const Writes<W>& writes, Work&& work,
           SourceLocation where = SourceLocation::current()) {
    device_.run(
        stream.inner_, reads, writes,
        [trace = trace_of(stream), where, number = ++stream.enqueued_,
         work = std::forward<Work>(work)]() mutable {
          const detail::TracedScope scope{*trace, where, number};
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

  void record(Event& event, Stream& stream) {
    device_.record(event.inner_, stream.inner_);
    event.source_ = stream.trace_;
    event.number_ = stream.enqueued_;
  }
  void wait(Stream& stream, const Event& event) {
    device_.wait(stream.inner_, event.inner_);
    if (event.number_ == 0 || event.source_ == stream.trace_) return;  // nothing to wait for
    mark(stream, [trace = trace_of(stream), source = event.source_, number = event.number_] {
      trace->join(*source, number);
    });
  }
  void synchronize(Stream& stream) { device_.synchronize(stream.inner_); }
  void drain(Stream& stream) noexcept { device_.drain(stream.inner_); }

  void annotate(Stream& stream, const Label& label) {
    device_.annotate(stream.inner_, label);
    mark(stream, [trace = trace_of(stream), label] { trace->annotate(label); });
  }
  template <class T>
  void retire(Stream& stream, std::span<T> dead) {
    device_.retire(stream.inner_, dead);
  }
  void note_live(Stream& stream, Purpose purpose, std::size_t size_bytes) {
    device_.note_live(stream.inner_, purpose, size_bytes);
    mark(stream, [trace = trace_of(stream), purpose, size_bytes] {
      trace->note_live(purpose, size_bytes);
    });
  }

 private:
  detail::StreamTrace* trace_of(Stream& stream) {
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
    detail::StreamTrace* trace = trace_of(stream);
    mark(
        stream, [trace] { trace->begin(); }, where);
    enqueue();
    const std::size_t number = ++stream.enqueued_;
    mark(
        stream, [trace, where, number] { trace->end(where, number); }, where);
  }

  Trace* trace_;
  std::size_t rank_;
  D device_;
};

static_assert(Device<Traced<Cpu>>);

}  // namespace shardexpr
