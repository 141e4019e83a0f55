// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/model/unit.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace shardexpr {

/// The number of no unit.
inline constexpr std::size_t no_unit = static_cast<std::size_t>(-1);

/// One parameter of a unit within the flat layout.
struct ParameterLayout {
  Spec spec;               ///< a tied parameter's spec is the owner's
  std::size_t flat = 0;    ///< where it is stored; of a tied parameter, where its owner is
  std::size_t offset = 0;  ///< first element in that flat, a multiple of 64
  bool is_tied = false;
};

/// Parameters of one group that are kept and reduced alike, one behind the other, ordered by what
/// they are updated by: their parameter group. Counts in elements.
struct FlatLayout {
  /// A stretch of what a rank keeps, counted from its begin.
  struct Run {
    std::size_t first = 0, count = 0;
  };

  std::size_t group = 0;
  bool is_trainable = true;
  bool is_persistent = false;       ///< whole on every rank, though parameters are sharded
  std::size_t used = 0;             ///< without padding
  std::size_t part = 0;             ///< what one rank holds when sharded, a multiple of 64
  std::size_t padded = 0;           ///< `part` times the ranks that share one copy
  std::size_t gathered_offset = 0;  ///< in the group's gathered parameters; persistent: unused
  std::size_t gradient_offset = 0;  ///< in the group's full gradients; frozen: unused
  /// Where the parameters of parameter group k end, a multiple of 64; they begin where those of
  /// k - 1 end.
  std::array<std::size_t, max_parameter_groups> run_ends{};

  /// What lies of parameter group k in [begin, begin + count).
  constexpr Run run(std::size_t k, std::size_t begin, std::size_t count) const {
    const std::size_t first = std::max(k == 0 ? 0 : run_ends[k - 1], begin);
    const std::size_t last = std::min(run_ends[k], begin + count);
    if (first >= last) return {};
    return {first - begin, last - first};
  }
};

/// What is gathered, released and reduced together: the flats of one or more units.
struct GroupLayout {
  std::size_t first_flat = 0, flat_count = 0;
  bool is_root = false;                ///< what no group of its own was asked for
  std::size_t gathered = 0;            ///< padded elements of what is not persistent
  std::size_t gathered_used = 0;       ///< the same without padding: what bounds are counted in
  std::size_t gradients = 0;           ///< padded elements of what is trainable
  std::size_t last_trained = no_unit;  ///< the unit whose backward, the last, adds to gradients
};

/// One unit within the flat layout.
struct UnitLayout {
  std::size_t stage = 0, index = 0;  ///< the index-th unit of its stage
  std::size_t used = 0;              ///< elements of its own parameters, without padding
  std::size_t group = 0;             ///< of its own parameters
  std::vector<ParameterLayout> parameters;
  std::vector<std::size_t> touches;  ///< groups it computes with: its own, then those of its ties
  std::vector<std::size_t> trains;   ///< those of them whose gradients it adds to
};

/// What of a layout does not depend on the model's type: the tables of its units, groups and flats.
class ModelLayout {
 public:
  /// Ranks that share one copy of the parameters: all, or those of a shard group.
  constexpr std::size_t shards() const { return shards_; }

  /// All units, those of a `Repeat` one by one.
  constexpr std::size_t unit_count() const { return units_.size(); }
  /// In forward order.
  constexpr const UnitLayout& unit(std::size_t u) const { return units_[u]; }
  /// In forward order.
  constexpr const std::vector<UnitLayout>& units() const { return units_; }

  /// Whether no unit behind `u` has parameters in the same group.
  constexpr bool ends_group(std::size_t u) const {
    for (std::size_t v = u + 1; v < units_.size(); ++v)
      if (units_[v].group == units_[u].group) return false;
    return true;
  }

  /// What is gathered together counts once.
  constexpr std::size_t group_count() const { return groups_.size(); }
  /// In forward order.
  constexpr const GroupLayout& group(std::size_t g) const { return groups_[g]; }
  /// Of all groups.
  constexpr std::size_t flat_count() const { return flats_.size(); }
  /// In the order of the groups.
  constexpr const FlatLayout& flat(std::size_t f) const { return flats_[f]; }

  /// The first unit in forward order with something to train: where backward ends.
  constexpr std::size_t first_trained_unit() const { return first_trained_; }

  /// Whether anything that is trained belongs to parameter group k.
  constexpr bool trains_parameter_group(std::size_t k) const {
    for (const FlatLayout& flat : flats_)
      if (flat.is_trainable && flat.run(k, 0, flat.padded).count != 0) return true;
    return false;
  }

  /// Parameters of the model, each counted once.
  constexpr std::size_t parameter_count() const {
    std::size_t n = 0;
    for (const UnitLayout& unit : units_) n += unit.used;
    return n;
  }

  /// Calls `visit(f, flat)` for each flat of group `g`; for those that are trained; for those of
  /// every group.
  template <class Visit>
  constexpr void for_each_flat(std::size_t g, Visit&& visit) const {
    for (std::size_t f = groups_[g].first_flat; f < groups_[g].first_flat + groups_[g].flat_count;
         ++f)
      visit(f, flats_[f]);
  }
  /// Those of one group that have gradients: `visit(f, flat)`.
  template <class Visit>
  constexpr void for_each_trained_flat(std::size_t g, Visit&& visit) const {
    for_each_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      if (flat.is_trainable) visit(f, flat);
    });
  }
  /// Those of all groups.
  template <class Visit>
  constexpr void for_each_trained_flat(Visit&& visit) const {
    for (std::size_t g = 0; g < group_count(); ++g) for_each_trained_flat(g, visit);
  }

 protected:
  /// Of no units yet.
  constexpr explicit ModelLayout(std::size_t shards) : shards_{shards} {}

  std::size_t shards_;
  std::vector<UnitLayout> units_;
  std::vector<GroupLayout> groups_;
  std::vector<FlatLayout> flats_;
  std::size_t first_trained_ = no_unit;
};

/// Where every parameter of a model lies when `shards` ranks share one copy of it: groups of units
/// in forward order, each of one to four flats, each parameter on a block boundary, each flat
/// zero-padded to equal parts. Those groups are gathered and reduced together; parameter groups,
/// which are updated alike, order the parameters within a flat, so that each is one run of it.
///
/// Errors:  throws ConfigError for 0 ranks, what the model's `validate(config)` refuses, a `Repeat`
///          of 0, a shape of 0 elements, a parameter group beyond the last, a tie to what no other
///          unit describes, a tie that freezes what its owner trains or names another parameter
///          group, a model without trainable parameters, joining that leaves a single group.
/// Cost:    built once; usable in constant expressions.
template <class Model>
class Layout : public ModelLayout {
 public:
  using Config = typename Model::Config;
  using Units = typename Model::Units;
  static constexpr std::size_t stage_count = Units::stage_count;

  /// How units are grouped, by a strategy's wrap and persistence.
  struct Grouping {
    std::array<bool, stage_count> in_root{};  ///< by stage; the others begin groups of their own
    std::size_t least = 0;          ///< neighbouring groups are joined to have as many elements
    std::size_t persist_below = 0;  ///< parameters of fewer elements are persistent
  };

  /// Lays out the model that `config` makes.
  constexpr Layout(const Config& config, std::size_t shards, const Grouping& grouping = {})
      : ModelLayout{shards} {
    if (shards == 0) throw ConfigError("world size is 0: a job has at least one rank");
    if constexpr (requires { validate(config); })
      validate(config);  // the model's own, if it has one
    for_each_stage([&]<std::size_t S>() {
      const std::size_t count = Units::template Stage<S>::count(config);
      if (count == 0)
        throw ConfigError("stage " + std::to_string(S) +
                          " of the model repeats 0 times: at least 1");
      first_[S] = units_.size();
      count_[S] = count;
      for (std::size_t i = 0; i < count; ++i) describe_unit<S>(config, i);
    });
    group_units(grouping);
    for (std::size_t g = 0; g < groups_.size(); ++g) lay_out_group(g, grouping.persist_below);
    resolve_ties();
    find_uses();
  }

  /// The first unit of a stage.
  constexpr std::size_t first_unit(std::size_t stage) const { return first_[stage]; }
  constexpr std::size_t count(std::size_t stage) const { return count_[stage]; }
  /// Calls `visit.template operator()<S>()` for each stage, in forward order.
  template <class Visit>
  static constexpr void for_each_stage(Visit&& visit) {
    [&]<std::size_t... S>(std::index_sequence<S...>) { (visit.template operator()<S>(), ...); }
    (std::make_index_sequence<stage_count>{});
  }

 private:
  template <std::size_t S>
  constexpr void describe_unit(const Config& config, std::size_t index) {
    using Unit = typename Units::template Unit<S>;
    UnitLayout unit;
    unit.stage = S;
    unit.index = index;
    for (const Spec& spec : specs_of<Unit>(config)) {
      ParameterLayout parameter;
      parameter.spec = spec;
      parameter.is_tied = spec.is_tied();
      if (spec.group >= max_parameter_groups && !(parameter.is_tied && spec.group == owners_group))
        throw ConfigError("parameter " + parameter_name<Unit>(index, spec) + " is in group " +
                          std::to_string(spec.group) + ": the last is " +
                          std::to_string(max_parameter_groups - 1));
      if (!parameter.is_tied) {
        if (spec.shape.count() == 0)
          throw ConfigError("parameter " + parameter_name<Unit>(index, spec) +
                            " has no elements: every extent must be at least 1");
        unit.used += spec.shape.count();
      }
      unit.parameters.push_back(parameter);
    }
    units_.push_back(unit);
  }

  constexpr void group_units(const Grouping& grouping) {
    std::size_t root = no_unit, joined = no_unit, joined_elements = 0;
    for (UnitLayout& unit : units_) {
      if (grouping.in_root[unit.stage]) {
        if (root == no_unit) {
          root = groups_.size();
          groups_.push_back({});
          groups_.back().is_root = true;
        }
        unit.group = root;
        continue;
      }
      if (joined == no_unit || joined_elements >= grouping.least) {
        joined = groups_.size();
        joined_elements = 0;
        groups_.push_back({});
      }
      unit.group = joined;
      joined_elements += unit.used;
    }
    // What is left at the end joins the group before it.
    if (joined != no_unit && joined_elements < grouping.least && joined != root && joined > 0) {
      std::size_t before = joined - 1;
      if (before == root) before = root == 0 ? no_unit : root - 1;
      if (before != no_unit) {
        for (UnitLayout& unit : units_) {
          if (unit.group == joined)
            unit.group = before;
          else if (unit.group > joined && unit.group != no_unit)
            --unit.group;
        }
        groups_.erase(groups_.begin() + static_cast<std::ptrdiff_t>(joined));
      }
    }
    if (grouping.least > 0 && groups_.size() == 1)
      throw ConfigError("wrapping by at least " + std::to_string(grouping.least) +
                        " elements makes one group of the whole model, which has " +
                        std::to_string(parameter_count()) + ": use WrapWhole or a smaller number");
  }

  // Trainable before frozen, so that the gradients of a group lie together; persistent last.
  constexpr void lay_out_group(std::size_t g, std::size_t persist_below) {
    GroupLayout& group = groups_[g];
    group.first_flat = flats_.size();
    for (const bool persistent : {false, true})
      for (const bool trainable : {true, false}) {
        FlatLayout flat;
        flat.group = g;
        flat.is_trainable = trainable;
        flat.is_persistent = persistent;
        std::size_t end = 0;
        for (std::size_t k = 0; k < max_parameter_groups; ++k) {
          for (UnitLayout& unit : units_) {
            if (unit.group != g) continue;
            for (ParameterLayout& parameter : unit.parameters) {
              const std::size_t count = parameter.spec.shape.count();
              if (parameter.is_tied || parameter.spec.group != k ||
                  parameter.spec.is_frozen == trainable || (count < persist_below) != persistent)
                continue;
              parameter.flat = flats_.size();
              parameter.offset = end;
              end = round_up(end + count, block_elements);
              flat.used += count;
            }
          }
          flat.run_ends[k] = end;
        }
        if (flat.used == 0) continue;
        flat.part = round_up(ceil_div(end, shards_), block_elements);
        flat.padded = flat.part * shards_;
        if (!persistent) {
          flat.gathered_offset = group.gathered;
          group.gathered += flat.padded;
          group.gathered_used += flat.used;
        }
        if (trainable) {
          flat.gradient_offset = group.gradients;
          group.gradients += flat.padded;
        }
        flats_.push_back(flat);
        ++group.flat_count;
      }
  }

  constexpr void resolve_ties() {
    std::array<std::uint64_t, stage_count> type{};
    for_each_stage([&]<std::size_t S>() { type[S] = type_hash<typename Units::template Unit<S>>; });
    for (UnitLayout& unit : units_)
      for (ParameterLayout& parameter : unit.parameters) {
        if (!parameter.is_tied) continue;
        const std::size_t stage = static_cast<std::size_t>(
            std::find(type.begin(), type.end(), parameter.spec.tied_unit) - type.begin());
        if (stage == stage_count || count_[stage] != 1)
          throw ConfigError("parameter " + std::string(parameter.spec.name.view()) +
                            " is tied to a unit that the model does not hold exactly once");
        bool found = false;
        for (const ParameterLayout& candidate : units_[first_[stage]].parameters)
          if (!candidate.is_tied && candidate.spec.name.view() == parameter.spec.name.view()) {
            if (parameter.spec.is_frozen && !candidate.spec.is_frozen)
              throw ConfigError("parameter " + std::string(parameter.spec.name.view()) +
                                " is frozen where it is tied, and trained by its owner: freeze it "
                                "there");
            if (parameter.spec.group != owners_group &&
                parameter.spec.group != candidate.spec.group)
              throw ConfigError("parameter " + std::string(parameter.spec.name.view()) +
                                " is in group " + std::to_string(parameter.spec.group) +
                                " where it is tied, and in group " +
                                std::to_string(candidate.spec.group) +
                                " by its owner: leave the group to the owner");
            parameter = candidate;
            parameter.is_tied = found = true;
          }
        if (!found)
          throw ConfigError("parameter " + std::string(parameter.spec.name.view()) +
                            " is tied, but its owner describes none of that name");
      }
  }

  constexpr void find_uses() {
    const auto add = [](std::vector<std::size_t>& to, std::size_t g) {
      if (std::find(to.begin(), to.end(), g) == to.end()) to.push_back(g);
    };
    for (std::size_t u = units_.size(); u-- > 0;) {
      UnitLayout& unit = units_[u];
      for (const bool tied : {false, true})  // its own group before those of its ties
        for (const ParameterLayout& parameter : unit.parameters) {
          if (parameter.is_tied != tied) continue;
          const FlatLayout& flat = flats_[parameter.flat];
          add(unit.touches, flat.group);
          if (!flat.is_trainable) continue;
          add(unit.trains, flat.group);
          groups_[flat.group].last_trained = u;
          first_trained_ = u;
        }
    }
    if (first_trained_ == no_unit)
      throw ConfigError("every parameter of the model is frozen: there is nothing to train");
  }

  std::array<std::size_t, stage_count> first_{}, count_{};
};

}  // namespace shardexpr
