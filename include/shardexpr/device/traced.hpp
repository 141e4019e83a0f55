// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/device/label.hpp>
#include <shardexpr/device/trace.hpp>
#include <shardexpr/device/traced_place.hpp>

#include <concepts>
#include <cstddef>
#include <optional>
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
/// Where `D` is a GPU, its operations are timed by its own clock: two kernels of one thread around
/// each write it to pinned memory, and what was recorded can be read when the stream was waited for
/// or has ended. How that clock stands to the host's is measured once a device, so that what the
/// host does on these streams lies beside it only so far as the trace says (`clock_match`); what
/// the GPU does on several streams is of one clock.
///
/// Order:   as `D`; what is recorded about a stream is in the order of its operations.
/// Errors:  those of `D`; an operation of `run` that throws is recorded, too.
/// Cost:    two readings of the clock an operation, 88 bytes of the stream's buffer, no allocation
///          and no lock. What is not `run` is three operations of `D`. On a GPU 16 bytes of pinned
///          memory more for each event that a stream may record.
template <class D>
class Traced : public detail::TracedPlace<D, D>, public detail::TracedHost<D> {
  using Place = detail::TracedPlace<D, D>;
  using Place::device_, Place::mark, Place::rank_, Place::trace_, Place::trace_of;
  friend detail::TracedStream<D>;

 public:
  using Stream = typename Place::Stream;

  /// A point in a stream, with what a wait for it is recorded as.
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
      : Place{trace, rank, std::forward<Arguments>(arguments)...} {}
  Traced(const Traced&) = delete;
  Traced& operator=(const Traced&) = delete;

  /// Memory that nobody is charged for, where `D` gives such.
  void* allocate_zeroed(std::size_t size_bytes) requires requires(D& device) {
    device.allocate_zeroed(size_bytes);
  }
  { return device_.allocate_zeroed(size_bytes); }
  static void deallocate(void* memory) requires requires { D::deallocate(memory); }
  { D::deallocate(memory); }
  /// Outside of all streams, and so not recorded.
  template <class Functor>
  static void for_each_at_once(std::size_t count, const Functor& functor) {
    D::for_each_at_once(count, functor);
  }
  /// As `D` says.
  decltype(auto) execution() const requires requires(const D& device) { device.execution(); }
  { return device_.execution(); }

  /// The host beside the device: what is done there is recorded on the streams that it takes.
  auto& host() requires HasHost<D> {
    if (!this->host_place_) this->host_place_.emplace(*trace_, rank_, device_.host());
    return *this->host_place_;
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
  void synchronize(Stream& stream) {
    device_.synchronize(stream.inner_);
    stream.complete();
  }
  void drain(Stream& stream) noexcept {
    device_.drain(stream.inner_);
    stream.complete();
  }

  void annotate(Stream& stream, const Label& label) {
    device_.annotate(stream.inner_, label);
    mark(stream, [trace = trace_of(stream), label] { trace->annotate(label); });
  }

 private:
  const detail::ClockMatch& clock_match() requires detail::Stamps<D> {
    if (!clock_match_) clock_match_ = device_.match_clocks();
    return *clock_match_;
  }
  std::optional<detail::ClockMatch> clock_match_;
};

static_assert(Device<Traced<Cpu>> && HasHost<Traced<Cpu>>);

}  // namespace shardexpr
