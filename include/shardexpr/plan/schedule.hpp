// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/policy/prefetch.hpp>
#include <shardexpr/policy/recompute.hpp>
#include <shardexpr/policy/rules.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace shardexpr {

namespace detail {

/// The layout's grouping by a strategy's wrap and persistence.
template <class Strategy, class Model>
constexpr typename Layout<Model>::Grouping grouping_of() {
  typename Layout<Model>::Grouping grouping;
  Layout<Model>::for_each_stage([&]<std::size_t S>() {
    grouping.in_root[S] = !Strategy::wrap::template own<typename Model::Units::template Unit<S>>;
  });
  grouping.least = Strategy::wrap::least;
  grouping.persist_below = Strategy::persistence::persist_below;
  return grouping;
}

/// Whether ranks that keep all of a flat each update a part of it.
template <class Sharding>
constexpr bool is_published(const FlatLayout& flat) {
  return Sharding::optimizer && flat.is_trainable && (!Sharding::parameters || flat.is_persistent);
}

/// Whether a unit's saved activations are rebuilt: it saves some, and the strategy says so.
template <class Strategy, class Unit>
inline constexpr bool rebuilds =
    Strategy::recompute::template rebuilds<Unit>&& saves_something<Unit>;

}  // namespace detail

/// The order of a training step, in one place: the engine executes it, the plan counts it, tests
/// record it. The order of units is in the model's type, so nothing is traced or decided in a step.
///
/// A visitor has, g a group and u a unit, each by its place in forward order, S a unit's stage:
///
///   gather(g)            parts of the sharding -> full parameters
///   keep(g)              before a release: this rank keeps its 1/K (ReshardTo)
///   regather(g)          what `keep` kept, of K ranks -> full parameters
///   release(g)           full parameters are not needed
///   forward<S>(u), rebuild<S>(u), backward<S>(u)
///                        compute; `rebuild` is a forward for what backward wants saved
///   open_gradients(g)    full gradients of zero
///   reduce(g)            full gradients -> what the rank keeps
///   replicate(g)         what the rank keeps -> the mean over the copies (hybrid sharding)
///   close_gradients(g)   full gradients are not needed
///   update(g)            of what the rank keeps
///   publish(g)           what this rank updated -> the ranks that keep it whole
///
/// A step is `forward` and `backward` of each micro-batch, then `update`. Positions count what is
/// computed: 0 ... L-1 the forward of units 0 ... L-1, L ... the backward of units L-1 ... 0.
template <class Strategy, class Model>
class Schedule {
  using Sharding = typename Strategy::sharding;

  static constexpr bool gathers = Sharding::parameters;
  static constexpr bool reshards = Strategy::reshard::ranks != 0;
  static constexpr GatherAhead ahead = Strategy::backward_prefetch::ahead;
  static constexpr std::size_t forward_depth = Strategy::forward_prefetch::depth;
  static constexpr std::size_t bucket = Strategy::prefetch_limit::ahead_elements;
  // One unit ahead, unless a bucket counts.
  static constexpr std::size_t backward_depth = bucket == unlimited ? 1 : unlimited;
  static constexpr std::size_t live_limit = Strategy::live_limit::live_elements;
  static constexpr std::size_t group_limit = Strategy::gather_limit::live_groups;
  static constexpr std::size_t reuse = Strategy::reuse::reuse_elements;
  // BackwardPre is not among them: it is the default.
  static constexpr bool asks_for_groups =
      gathers &&
      (reshards || forward_depth != 0 || ahead == GatherAhead::after_compute ||
       live_limit != unlimited || group_limit != unlimited || bucket != unlimited || reuse != 0);
  // A group's gradients stay while the next are computed, so that their reduction can overlap it;
  // not where the strategy asks for least memory.
  static constexpr bool overlaps_reduce =
      !detail::gathers_in_turn<Strategy>() || ahead != GatherAhead::never;

 public:
  // Vectors are given their value here and in the plan: clang 14 makes no vector(n) in constants.
  /// Errors:  throws ConfigError if a bound of the strategy cannot be kept with this model.
  constexpr explicit Schedule(const Layout<Model>& layout)
      : layout_{&layout},
        gathered_(layout.group_count(), 0),
        ahead_(layout.group_count(), 0),
        kept_(layout.group_count(), 0),
        open_(layout.group_count(), 0),
        seen_(layout.group_count(), 0) {
    reducing_.reserve(layout.group_count());
    measure_needs();
  }

  /// Forward of every unit. What is needed soon stays gathered for `backward`. `evaluate` is a pass
  /// that no backward follows: nothing stays.
  template <class Visitor>
  constexpr void forward(Visitor& visitor) {
    forward_until(positions(), visitor);
  }
  /// Forward of every unit with nothing kept.
  template <class Visitor>
  constexpr void evaluate(Visitor& visitor) {
    forward_until(units(), visitor);
    release_all(visitor);
  }

  /// Backward of every unit down to the first that has something to train. Between micro-batches
  /// the gradients are reduced as the strategy says; after the `last` all are.
  template <class Visitor>
  constexpr void backward(Visitor& visitor, bool last = true) {
    const bool reduce_now = last || Strategy::accumulation::reduce_each;
    for_each_stage_reversed([&]<std::size_t S>() {
      for (std::size_t i = layout_->count(S); i-- > 0;) {
        const std::size_t u = layout_->first_unit(S) + i;
        if (u < layout_->first_trained_unit()) return;
        const std::size_t p = 2 * units() - 1 - u;
        need(p, visitor);
        if constexpr (ahead == GatherAhead::before_compute)
          gather_ahead(p, backward_depth, positions(), visitor);
        for (std::size_t g : layout_->unit(u).trains)
          if (!open_[g]) {
            visitor.open_gradients(g);
            open_[g] = 1;
          }
        if constexpr (detail::rebuilds<Strategy, typename Model::Units::template Unit<S>>)
          visitor.template rebuild<S>(u);
        visitor.template backward<S>(u);
        release_after(p, positions(), visitor);
        if constexpr (ahead == GatherAhead::after_compute)
          gather_ahead(p, backward_depth, positions(), visitor);
        if (reduce_now) reduce_after(u, last, visitor);
      }
    });
    close_reduced(reducing_.size(), visitor);
    release_all(visitor);
  }

  template <class Visitor>
  constexpr void update(Visitor& visitor) {
    for (std::size_t g = 0; g < layout_->group_count(); ++g) {
      if (layout_->group(g).gradients == 0) continue;
      visitor.update(g);
      bool publishes = false;
      layout_->for_each_flat(g, [&](std::size_t, const FlatLayout& flat) {
        publishes = publishes || detail::is_published<Sharding>(flat);
      });
      if (publishes) visitor.publish(g);
    }
  }

 private:
  constexpr std::size_t units() const { return layout_->unit_count(); }
  constexpr std::size_t positions() const { return 2 * units() - layout_->first_trained_unit(); }
  constexpr const UnitLayout& unit_at(std::size_t p) const {
    return layout_->unit(p < units() ? p : 2 * units() - 1 - p);
  }
  constexpr std::size_t elements(std::size_t g) const { return layout_->group(g).gathered_used; }

  template <class Visitor>
  constexpr void forward_until(std::size_t end, Visitor& visitor) {
    Layout<Model>::for_each_stage([&]<std::size_t S>() {
      for (std::size_t i = 0; i < layout_->count(S); ++i) {
        const std::size_t u = layout_->first_unit(S) + i;
        need(u, visitor);
        if constexpr (forward_depth != 0) gather_ahead(u, forward_depth, units(), visitor);
        visitor.template forward<S>(u);
        release_after(u, end, visitor);
      }
    });
  }

  // Gathers ---------------------------------------------------------------------------------------

  template <class Visitor>
  constexpr void gather(std::size_t g, std::size_t p, Visitor& visitor) {
    bool from_kept = false;
    if constexpr (reshards) from_kept = p >= units() && kept_[g];
    if constexpr (reshards)
      if (from_kept) visitor.regather(g);
    if (!from_kept) visitor.gather(g);
    gathered_[g] = 1;
    live_elements_ += elements(g);
    ++live_groups_;
  }
  template <class Visitor>
  constexpr void release(std::size_t g, Visitor& visitor) {
    visitor.release(g);
    gathered_[g] = 0;
    live_elements_ -= elements(g);
    --live_groups_;
    if (ahead_[g]) arrive(g);
  }
  constexpr void arrive(std::size_t g) {
    ahead_[g] = 0;
    ahead_elements_ -= elements(g);
  }

  template <class Visitor>
  constexpr void need(std::size_t p, Visitor& visitor) {
    if constexpr (gathers)
      for (std::size_t g : unit_at(p).touches) {
        if (layout_->group(g).gathered == 0) continue;
        if (!gathered_[g])
          gather(g, p, visitor);
        else if (ahead_[g])
          arrive(g);
      }
  }

  /// Gathers for the next `depth` positions that need what position p does not have, in order,
  /// until a bound is met.
  template <class Visitor>
  constexpr void gather_ahead(std::size_t p, std::size_t depth, std::size_t end, Visitor& visitor) {
    std::fill(seen_.begin(), seen_.end(), char{0});
    for (std::size_t g : unit_at(p).touches) seen_[g] = 1;
    for (std::size_t q = p + 1, steps = 0; q < end; ++q) {
      bool is_new = false;
      for (std::size_t g : unit_at(q).touches)
        is_new = is_new || (!seen_[g] && layout_->group(g).gathered != 0);
      if (is_new && ++steps > depth) return;
      for (std::size_t g : unit_at(q).touches) {
        seen_[g] = 1;
        if (gathered_[g] || layout_->group(g).gathered == 0) continue;
        if (live_elements_ + elements(g) > live_limit || live_groups_ + 1 > group_limit ||
            ahead_elements_ + elements(g) > bucket)
          return;
        gather(g, q, visitor);
        ahead_[g] = 1;
        ahead_elements_ += elements(g);
      }
    }
  }

  // Releases --------------------------------------------------------------------------------------

  /// The next position that computes with group g, `end` if none does.
  constexpr std::size_t next_use(std::size_t g, std::size_t p, std::size_t end) const {
    for (std::size_t q = p + 1; q < end; ++q) {
      const auto& touches = unit_at(q).touches;
      if (std::find(touches.begin(), touches.end(), g) != touches.end()) return q;
    }
    return end;
  }

  constexpr bool stays(std::size_t g, std::size_t p, std::size_t q) {
    if (layout_->group(g).is_root || q == p + 1) return true;
    // What stays must leave room for any unit.
    if (live_elements_ > live_limit - most_elements_ || live_groups_ > group_limit - most_groups_)
      return false;
    if constexpr (reuse != 0) {
      std::size_t between = 0;
      for (std::size_t r = p + 1; r < q; ++r) between += unit_at(r).used;
      if (between <= reuse) return true;
    }
    return is_gathered_ahead(p + 1, q);
  }
  /// Position p gathers ahead what q needs: to release that just before would be for nothing.
  constexpr bool is_gathered_ahead(std::size_t p, std::size_t q) {
    const bool is_forward = p < units();
    const std::size_t depth = is_forward                    ? forward_depth
                              : ahead == GatherAhead::never ? 0
                                                            : backward_depth;
    if (depth == 0 || (is_forward && q >= units()) || bucket != unlimited) return false;
    std::fill(seen_.begin(), seen_.end(), char{0});
    for (std::size_t g : unit_at(p).touches) seen_[g] = 1;
    for (std::size_t r = p + 1, steps = 0; r <= q; ++r) {
      bool is_new = false;
      for (std::size_t g : unit_at(r).touches) {
        is_new = is_new || (!seen_[g] && layout_->group(g).gathered != 0);
        seen_[g] = 1;
      }
      if (is_new && ++steps > depth) return false;
    }
    return true;
  }

  template <class Visitor>
  constexpr void release_after(std::size_t p, std::size_t end, Visitor& visitor) {
    if constexpr (gathers)
      for (std::size_t g : unit_at(p).touches) {
        if (!gathered_[g]) continue;
        const std::size_t q = next_use(g, p, end);
        if (q < end && stays(g, p, q)) continue;
        if constexpr (reshards)
          if (q < end && q >= units() && !kept_[g]) {
            visitor.keep(g);
            kept_[g] = 1;
          }
        release(g, visitor);
      }
  }
  template <class Visitor>
  constexpr void release_all(Visitor& visitor) {
    for (std::size_t g = 0; g < layout_->group_count(); ++g) {
      if (gathered_[g]) release(g, visitor);
      kept_[g] = 0;
    }
  }

  // Reductions ------------------------------------------------------------------------------------

  template <class Visitor>
  constexpr void reduce_after(std::size_t u, bool last, Visitor& visitor) {
    const std::size_t before = reducing_.size();
    for (std::size_t g : layout_->unit(u).trains)
      if (layout_->group(g).last_trained == u) {
        visitor.reduce(g);
        if constexpr (detail::group_of<Sharding> != 0)
          if (last) visitor.replicate(g);
        open_[g] = 0;
        reducing_.push_back(g);
      }
    if (reducing_.size() == before) return;
    close_reduced(overlaps_reduce ? before : reducing_.size(), visitor);
  }
  template <class Visitor>
  constexpr void close_reduced(std::size_t count, Visitor& visitor) {
    for (std::size_t i = 0; i < count; ++i) visitor.close_gradients(reducing_[i]);
    reducing_.erase(reducing_.begin(), reducing_.begin() + static_cast<std::ptrdiff_t>(count));
  }

  // Bounds ----------------------------------------------------------------------------------------

  constexpr void measure_needs() {
    std::size_t smallest = unlimited;
    for (std::size_t u = 0; u < units(); ++u) {
      std::size_t elements_needed = 0, groups_needed = 0;
      for (std::size_t g = 0; g < layout_->group_count(); ++g) {
        const auto& touches = layout_->unit(u).touches;
        const bool is_needed = layout_->group(g).is_root ||
                               std::find(touches.begin(), touches.end(), g) != touches.end();
        if (!is_needed || layout_->group(g).gathered == 0) continue;
        elements_needed += elements(g);
        ++groups_needed;
        smallest = std::min(smallest, elements(g));
      }
      if (elements_needed > live_limit)
        throw ConfigError("MaxLive<" + std::to_string(live_limit) + "> is below what unit " +
                          std::to_string(u) + " computes with, " + std::to_string(elements_needed) +
                          " elements: give at least that");
      if (groups_needed > group_limit)
        throw ConfigError("LimitGathers<" + std::to_string(group_limit) + "> is below what unit " +
                          std::to_string(u) + " computes with, " + std::to_string(groups_needed) +
                          " groups: give at least that");
      most_elements_ = std::max(most_elements_, elements_needed);
      most_groups_ = std::max(most_groups_, groups_needed);
    }
    if (layout_->group_count() == 1 && asks_for_groups)
      throw ConfigError(
          "this model is one group, so that prefetch, reshard and bounds on gathers change "
          "nothing: "
          "leave them out");
    if (bucket != unlimited && smallest > bucket)
      throw ConfigError("PrefetchBucket<" + std::to_string(bucket) +
                        "> holds no group of the model, the smallest has " +
                        std::to_string(smallest) + " elements: give at least that");
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
  std::vector<char> gathered_, ahead_, kept_, open_, seen_;  // flags by group
  std::vector<std::size_t> reducing_;                        // reduced, and not closed yet
  std::size_t live_elements_ = 0, live_groups_ = 0, ahead_elements_ = 0;
  std::size_t most_elements_ = 0, most_groups_ = 0;  // that one unit needs
};

}  // namespace shardexpr
