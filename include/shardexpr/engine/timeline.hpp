// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/concepts.hpp>

#include <array>
#include <cstddef>
#include <string_view>
#include <vector>

namespace shardexpr::detail {

/// The streams of a trainer. All collectives of one communicator go to one stream.
enum StreamId : std::size_t { compute_stream, comm_stream, copies_stream };
inline constexpr std::array<std::string_view, 3> stream_names{"compute", "communication", "copies"};

/// The streams of one rank and what each knows of the others: a wait is enqueued only where nothing
/// before it, on whatever way, has ordered the same. So every event wait of the engine is needed,
/// and a test drops them one by one to see that.
template <class D, std::size_t N>
class Timeline {
 public:
  /// A point in a stream. A default mark is one that everyone has passed.
  struct Mark {
    std::size_t stream = 0;
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

   private:
    friend class Timeline;
    std::array<Mark, N> last_{};
  };

  /// `events`: as many marks may be waited for before the first is forgotten; a wait for an older
  /// one waits for a later point, which is safe.
  Timeline(D& device, std::size_t events)
      : device_{&device}, events_(events), streams_(make_streams(device, streams_of_n{})) {}

  /// To enqueue on.
  Context<D> context(std::size_t s) {
    has_more_[s] = true;
    return {*device_, streams_[s]};
  }
  /// To tell something that is no operation.
  typename D::Stream& operator[](std::size_t s) { return streams_[s]; }

  /// The point after all that is enqueued on `s`.
  Mark mark(std::size_t s) {
    if (!has_more_[s]) return last_[s];
    has_more_[s] = false;
    ++knows_[s][s];
    const std::size_t event = next_event_++ % events_.size();
    device_->record(events_[event], streams_[s]);
    return last_[s] = {s, knows_[s][s], knows_[s], event};
  }

  /// What is enqueued on `s` from now on comes after all of `needs`.
  void order(std::size_t s, const Needs& needs) {
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
  void order(std::size_t s, const Mark& mark) {
    Needs needs;
    needs.add(mark);
    order(s, needs);
  }

  /// The host waits; what it enqueues later, on any stream, comes after.
  void synchronize(std::size_t s) {
    device_->synchronize(streams_[s]);
    const auto known = knows_[s];
    for (std::size_t t = 0; t < N; ++t) learn(t, known);
  }
  void synchronize() {
    for (std::size_t s = 0; s < N; ++s) synchronize(s);
  }
  /// Waits without throwing: for unwinding.
  void drain() noexcept {
    for (std::size_t s = 0; s < N; ++s) device_->drain(streams_[s]);
  }

 private:
  using streams_of_n = std::make_index_sequence<N>;
  template <std::size_t... S>
  static std::array<typename D::Stream, N> make_streams(D& device, std::index_sequence<S...>) {
    return {typename D::Stream{device, stream_names[S]}...};
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

}  // namespace shardexpr::detail
