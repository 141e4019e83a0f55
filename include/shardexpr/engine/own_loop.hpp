// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/engine/check.hpp>
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/guards.hpp>
#include <shardexpr/engine/passes.hpp>
#include <shardexpr/engine/unit_names.hpp>
#include <shardexpr/engine/wrong_call.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

namespace shardexpr::detail {

/// What guards need: who holds which group, and which units were reduced since the last update.
template <class M, class S>
class OwnLoop {
  using Core = detail::Core<M, S>;
  using Sharding = typename S::sharding;
  template <std::size_t St>
  using UnitAt = typename M::Units::template Unit<St>;

 public:
  template <class Unit>
  using Parameters = typename Passes<M, S>::template Parameters<Unit>;
  template <class Unit>
  using Gradients = typename Passes<M, S>::template Gradients<Unit>;

  OwnLoop(Core& core, Passes<M, S>& passes, std::size_t micro_batches)
      : core_{&core},
        passes_{&passes},
        micro_batches_{micro_batches},
        holders_(core.layout.group_count()),
        reductions_(core.layout.unit_count()) {}

  template <class Trainer, class Unit>
  Gathered<Trainer, Unit> gather(std::size_t i) {
    return {*this, unit_of<Unit>("gather", i)};
  }
  template <class Trainer, class Unit>
  OpenGradients<Trainer, Unit> open_gradients(std::size_t i) {
    return {*this, unit_of<Unit>("open_gradients", i)};
  }

  /// Errors:  ConfigError if there is no such unit.
  template <class Unit>
  std::size_t unit_of(const char* verb, std::size_t i) const {
    static_assert(holds_all<M>(list<Unit>{}),
                  "the model holds no such unit: name one that stands in its Units");
    std::size_t u = no_unit, count = 0;
    Layout<M>::for_each_stage([&]<std::size_t St>() {
      if constexpr (std::is_same_v<UnitAt<St>, Unit>) {
        if (i >= count && i < count + core_->layout.count(St))
          u = core_->layout.first_unit(St) + (i - count);
        count += core_->layout.count(St);
      }
    });
    if (u == no_unit)
      throw ConfigError(std::string{verb} + ": there is no " + type_name<Unit>() + " number " +
                        std::to_string(i) + ", the model has " + std::to_string(count) +
                        ", counted from 0");
    return u;
  }
  void check_idle(const char* verb) const {
    if (guards_ != 0) refuse_while_guarded(verb);
  }
  void check_no_gradients() const {
    bool any = std::any_of(reductions_.begin(), reductions_.end(), [](auto n) { return n != 0; });
    for (std::size_t g = 0; g < core_->layout.group_count(); ++g)
      any = any || passes_->gradients.is_open(g);
    if (any) refuse_before_apply();
  }
  /// Refuses an update that not every unit with something to train has reduced for; then a new one
  /// begins.
  void end_step() {
    const std::string missing = names_of_units(core_->layout, [&](std::size_t u) {
      return !core_->layout.unit(u).trains.empty() && reductions_[u] < reductions_a_step();
    });
    if (!missing.empty())
      throw ConfigError("apply: gradients were not opened and reduced " +
                        (reductions_a_step() == 1
                             ? std::string{}
                             : std::to_string(reductions_a_step()) + " times ") +
                        "since the last update, of " + missing);
    std::fill(reductions_.begin(), reductions_.end(), std::size_t{0});
  }
  void drop_gradients() {
    for (std::size_t g = 0; g < core_->layout.group_count(); ++g)
      if (passes_->gradients.is_open(g)) passes_->gradients.discard(g);
    if constexpr (optimizer_place<S> != Place::device)
      passes_->gradients.offloaded().forget_squares();
    core_->timeline.synchronize();  // what was reduced may still be averaged over the copies
    std::fill(reductions_.begin(), reductions_.end(), std::size_t{0});
  }

  /// The groups of units that are visited in order: each is entered with its first unit and left
  /// with its last, or when an exception passes.
  class GroupsHeld {
   public:
    explicit GroupsHeld(OwnLoop& loop) : loop_{&loop} {}
    GroupsHeld(const GroupsHeld&) = delete;
    GroupsHeld& operator=(const GroupsHeld&) = delete;
    ~GroupsHeld() {
      for (std::size_t g = 0; g < layout().group_count(); ++g)
        if (loop_->holders_[g] != 0) loop_->leave_group(g);  // nobody else holds any
    }
    void enter(std::size_t u) {
      const std::size_t g = layout().unit(u).group;
      if (loop_->holders_[g] == 0) loop_->enter_group(g);
    }
    void leave(std::size_t u) {
      if (layout().ends_group(u)) loop_->leave_group(layout().unit(u).group);
    }

   private:
    const Layout<M>& layout() const { return loop_->core_->layout; }
    OwnLoop* loop_;
  };

 private:
  template <class, class>
  friend class shardexpr::Gathered;
  template <class, class>
  friend class shardexpr::OpenGradients;

  // For the guards ------------------------------------------------------------------------------

  template <class Unit>
  Parameters<Unit> enter(std::size_t u) {
    const auto& touches = core_->layout.unit(u).touches;
    std::size_t entered = 0;
    try {
      for (; entered < touches.size(); ++entered) enter_group(touches[entered]);
    } catch (...) {
      while (entered-- > 0) leave_group(touches[entered]);
      throw;
    }
    ++guards_;
    return passes_->template bind_parameters<Unit>(u);
  }
  void leave(std::size_t u) noexcept {
    for (std::size_t g : core_->layout.unit(u).touches) leave_group(g);
    --guards_;
  }
  template <class Unit>
  Gradients<Unit> open(std::size_t u) {
    if (reductions_[u] == reductions_a_step())
      throw ConfigError("open_gradients: those of " + name_of_unit(core_->layout, u) +
                        " are reduced already; call apply() or drop_gradients() first");
    for (std::size_t g : core_->layout.unit(u).trains)
      if (!passes_->gradients.is_open(g)) {
        if (!passes_->gradients.fits(g))
          throw ConfigError("open_gradients: those of " + names_in_group(g) +
                            " do not fit beside what is open: reduce another unit first");
        passes_->gradients.open(g);
      }
    return passes_->template bind_gradients<Unit>(u);
  }
  void reduce_after(std::size_t u) {
    const auto& trains = core_->layout.unit(u).trains;
    for (std::size_t g : trains) {
      if (!passes_->gradients.is_open(g))
        throw ConfigError("reduce: the gradients of " + name_of_unit(core_->layout, u) +
                          " are not open any more");
      if (core_->layout.group(g).last_trained != u) continue;
      const std::string missing = names_of_units(core_->layout, [&](std::size_t v) {
        const auto& also = core_->layout.unit(v).trains;
        return v != u && reductions_[v] <= reductions_[u] &&
               std::find(also.begin(), also.end(), g) != also.end();
      });
      if (!missing.empty())
        throw ConfigError("reduce: gradients of " + name_of_unit(core_->layout, u) + " wait for " +
                          missing + ", which add to them: reduce in backward order");
    }
    const Drain drain{core_->timeline};
    const std::size_t before = reductions_[u]++;
    for (std::size_t g : trains)
      if (core_->layout.group(g).last_trained == u) {
        passes_->gradients.reduce(g, before != 0, reductions_[u] == reductions_a_step(),
                                  core_->timeline.mark(compute_stream));
        if constexpr (Core::Timeline::has(copies_stream))
          if (reductions_[u] == reductions_a_step()) passes_->gradients.replicate(g);
        passes_->gradients.close(g);
      }
  }

  // Groups --------------------------------------------------------------------------------------

  /// Gathers a group unless somebody holds it; the host may then read it.
  void enter_group(std::size_t g) {
    if constexpr (Sharding::parameters)
      if (core_->layout.group(g).gathered != 0 && holders_[g] == 0) {
        if (!passes_->parameters.fits(g))
          throw ConfigError("gather: " + names_in_group(g) + " needs " +
                            std::to_string(core_->layout.group(g).gathered) +
                            " elements in one piece, " +
                            std::to_string(passes_->parameters.free_elements()) +
                            " are free in all: leave the scope of another guard first");
        const Drain drain{core_->timeline};
        passes_->parameters.gather(g);
        core_->timeline.synchronize(comm_stream);
      }
    ++holders_[g];
  }
  void leave_group(std::size_t g) {
    if (--holders_[g] != 0) return;
    if constexpr (Sharding::parameters)
      if (core_->layout.group(g).gathered != 0) passes_->parameters.release(g);
  }
  /// How often a unit is reduced from one update to the next.
  std::size_t reductions_a_step() const {
    return S::accumulation::reduce_each ? micro_batches_ : 1;
  }

  std::string names_in_group(std::size_t g) const {
    return names_of_units(core_->layout,
                          [&](std::size_t v) { return core_->layout.unit(v).group == g; });
  }

  Core* core_;
  Passes<M, S>* passes_;
  std::size_t micro_batches_;
  std::vector<std::size_t> holders_;     // guards, by group
  std::vector<std::size_t> reductions_;  // since the last update, by unit
  std::size_t guards_ = 0;
};

}  // namespace shardexpr::detail
