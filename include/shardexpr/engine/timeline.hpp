// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/policy/offload.hpp>
#include <shardexpr/policy/sharding.hpp>

#include <array>
#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr::detail {

/// The streams of a trainer. All collectives of one communicator go to one stream; so does what
/// goes one way between device and host, or between host and disk.
enum StreamId : std::size_t {
  compute_stream,
  comm_stream,
  copies_stream,
  up_stream,    // host to device
  down_stream,  // device to host
  host_stream,  // what the host computes
  read_stream,  // disk to host
  write_stream  // host to disk
};
inline constexpr std::array<std::string_view, 8> stream_names{
    "compute", "communication", "copies", "up", "down", "host", "disk reads", "disk writes"};

/// The streams of one rank and what each knows of the others: a wait is enqueued only where nothing
/// before it, on whatever way, has ordered the same. So every event wait of the engine is needed,
/// and a test drops them one by one to see that.
///
/// `Ids`: the streams that there are; to name another is a mistake.
template <class D, StreamId... Ids>
class Timeline {
  static constexpr std::size_t N = sizeof...(Ids);

 public:
  /// Whether there is such a stream.
  static constexpr bool has(StreamId id) { return ((Ids == id) || ...); }

  /// A point in a stream. A default mark is one that everyone has passed.
  struct Mark {
    std::size_t stream = 0;  // its place among those that there are
    std::size_t position = 0;
    std::array<std::size_t, N> knows{};  // of each stream, what has happened at this point
    std::size_t event = 0;
  };

  /// What an operation must come after: of each stream the last point suffices.
  class Needs {
   public:
    void add(const Mark& mark) {
      Mark& last = last_[mark.stream];
      if (mark.position > last.position) last = mark;
    }
    void add(const Needs& others) {
      for (const Mark& mark : others.last_) add(mark);
    }

   private:
    friend class Timeline;
    std::array<Mark, N> last_{};
  };

  /// `events`: as many marks may be waited for before the first is forgotten; a wait for an older
  /// one waits for a later point, which is safe.
  Timeline(D& device, std::size_t events)
      : device_{&device}, events_(events), streams_{make_stream<Ids>(device)...} {}

  /// To enqueue on.
  Context<D> context(StreamId id) { return {*device_, enqueue(id)}; }
  /// To enqueue what the host computes on the host's memory.
  template <class Host>
  Context<Host> context(StreamId id, Host& host) {
    return {host, enqueue(id)};
  }
  /// To tell something that is no operation.
  typename D::Stream& operator[](StreamId id) { return streams_[place_of(id)]; }

  /// The point after all that is enqueued on a stream.
  Mark mark(StreamId id) {
    const std::size_t s = place_of(id);
    if (!has_more_[s]) return last_[s];
    has_more_[s] = false;
    ++knows_[s][s];
    const std::size_t event = next_event_++ % events_.size();
    device_->record(events_[event], streams_[s]);
    return last_[s] = {s, knows_[s][s], knows_[s], event};
  }

  /// What is enqueued on a stream from now on comes after all of `needs`.
  void order(StreamId id, const Needs& needs) {
    const std::size_t s = place_of(id);
    for (const Mark& mark : needs.last_) {
      if (knows_[s][mark.stream] >= mark.position) continue;
      bool implied = false;  // by another one that is waited for as well
      for (const Mark& other : needs.last_)
        implied = implied || (other.stream != mark.stream && other.stream != s &&
                              knows_[s][other.stream] < other.position &&
                              other.knows[mark.stream] >= mark.position);
      if (!implied) device_->wait(streams_[s], events_[mark.event]);
    }
    for (const Mark& mark : needs.last_)
      if (mark.position != 0) learn(s, mark.knows);
  }
  void order(StreamId id, const Mark& mark) {
    Needs needs;
    needs.add(mark);
    order(id, needs);
  }

  /// The host waits; what it enqueues later, on any stream, comes after.
  void synchronize(StreamId id) { synchronize_at(place_of(id)); }
  void synchronize() {
    for (std::size_t s = 0; s < N; ++s) synchronize_at(s);
  }
  /// Waits without throwing: for unwinding.
  void drain() noexcept {
    for (std::size_t s = 0; s < N; ++s) device_->drain(streams_[s]);
  }

 private:
  template <StreamId id>
  static typename D::Stream make_stream(D& device) {
    if constexpr (id == read_stream || id == write_stream)
      return {device, stream_names[id], OwnThread{}};
    else
      return {device, stream_names[id]};
  }
  static constexpr std::size_t place_of(StreamId id) {
    std::size_t place = 0, found = N;
    ((Ids == id ? found = place++ : place++), ...);
    return found;
  }
  typename D::Stream& enqueue(StreamId id) {
    has_more_[place_of(id)] = true;
    return streams_[place_of(id)];
  }
  void synchronize_at(std::size_t s) {
    device_->synchronize(streams_[s]);
    const auto known = knows_[s];
    for (std::size_t t = 0; t < N; ++t) learn(t, known);
  }
  void learn(std::size_t s, const std::array<std::size_t, N>& known) {
    for (std::size_t t = 0; t < N; ++t)
      if (known[t] > knows_[s][t]) knows_[s][t] = known[t];
  }

  D* device_;
  std::vector<typename D::Event> events_;  // outlive the streams that use them
  std::array<typename D::Stream, N> streams_;
  std::array<std::array<std::size_t, N>, N> knows_{};
  std::array<Mark, N> last_{};
  std::array<bool, N> has_more_{};  // since the last mark
  std::size_t next_event_ = 0;
};

/// The timeline of a strategy: the streams that it has a use for.
template <class S>
struct TimelineOf {
  static constexpr bool is_used(StreamId id) {
    switch (id) {
      case copies_stream:
        return group_of<typename S::sharding> != 0;
      case up_stream:
      case down_stream:
        return is_offloaded<S>;
      case host_stream:
        return optimizer_place<S> != Place::device;
      case read_stream:
      case write_stream:
        return is_on_disk<S>;
      default:
        return true;
    }
  }
  static constexpr std::size_t count = [] {
    std::size_t n = 0;
    for (std::size_t id = 0; id < stream_names.size(); ++id) n += is_used(StreamId{id});
    return n;
  }();
  static constexpr std::array<StreamId, count> ids = [] {
    std::array<StreamId, count> used{};
    std::size_t n = 0;
    for (std::size_t id = 0; id < stream_names.size(); ++id)
      if (is_used(StreamId{id})) used[n++] = StreamId{id};
    return used;
  }();
  template <std::size_t... I>
  static Timeline<typename S::device, ids[I]...> make(std::index_sequence<I...>);
  using type = decltype(make(std::make_index_sequence<count>{}));
};

}  // namespace shardexpr::detail
