// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/optim/update.hpp>
#include <shardexpr/plan/plan.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

namespace shardexpr::detail {

/// What a rank keeps between steps, one buffer a kind, flat by flat. A kind that the strategy
/// shards is as long as this rank's parts; one that it does not, as long as the whole.
template <class Strategy, class Model, class D>
class State {
  using Sharding = typename Strategy::sharding;
  using Precision = typename Strategy::precision;
  static constexpr std::size_t moment_count = Strategy::optimizer::moments;
  static constexpr bool has_masters = computes_with_copy<Precision>;

 public:
  using Storage = typename Precision::storage;
  using Compute = typename Precision::compute;
  using Gradient = typename Precision::gradient;
  using Moment = typename Precision::optimizer;

  /// `rank`: this rank's place among those that share one copy. `in_place`: full gradients lie
  /// where gradients are kept.
  State(D& device, const Layout<Model>& layout, std::size_t rank, bool in_place)
      : layout_{&layout},
        rank_{rank},
        places_(layout.flat_count() + 1),
        parameters_{(place_all(in_place), device.template allocate<Compute>(
                                              places_.back().parameters, Purpose::parameters))},
        masters_{device.template allocate<Storage>(has_masters ? places_.back().updated : 0,
                                                   Purpose::parameters)},
        gradients_{
            device.template allocate<Gradient>(places_.back().gradients, Purpose::gradients)},
        moments_{device.template allocate<Moment>(places_.back().updated * moment_count,
                                                  Purpose::optimizer)} {}

  /// Flat f's parameters as this rank keeps them for units: its part, or the whole.
  std::span<Compute> parameters(std::size_t f) const {
    return slice(parameters_, places_[f].parameters, places_[f + 1].parameters);
  }
  /// Empty if f is frozen.
  std::span<Gradient> gradients(std::size_t f) const {
    return slice(gradients_, places_[f].gradients, places_[f + 1].gradients);
  }
  /// The elements of flat f that this rank updates: its part, or all if every rank updates all.
  std::span<Compute> updated_parameters(std::size_t f) const { return updated(parameters(f), f); }
  std::span<Gradient> updated_gradients(std::size_t f) const { return updated(gradients(f), f); }
  /// The same elements in storage dtype. Of a frozen flat none, where units compute in another.
  std::span<Storage> masters(std::size_t f) const {
    if constexpr (has_masters)
      return slice(masters_, places_[f].updated, places_[f + 1].updated);
    else
      return updated_parameters(f);
  }
  /// Where they begin in the flat.
  std::size_t updated_from(std::size_t f) const {
    return Sharding::optimizer ? rank_ * flat(f).part : 0;
  }
  /// What this rank's update of flat f reads and writes.
  UpdateOperands<Storage, Gradient, Moment, Compute, moment_count> operands(std::size_t f) const {
    std::array<Moment*, moment_count> moments;
    for (std::size_t k = 0; k < moment_count; ++k)
      moments[k] = moments_.data() + k * places_.back().updated + places_[f].updated;
    return {masters(f), updated_gradients(f), moments, updated_parameters(f).data()};
  }
  /// This rank's part of flat f, wherever it lies: parts are disjoint and cover the flat.
  template <class T>
  std::span<T> part_of(std::span<T> whole_or_part, std::size_t f) const {
    const std::size_t part = flat(f).part;
    return whole_or_part.size() == part ? whole_or_part : whole_or_part.subspan(rank_ * part, part);
  }

  /// Calls `visit(element, i)` for each element i of a parameter that lies in `kept`: this rank's
  /// part of its flat, or the whole.
  template <class T, class Visit>
  void for_each_kept(const ParameterLayout& parameter, std::span<T> kept, Visit visit) const {
    const FlatLayout& flat = this->flat(parameter.flat);
    const std::size_t begin = kept.size() == flat.padded ? 0 : rank_ * flat.part;
    const std::size_t first = std::max(parameter.offset, begin);
    const std::size_t last =
        std::min(parameter.offset + parameter.spec.shape.count(), begin + kept.size());
    for (std::size_t i = first; i < last; ++i) visit(kept[i - begin], i - parameter.offset);
  }

  /// Fills what this rank keeps of unit u's own parameters from the formula of
  /// model/initialize.hpp, rounded to the storage dtype.
  template <class Unit>
  void initialize(std::size_t u, std::uint64_t seed) {
    for (const ParameterLayout& parameter : layout_->unit(u).parameters) {
      if (parameter.is_tied) continue;
      const std::uint64_t name =
          hash_of(parameter_name<Unit>(layout_->unit(u).index, parameter.spec));
      const auto value = [&](std::size_t i) {
        return static_cast<Storage>(initial_value(seed, name, i, parameter.spec.init));
      };
      const auto set = [&](auto& element, std::size_t i) {
        element = static_cast<std::remove_reference_t<decltype(element)>>(value(i));
      };
      for_each_kept(parameter, parameters(parameter.flat), set);
      if constexpr (has_masters) for_each_kept(parameter, masters(parameter.flat), set);
    }
  }

 private:
  // Where a flat begins in each buffer; behind the last flat, where they end.
  struct Places {
    std::size_t parameters = 0, gradients = 0, updated = 0;
  };

  const FlatLayout& flat(std::size_t f) const { return layout_->flat(f); }
  void place_all(bool in_place) {
    for (std::size_t f = 0; f < layout_->flat_count(); ++f)
      places_[f + 1] = {places_[f].parameters + kept_parameters<Sharding>(flat(f)),
                        places_[f].gradients + kept_gradients<Sharding>(flat(f), in_place),
                        places_[f].updated + kept_for_update<Sharding>(flat(f))};
  }
  template <class Buffer>
  static auto slice(const Buffer& buffer, std::size_t begin, std::size_t end) {
    return std::span{buffer.data() + begin, end - begin};
  }
  template <class T>
  std::span<T> updated(std::span<T> kept, std::size_t f) const {
    return Sharding::optimizer ? part_of(kept, f) : kept;
  }

  const Layout<Model>* layout_;
  std::size_t rank_;
  std::vector<Places> places_;
  typename D::template Buffer<Compute> parameters_;
  typename D::template Buffer<Storage> masters_;
  typename D::template Buffer<Gradient> gradients_;
  typename D::template Buffer<Moment> moments_;
};

}  // namespace shardexpr::detail
