// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/label.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shardexpr {

/// How much a trace keeps.
struct TraceOptions {
  /// What a stream can record; 88 bytes each, allocated with the stream.
  std::size_t events_per_stream = std::size_t{1} << 16;
};

namespace detail {

class StreamTrace;

/// How a device's clock stands to the host's steady one: both in ns, the device's plus `offset_ns`
/// is the host's, but for `uncertainty_ns` either way.
struct ClockMatch {
  std::int64_t offset_ns = 0, uncertainty_ns = 0;
};

enum class TraceKind { operation, annotation, join, live_bytes };

/// One thing that a stream did. Members that its kind does not name are unused.
struct TraceEvent {
  TraceKind kind{};
  bool on_host = false;                 // live_bytes; operation: timed by the host's clock
  Purpose purpose{};                    // live_bytes
  std::int64_t begin_ns = 0;            // operation, live_bytes
  std::int64_t end_ns = 0;              // operation
  std::size_t number = 0;               // operation: its own; join: the last that is waited for
  SourceLocation where{};               // operation
  Label label{};                        // annotation
  const StreamTrace* source = nullptr;  // join
  std::size_t size_bytes = 0;           // live_bytes
};

/// What one stream did, in order. The stream's own operations write, one at a time, into memory
/// that is there beforehand; anybody may read what is complete. When it is full, it keeps what it
/// has and counts what it drops.
///
/// Operations of a GPU cannot write here. For a stream of one, who enqueues writes, and the stream
/// only the times, into memory apart (`stamp_into`); when it was waited for, `complete` adds them.
class StreamTrace {
 public:
  using Clock = std::chrono::steady_clock;

  StreamTrace(std::size_t rank, std::string_view name, std::size_t capacity, Clock::time_point zero)
      : rank_{rank}, name_{name}, zero_{zero}, events_(capacity) {}
  StreamTrace(const StreamTrace&) = delete;
  StreamTrace& operator=(const StreamTrace&) = delete;

  void begin() { begin_ns_ = now_ns(); }
  void end(SourceLocation where, std::size_t number, bool on_host = false) {
    if (TraceEvent* event = next(TraceKind::operation)) {
      event->begin_ns = begin_ns_;
      event->end_ns = now_ns();
      event->on_host = on_host;
      event->where = where;
      event->number = number;
      publish();
    }
  }
  void annotate(const Label& label) {
    if (TraceEvent* event = next(TraceKind::annotation)) {
      event->label = label;
      publish();
    }
  }
  void join(const StreamTrace& source, std::size_t number) {
    if (TraceEvent* event = next(TraceKind::join)) {
      event->source = &source;
      event->number = number;
      publish();
    }
  }
  void note_live(Purpose purpose, std::size_t size_bytes, bool on_host) {
    if (TraceEvent* event = next(TraceKind::live_bytes)) {
      event->on_host = on_host;
      event->purpose = purpose;
      event->size_bytes = size_bytes;
      event->begin_ns = now_ns();
      publish();
    }
  }

  /// Lets times be written to `times`, two of each event, zero until then: the host's, as `Clock`
  /// counts them, or those of another clock.
  void stamp_into(std::int64_t* times, const ClockMatch& match) {
    times_ = times;
    match_ = match;
  }
  /// Where the next event's begin and end go; null when there is no room for it.
  std::int64_t* times() { return reserved_ == events_.size() ? nullptr : times_ + 2 * reserved_; }
  /// Makes known what has its times, as far as all before it has. To be called by who enqueues,
  /// behind a wait for the stream.
  void complete() {
    std::size_t count = count_.load(std::memory_order_relaxed);
    for (; count < reserved_; ++count) {
      TraceEvent& event = events_[count];
      const std::int64_t* times = times_ + 2 * count;
      const bool lasts = event.kind == TraceKind::operation;
      if (lasts || event.kind == TraceKind::live_bytes) {
        if (times[0] == 0 || (lasts && times[1] == 0)) break;  // it never ran
        event.begin_ns = in_turn(event, times[0]);
        if (lasts) event.end_ns = in_turn(event, times[1]);
      }
    }
    count_.store(count, std::memory_order_release);
  }
  const ClockMatch& clock_match() const { return match_; }

  std::size_t rank() const { return rank_; }
  const std::string& name() const { return name_; }
  std::span<const TraceEvent> events() const {
    return {events_.data(), count_.load(std::memory_order_acquire)};
  }
  std::size_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  TraceEvent* next(TraceKind kind) {
    if (reserved_ == events_.size()) {
      dropped_.store(dropped_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      return nullptr;
    }
    events_[reserved_].kind = kind;
    return &events_[reserved_];
  }
  void publish() {
    ++reserved_;
    if (times_ == nullptr) count_.store(reserved_, std::memory_order_release);
  }
  /// A time since the trace began, not before the one before it: two clocks agree only so far.
  std::int64_t in_turn(const TraceEvent& event, std::int64_t time) {
    if (!event.on_host) time += match_.offset_ns;
    const std::chrono::nanoseconds zero = zero_.time_since_epoch();
    return last_ns_ = std::max(last_ns_, time - zero.count());
  }
  std::int64_t now_ns() const {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - zero_).count();
  }

  std::size_t rank_;
  std::string name_;
  Clock::time_point zero_;
  std::vector<TraceEvent> events_;
  std::int64_t begin_ns_ = 0;  // of the operation that runs
  std::size_t reserved_ = 0;   // events that are there, with their times or not
  std::atomic<std::size_t> count_{0}, dropped_{0};
  std::int64_t* times_ = nullptr;
  std::int64_t last_ns_ = 0;
  ClockMatch match_;
};

/// Records one operation, also when it throws.
class TracedScope {
 public:
  TracedScope(StreamTrace& trace, SourceLocation where, std::size_t number)
      : trace_{trace}, where_{where}, number_{number} {
    trace_.begin();
  }
  TracedScope(const TracedScope&) = delete;
  TracedScope& operator=(const TracedScope&) = delete;
  ~TracedScope() { trace_.end(where_, number_); }

 private:
  StreamTrace& trace_;
  SourceLocation where_;
  std::size_t number_;
};

/// The same of an operation of the host on a stream whose times lie apart.
class StampedScope {
 public:
  explicit StampedScope(std::int64_t* times) : times_{times} { stamp(times_); }
  StampedScope(const StampedScope&) = delete;
  StampedScope& operator=(const StampedScope&) = delete;
  ~StampedScope() {
    if (times_ != nullptr) stamp(times_ + 1);
  }
  static void stamp(std::int64_t* to) {
    if (to == nullptr) return;
    const std::chrono::nanoseconds now = StreamTrace::Clock::now().time_since_epoch();
    *to = now.count();
  }

 private:
  std::int64_t* times_;
};

}  // namespace detail

/// What all ranks of a process recorded through `Traced` devices; `write_trace` writes it. Its
/// clock begins with it. It must outlive the devices and their streams.
///
/// Errors:  ConfigError if a stream may record no event.
class Trace {
 public:
  /// Its clock begins here.
  explicit Trace(TraceOptions options = {}) : options_{options} {
    if (options.events_per_stream == 0)
      throw ConfigError("events_per_stream of a trace must be at least 1");
  }
  Trace(const Trace&) = delete;  // streams point to it
  Trace& operator=(const Trace&) = delete;

  /// What it was made with.
  const TraceOptions& options() const { return options_; }

  /// Events that found their stream's buffer full. A trace that dropped any lacks the end of a
  /// stream: say so where a person looks.
  std::size_t dropped_events() const {
    std::size_t all = 0;
    for (const detail::StreamTrace* stream : streams()) all += stream->dropped();
    return all;
  }

  /// A place to record for one more stream of a rank. The name is copied.
  /// Errors:  std::bad_alloc
  detail::StreamTrace& add_stream(std::size_t rank, std::string_view name) {
    std::scoped_lock lock{mutex_};
    return streams_.emplace_back(rank, name, options_.events_per_stream, zero_);
  }

  /// All streams, by rank and then in the order in which the rank made them.
  std::vector<const detail::StreamTrace*> streams() const {
    std::vector<const detail::StreamTrace*> all;
    {
      std::scoped_lock lock{mutex_};
      for (const detail::StreamTrace& stream : streams_) all.push_back(&stream);
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const auto* a, const auto* b) { return a->rank() < b->rank(); });
    return all;
  }

 private:
  TraceOptions options_;
  detail::StreamTrace::Clock::time_point zero_ = detail::StreamTrace::Clock::now();
  mutable std::mutex mutex_;
  std::deque<detail::StreamTrace> streams_;  // they stay where they are
};

}  // namespace shardexpr
