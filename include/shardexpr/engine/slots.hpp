// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/account.hpp>

#include <array>
#include <cstddef>
#include <span>

namespace shardexpr::detail {

/// Memory in N equal pieces that are used in turns, and what each waits for before its next use.
///
/// Units:   `count` is of all pieces together, a multiple of N.
template <class D, class T, class Timeline, std::size_t N>
class Slots {
  using Mark = typename Timeline::Mark;

 public:
  Slots(D& place, std::size_t count, Purpose purpose = Purpose::transfers)
      : memory_{place.template allocate<T>(count, purpose)}, count_{count / N} {}

  /// The next piece. Who takes it orders what it enqueues behind `last_use`.
  std::size_t take() { return next_++ % N; }
  const typename Timeline::Needs& last_use(std::size_t slot) const { return last_use_[slot]; }
  /// The piece is not free before `mark`.
  void add_use(std::size_t slot, const Mark& mark) { last_use_[slot].add(mark); }

  T* at(std::size_t slot) const { return memory_.data() + slot * count_; }
  std::span<T> span(std::size_t slot) const { return {at(slot), count_}; }

 private:
  typename D::template Buffer<T> memory_;
  std::size_t count_, next_ = 0;
  std::array<typename Timeline::Needs, N> last_use_{};
};

}  // namespace shardexpr::detail
