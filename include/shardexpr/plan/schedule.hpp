// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/layout.hpp>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace shardexpr {

/// The order of a training step, in one place: the engine executes it, the plan counts it, tests
/// record it. The units' order is in the model's type, so nothing is traced or decided in a step.
///
/// A visitor has `gather(u)`, `release(u)`, `open_gradients(u)`, `reduce(u)`, `update(u)`,
/// `publish(u)` and `forward<S>(u)`, `backward<S>(u)`, u a unit's place in forward order, S its
/// stage. In the pass of unit i, for FullShard:
///
///   forward:   gather what i needs and is not here; compute i; release what i+1 does not need
///   backward:  gather; open gradients; compute i; release; reduce what no earlier unit adds to
///   update:    for each unit, update what this rank owns, publish what the others need of it
///
/// What the last unit computes with stays gathered from its forward to its backward: they are
/// adjacent.
template <class Strategy, class Model>
class Schedule {
  using Sharding = typename Strategy::sharding;

 public:
  // Vectors are given their value here and in the plan: clang 14 makes no vector(n) in constants.
  constexpr explicit Schedule(const Layout<Model>& layout)
      : layout_{&layout},
        gathered_(layout.unit_count(), false),
        open_(layout.unit_count(), false) {}

  /// Forward of every unit. What the last unit needs stays gathered for `backward`; `release_all`
  /// ends a pass that no backward follows.
  template <class Visitor>
  constexpr void forward(Visitor& visitor) {
    Layout<Model>::for_each_stage([&]<std::size_t S>() {
      for (std::size_t i = 0; i < layout_->count(S); ++i) {
        const std::size_t u = layout_->first_unit(S) + i;
        gather_for(u, visitor);
        visitor.template forward<S>(u);
        const bool is_last = u + 1 == layout_->unit_count();
        release_unless_needed(u, is_last ? u : u + 1, visitor);
      }
    });
  }

  template <class Visitor>
  constexpr void backward(Visitor& visitor) {
    for_each_stage_reversed([&]<std::size_t S>() {
      for (std::size_t i = layout_->count(S); i-- > 0;) {
        const std::size_t u = layout_->first_unit(S) + i;
        gather_for(u, visitor);
        for (std::size_t t : layout_->unit(u).touches)
          if (!open_[t]) {
            visitor.open_gradients(t);
            open_[t] = 1;
          }
        visitor.template backward<S>(u);
        if (u == 0)
          release_all(visitor);
        else
          release_unless_needed(u, u - 1, visitor);
        for (std::size_t t : layout_->unit(u).touches)
          if (layout_->unit(t).first_toucher == u) {
            visitor.reduce(t);
            open_[t] = 0;
          }
      }
    });
  }

  template <class Visitor>
  constexpr void update(Visitor& visitor) {
    for (std::size_t u = 0; u < layout_->unit_count(); ++u) {
      visitor.update(u);
      if constexpr (Sharding::optimizer && !Sharding::parameters) visitor.publish(u);
    }
  }

  template <class Visitor>
  constexpr void release_all(Visitor& visitor) {
    for (std::size_t u = 0; u < layout_->unit_count(); ++u) release(u, visitor);
  }

 private:
  template <class Visitor>
  constexpr void gather_for(std::size_t u, Visitor& visitor) {
    if constexpr (Sharding::parameters)
      for (std::size_t t : layout_->unit(u).touches)
        if (!gathered_[t]) {
          visitor.gather(t);
          gathered_[t] = 1;
        }
  }
  template <class Visitor>
  constexpr void release_unless_needed(std::size_t u, std::size_t next, Visitor& visitor) {
    const auto& needed = layout_->unit(next).touches;
    for (std::size_t t : layout_->unit(u).touches)
      if (std::find(needed.begin(), needed.end(), t) == needed.end()) release(t, visitor);
  }
  template <class Visitor>
  constexpr void release(std::size_t u, Visitor& visitor) {
    if (!gathered_[u]) return;
    visitor.release(u);
    gathered_[u] = 0;
  }

  template <class Visit>
  static constexpr void for_each_stage_reversed(Visit&& visit) {
    constexpr std::size_t n = Layout<Model>::stage_count;
    [&]<std::size_t... S>(std::index_sequence<S...>) {
      (visit.template operator()<n - 1 - S>(), ...);
    }
    (std::make_index_sequence<n>{});
  }

  const Layout<Model>* layout_;
  std::vector<char> gathered_, open_;  // flags by unit
};

}  // namespace shardexpr
