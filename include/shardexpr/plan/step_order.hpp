// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/policy/prefetch.hpp>
#include <shardexpr/policy/residency.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

// The order of a step as values: what strategies and models differ in are numbers here, so that it
// is compiled once for all of them.
namespace shardexpr::detail {

/// What a strategy says of the order of a step.
struct OrderRules {
  bool gathers = false;      ///< parameters are sharded
  bool reshards = false;     ///< after forward, over fewer ranks (ReshardTo)
  bool replicates = false;   ///< reductions go over the copies, too (hybrid sharding)
  bool reduce_each = false;  ///< after each micro-batch
  /// A group's gradients stay while the next are computed, so that their reduction can overlap it.
  bool overlaps_reduce = false;
  bool publishes = false;             ///< ranks that keep all of a flat each update a part of it
  bool publishes_persistent = false;  ///< the same of flats that are persistent
  bool asks_for_groups = false;       ///< something that changes nothing of a model of one group
  GatherAhead ahead = GatherAhead::never;
  std::size_t forward_depth = 0, backward_depth = 0;  ///< units
  std::size_t bucket = unlimited;                     ///< elements that may be gathered ahead
  std::size_t live_limit = unlimited, group_limit = unlimited;
  std::size_t reuse = 0;  ///< elements

  /// Whether ranks that keep all of the flat each update a part of it.
  constexpr bool is_published(const FlatLayout& flat) const {
    return flat.is_trainable && (publishes || (publishes_persistent && flat.is_persistent));
  }
};

/// What is done with a group or, of the last two, with a unit; as the visitor of `Schedule` has it.
enum class Verb : char {
  gather,
  keep,
  regather,
  release,
  open_gradients,
  reduce,
  replicate,
  close_gradients,
  update,
  publish,
  forward,
  backward
};
/// `at`: the group or the unit.
struct Action {
  Verb verb;
  std::size_t at;
};

/// A pass over the units, as `Schedule` says.
struct Pass {
  enum class Kind : char { forward, evaluate, backward, update };
  Kind kind;
  bool is_last = true;  ///< of backward: of the last micro-batch
};

/// Writes down what a pass does, in order.
class StepOrder {
 public:
  using Actions = std::vector<Action>;

  /// Errors:  throws ConfigError if a bound of the strategy cannot be kept with this model.
  constexpr StepOrder(const ModelLayout& layout, const OrderRules& rules)
      : layout_{&layout},
        rules_{rules},
        now_{layout.group_count()},
        seen_(layout.group_count(), 0) {
    before_ = now_;
    measure_needs();
  }

  constexpr void write(const Pass& pass, Actions& out) {
    before_ = now_;
    out.clear();
    append(pass, out);
  }
  /// The pass that was written last ended in an exception when only the first `count` of its
  /// actions were done: the next one is to go on from there.
  constexpr void end_after(const Pass& pass, std::size_t count, Actions& out) {
    now_ = before_;
    out.clear();
    mark_ = count;
    append(pass, out);
    now_ = at_mark_;
    mark_ = unlimited;
  }

 private:
  /// What holds between two actions.
  struct State {
    constexpr explicit State(std::size_t groups)
        : gathered(groups, 0), ahead(groups, 0), kept(groups, 0), open(groups, 0) {
      reducing.reserve(groups);
    }
    std::vector<char> gathered, ahead, kept, open;  // flags by group
    std::vector<std::size_t> reducing;              // reduced, and not closed yet
    std::size_t live_elements = 0, live_groups = 0, ahead_elements = 0;
  };

  /// Comes before what the action changes in `now_`.
  constexpr void add(Verb verb, std::size_t at, Actions& out) {
    if (out.size() == mark_) at_mark_ = now_;
    out.push_back({verb, at});
  }
  constexpr void append(const Pass& pass, Actions& out) {
    switch (pass.kind) {
      case Pass::Kind::forward:
        forward_until(positions(), out);
        break;
      case Pass::Kind::evaluate:
        forward_until(units(), out);
        release_all(out);
        break;
      case Pass::Kind::backward:
        backward(pass.is_last, out);
        break;
      case Pass::Kind::update:
        update(out);
        break;
    }
  }

  constexpr void backward(bool last, Actions& out) {
    const bool reduce_now = last || rules_.reduce_each;
    for (std::size_t u = units(); u-- > layout_->first_trained_unit();) {
      const std::size_t p = 2 * units() - 1 - u;
      need(p, out);
      if (rules_.ahead == GatherAhead::before_compute)
        gather_ahead(p, rules_.backward_depth, positions(), out);
      for (std::size_t g : layout_->unit(u).trains)
        if (!now_.open[g]) {
          add(Verb::open_gradients, g, out);
          now_.open[g] = 1;
        }
      add(Verb::backward, u, out);
      release_after(p, positions(), out);
      if (rules_.ahead == GatherAhead::after_compute)
        gather_ahead(p, rules_.backward_depth, positions(), out);
      if (reduce_now) reduce_after(u, last, out);
    }
    close_reduced(now_.reducing.size(), out);
    release_all(out);
  }
  constexpr void update(Actions& out) {
    for (std::size_t g = 0; g < layout_->group_count(); ++g) {
      if (layout_->group(g).gradients == 0) continue;
      add(Verb::update, g, out);
      bool publishes = false;
      layout_->for_each_flat(g, [&](std::size_t, const FlatLayout& flat) {
        publishes = publishes || rules_.is_published(flat);
      });
      if (publishes) add(Verb::publish, g, out);
    }
  }

  constexpr std::size_t units() const { return layout_->unit_count(); }
  constexpr std::size_t positions() const { return 2 * units() - layout_->first_trained_unit(); }
  constexpr const UnitLayout& unit_at(std::size_t p) const {
    return layout_->unit(p < units() ? p : 2 * units() - 1 - p);
  }
  constexpr std::size_t elements(std::size_t g) const { return layout_->group(g).gathered_used; }

  constexpr void forward_until(std::size_t end, Actions& out) {
    for (std::size_t u = 0; u < units(); ++u) {
      need(u, out);
      if (rules_.forward_depth != 0) gather_ahead(u, rules_.forward_depth, units(), out);
      add(Verb::forward, u, out);
      release_after(u, end, out);
    }
  }

  // Gathers ---------------------------------------------------------------------------------------

  constexpr void gather(std::size_t g, std::size_t p, Actions& out) {
    const bool from_kept = rules_.reshards && p >= units() && now_.kept[g];
    add(from_kept ? Verb::regather : Verb::gather, g, out);
    now_.gathered[g] = 1;
    now_.live_elements += elements(g);
    ++now_.live_groups;
  }
  constexpr void release(std::size_t g, Actions& out) {
    add(Verb::release, g, out);
    now_.gathered[g] = 0;
    now_.live_elements -= elements(g);
    --now_.live_groups;
    if (now_.ahead[g]) arrive(g);
  }
  constexpr void arrive(std::size_t g) {
    now_.ahead[g] = 0;
    now_.ahead_elements -= elements(g);
  }

  constexpr void need(std::size_t p, Actions& out) {
    if (!rules_.gathers) return;
    for (std::size_t g : unit_at(p).touches) {
      if (layout_->group(g).gathered == 0) continue;
      if (!now_.gathered[g])
        gather(g, p, out);
      else if (now_.ahead[g])
        arrive(g);
    }
  }

  /// Gathers for the next `depth` positions that need what position p does not have, in order,
  /// until a bound is met.
  constexpr void gather_ahead(std::size_t p, std::size_t depth, std::size_t end, Actions& out) {
    std::fill(seen_.begin(), seen_.end(), char{0});
    for (std::size_t g : unit_at(p).touches) seen_[g] = 1;
    for (std::size_t q = p + 1, steps = 0; q < end; ++q) {
      bool is_new = false;
      for (std::size_t g : unit_at(q).touches)
        is_new = is_new || (!seen_[g] && layout_->group(g).gathered != 0);
      if (is_new && ++steps > depth) return;
      for (std::size_t g : unit_at(q).touches) {
        seen_[g] = 1;
        if (now_.gathered[g] || layout_->group(g).gathered == 0) continue;
        if (now_.live_elements + elements(g) > rules_.live_limit ||
            now_.live_groups + 1 > rules_.group_limit ||
            now_.ahead_elements + elements(g) > rules_.bucket)
          return;
        gather(g, q, out);
        now_.ahead[g] = 1;
        now_.ahead_elements += elements(g);
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
    if (now_.live_elements > rules_.live_limit - most_elements_ ||
        now_.live_groups > rules_.group_limit - most_groups_)
      return false;
    if (rules_.reuse != 0) {
      std::size_t between = 0;
      for (std::size_t r = p + 1; r < q; ++r) between += unit_at(r).used;
      if (between <= rules_.reuse) return true;
    }
    return is_gathered_ahead(p + 1, q);
  }
  /// Position p gathers ahead what q needs: to release that just before would be for nothing.
  constexpr bool is_gathered_ahead(std::size_t p, std::size_t q) {
    const bool is_forward = p < units();
    const std::size_t depth = is_forward                           ? rules_.forward_depth
                              : rules_.ahead == GatherAhead::never ? 0
                                                                   : rules_.backward_depth;
    if (depth == 0 || (is_forward && q >= units()) || rules_.bucket != unlimited) return false;
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

  constexpr void release_after(std::size_t p, std::size_t end, Actions& out) {
    if (!rules_.gathers) return;
    for (std::size_t g : unit_at(p).touches) {
      if (!now_.gathered[g]) continue;
      const std::size_t q = next_use(g, p, end);
      if (q < end && stays(g, p, q)) continue;
      if (rules_.reshards && q < end && q >= units() && !now_.kept[g]) {
        add(Verb::keep, g, out);
        now_.kept[g] = 1;
      }
      release(g, out);
    }
  }
  constexpr void release_all(Actions& out) {
    for (std::size_t g = 0; g < layout_->group_count(); ++g) {
      if (now_.gathered[g]) release(g, out);
      now_.kept[g] = 0;
    }
  }

  // Reductions ------------------------------------------------------------------------------------

  constexpr void reduce_after(std::size_t u, bool last, Actions& out) {
    const std::size_t before = now_.reducing.size();
    for (std::size_t g : layout_->unit(u).trains)
      if (layout_->group(g).last_trained == u) {
        add(Verb::reduce, g, out);
        if (rules_.replicates && last) add(Verb::replicate, g, out);
        now_.open[g] = 0;
        now_.reducing.push_back(g);
      }
    if (now_.reducing.size() == before) return;
    close_reduced(rules_.overlaps_reduce ? before : now_.reducing.size(), out);
  }
  constexpr void close_reduced(std::size_t count, Actions& out) {
    for (std::size_t i = 0; i < count; ++i) add(Verb::close_gradients, now_.reducing[i], out);
    now_.reducing.erase(now_.reducing.begin(),
                        now_.reducing.begin() + static_cast<std::ptrdiff_t>(count));
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
      if (elements_needed > rules_.live_limit)
        throw ConfigError("MaxLive<" + std::to_string(rules_.live_limit) + "> is below what unit " +
                          std::to_string(u) + " computes with, " + std::to_string(elements_needed) +
                          " elements: give at least that");
      if (groups_needed > rules_.group_limit)
        throw ConfigError("LimitGathers<" + std::to_string(rules_.group_limit) +
                          "> is below what unit " + std::to_string(u) + " computes with, " +
                          std::to_string(groups_needed) + " groups: give at least that");
      most_elements_ = std::max(most_elements_, elements_needed);
      most_groups_ = std::max(most_groups_, groups_needed);
    }
    if (layout_->group_count() == 1 && rules_.asks_for_groups)
      throw ConfigError(
          "this model is one group, so that prefetch, reshard and bounds on gathers change "
          "nothing: "
          "leave them out");
    if (rules_.bucket != unlimited && smallest > rules_.bucket)
      throw ConfigError("PrefetchBucket<" + std::to_string(rules_.bucket) +
                        "> holds no group of the model, the smallest has " +
                        std::to_string(smallest) + " elements: give at least that");
  }

  const ModelLayout* layout_;
  OrderRules rules_;
  State now_, before_{0};   // before_: when the pass that was written last began
  State at_mark_{0};        // when its action number mark_ was to be added
  std::vector<char> seen_;  // flags by group, of one look ahead
  std::size_t mark_ = unlimited;
  std::size_t most_elements_ = 0, most_groups_ = 0;  // that one unit needs
};

}  // namespace shardexpr::detail
