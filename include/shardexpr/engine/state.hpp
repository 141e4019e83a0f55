// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/layout.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace shardexpr::detail {

/// What a rank keeps between steps, one buffer a kind. A kind that the strategy shards is as long
/// as this rank's parts; one that it does not, as long as the whole.
template <class Strategy, class Model, class D>
class State {
  using Sharding = typename Strategy::sharding;
  using Precision = typename Strategy::precision;
  static constexpr std::size_t moment_count = Strategy::optimizer::moments;

 public:
  using Storage = typename Precision::storage;
  using Gradient = typename Precision::reduce;
  using Moment = typename Precision::optimizer;

  State(D& device, const Layout<Model>& layout, std::size_t rank)
      : layout_{&layout},
        rank_{rank},
        parameters_{
            device.template allocate<Storage>(held(Sharding::parameters), Purpose::parameters)},
        gradients_{
            device.template allocate<Gradient>(held(Sharding::gradients), Purpose::gradients)},
        moments_{device.template allocate<Moment>(held(Sharding::optimizer) * moment_count,
                                                  Purpose::optimizer)} {}

  /// Unit u's parameters as this rank keeps them: its part, or the whole unit.
  std::span<Storage> parameters(std::size_t u) const {
    return unit_span(parameters_.data(), u, Sharding::parameters);
  }
  std::span<Gradient> gradients(std::size_t u) const {
    return unit_span(gradients_.data(), u, Sharding::gradients);
  }
  /// The elements of unit u that this rank updates: its part, or all if every rank updates all.
  std::span<Storage> updated_parameters(std::size_t u) const {
    return updated(parameters(u), u, Sharding::parameters);
  }
  std::span<Gradient> updated_gradients(std::size_t u) const {
    return updated(gradients(u), u, Sharding::gradients);
  }
  std::array<Moment*, moment_count> moments(std::size_t u) const {
    std::array<Moment*, moment_count> at;
    for (std::size_t k = 0; k < moment_count; ++k)
      at[k] =
          unit_span(moments_.data() + k * held(Sharding::optimizer), u, Sharding::optimizer).data();
    return at;
  }
  /// This rank's part of unit u, wherever it lies: parts are disjoint and cover the unit.
  template <class T>
  std::span<T> part_of(std::span<T> unit, std::size_t u) const {
    const std::size_t part = layout_->unit(u).part;
    return unit.size() == part ? unit : unit.subspan(rank_ * part, part);
  }

  /// Fills what this rank keeps of unit u from the formula of model/initialize.hpp, but padding.
  template <class Unit>
  void initialize(std::size_t u, std::uint64_t seed) {
    const UnitLayout& unit = layout_->unit(u);
    const std::span<Storage> kept = parameters(u);
    const std::size_t begin = Sharding::parameters ? rank_ * unit.part : 0;
    for (const ParameterLayout& parameter : unit.parameters) {
      if (parameter.is_tied) continue;
      const std::uint64_t name = hash_of(parameter_name<Unit>(unit.index, parameter.spec));
      const std::size_t first = std::max(parameter.offset, begin);
      const std::size_t last =
          std::min(parameter.offset + parameter.spec.shape.count(), begin + kept.size());
      for (std::size_t i = first; i < last; ++i)
        kept[i - begin] = initial_value(seed, name, i - parameter.offset, parameter.spec.init);
    }
  }

 private:
  std::size_t held(bool sharded) const {
    return sharded ? layout_->shard_elements() : layout_->full_elements();
  }
  template <class T>
  std::span<T> unit_span(T* data, std::size_t u, bool sharded) const {
    const UnitLayout& unit = layout_->unit(u);
    return sharded ? std::span<T>{data + unit.shard_offset, unit.part}
                   : std::span<T>{data + unit.full_offset, unit.padded};
  }
  template <class T>
  std::span<T> updated(std::span<T> kept, std::size_t u, bool sharded) const {
    return Sharding::optimizer && !sharded ? part_of(kept, u) : kept;
  }

  const Layout<Model>* layout_;
  std::size_t rank_;
  typename D::template Buffer<Storage> parameters_;
  typename D::template Buffer<Gradient> gradients_;
  typename D::template Buffer<Moment> moments_;
};

}  // namespace shardexpr::detail
