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

/// One parameter of a unit within the flat layout.
struct ParameterLayout {
  Spec spec;               ///< a tied parameter's spec is the owner's
  std::size_t unit = 0;    ///< the unit that stores it: this one, or the owner it is tied to
  std::size_t offset = 0;  ///< first element in that unit's flat parameters, a multiple of 64
  bool is_tied = false;
};

/// One unit within the flat layout. Counts in elements.
struct UnitLayout {
  std::size_t stage = 0, index = 0;  ///< the index-th unit of its stage
  std::size_t used = 0;              ///< elements of its own parameters, without padding
  std::size_t part = 0;              ///< what one rank holds when sharded, a multiple of 64
  std::size_t padded = 0;            ///< W * part: the unit's flat parameters
  std::size_t shard_offset = 0;      ///< sum of `part` over the units before it
  std::size_t full_offset = 0;       ///< sum of `padded` over the units before it
  std::vector<ParameterLayout> parameters;
  std::vector<std::size_t> touches;  ///< units it computes with: itself, then owners of its ties
  std::size_t first_toucher = 0;     ///< first unit in forward order that computes with this one
};

/// Where every parameter of a model lies when W ranks train it: units in forward order, each flat,
/// each parameter on a block boundary, each unit zero-padded to W equal parts.
///
/// Errors:  throws ConfigError for a world of 0, what the model's `validate(config)` refuses, a
///          `Repeat` of 0, a shape of 0 elements, a tie to what no other unit describes.
/// Cost:    built once; usable in constant expressions.
template <class Model>
class Layout {
 public:
  using Config = typename Model::Config;
  using Units = typename Model::Units;
  static constexpr std::size_t stage_count = Units::stage_count;

  constexpr Layout(const Config& config, std::size_t world) : world_{world} {
    if (world == 0) throw ConfigError("world size is 0: a job has at least one rank");
    if constexpr (requires { validate(config); })
      validate(config);  // the model's own, if it has one
    for_each_stage([&]<std::size_t S>() {
      const std::size_t count = Units::template Stage<S>::count(config);
      if (count == 0)
        throw ConfigError("stage " + std::to_string(S) +
                          " of the model repeats 0 times: at least 1");
      first_[S] = units_.size();
      count_[S] = count;
      for (std::size_t i = 0; i < count; ++i) add_unit<S>(config, i);
    });
    resolve_ties();
  }

  constexpr std::size_t world() const { return world_; }
  constexpr std::size_t unit_count() const { return units_.size(); }
  constexpr const UnitLayout& unit(std::size_t u) const { return units_[u]; }
  constexpr const std::vector<UnitLayout>& units() const { return units_; }
  constexpr std::size_t first_unit(std::size_t stage) const { return first_[stage]; }
  constexpr std::size_t count(std::size_t stage) const { return count_[stage]; }

  /// Parameters of the model, each counted once.
  constexpr std::size_t parameter_count() const {
    std::size_t n = 0;
    for (const UnitLayout& unit : units_) n += unit.used;
    return n;
  }
  /// Elements of all units, padding included: held by one rank (`shard`), or by all (`full`).
  constexpr std::size_t shard_elements() const {
    return units_.back().shard_offset + units_.back().part;
  }
  constexpr std::size_t full_elements() const { return shard_elements() * world_; }

  /// Calls `visit.template operator()<S>()` for each stage, in forward order.
  template <class Visit>
  static constexpr void for_each_stage(Visit&& visit) {
    [&]<std::size_t... S>(std::index_sequence<S...>) { (visit.template operator()<S>(), ...); }
    (std::make_index_sequence<stage_count>{});
  }

 private:
  template <std::size_t S>
  constexpr void add_unit(const Config& config, std::size_t index) {
    using Unit = typename Units::template Unit<S>;
    UnitLayout unit;
    unit.stage = S;
    unit.index = index;
    std::size_t end = 0;
    for (const Spec& spec : specs_of<Unit>(config)) {
      ParameterLayout parameter{
          .spec = spec, .unit = units_.size(), .offset = end, .is_tied = spec.is_tied()};
      if (!parameter.is_tied) {
        if (spec.shape.count() == 0)
          throw ConfigError("parameter " + parameter_name<Unit>(index, spec) +
                            " has no elements: every extent must be at least 1");
        unit.used += spec.shape.count();
        end = round_up(end + spec.shape.count(), block_elements);
      }
      unit.parameters.push_back(parameter);
    }
    unit.part = round_up(ceil_div(end, world_), block_elements);
    unit.padded = unit.part * world_;
    if (!units_.empty()) {
      unit.shard_offset = units_.back().shard_offset + units_.back().part;
      unit.full_offset = units_.back().full_offset + units_.back().padded;
    }
    units_.push_back(unit);
  }

  constexpr void resolve_ties() {
    std::array<std::uint64_t, stage_count> type{};
    for_each_stage([&]<std::size_t S>() { type[S] = type_hash<typename Units::template Unit<S>>; });
    for (std::size_t u = 0; u < units_.size(); ++u) {
      units_[u].touches.push_back(u);
      for (ParameterLayout& parameter : units_[u].parameters) {
        if (!parameter.is_tied) continue;
        const std::size_t stage = static_cast<std::size_t>(
            std::find(type.begin(), type.end(), parameter.spec.tied_unit) - type.begin());
        if (stage == stage_count || count_[stage] != 1)
          throw ConfigError("parameter " + std::string(parameter.spec.name.view()) +
                            " is tied to a unit that the model does not hold exactly once");
        const std::size_t owner = first_[stage];
        bool found = false;
        for (const ParameterLayout& candidate : units_[owner].parameters)
          if (!candidate.is_tied && candidate.spec.name.view() == parameter.spec.name.view()) {
            parameter = candidate;
            parameter.is_tied = found = true;
          }
        if (!found)
          throw ConfigError("parameter " + std::string(parameter.spec.name.view()) +
                            " is tied, but its owner describes none of that name");
        if (std::find(units_[u].touches.begin(), units_[u].touches.end(), owner) ==
            units_[u].touches.end())
          units_[u].touches.push_back(owner);
      }
    }
    for (std::size_t u = units_.size(); u-- > 0;)
      for (std::size_t touched : units_[u].touches) units_[touched].first_toucher = u;
  }

  std::size_t world_;
  std::vector<UnitLayout> units_;
  std::array<std::size_t, stage_count> first_{}, count_{};
};

}  // namespace shardexpr
