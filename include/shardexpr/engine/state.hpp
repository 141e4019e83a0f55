// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/optim/update.hpp>
#include <shardexpr/plan/places.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

namespace shardexpr::detail {

/// The host beside a device; where there is none, nothing is ever asked of it.
template <class D>
struct host_of : std::type_identity<D> {};
template <class D>
  requires requires { typename D::Host; }
struct host_of<D> : std::type_identity<typename D::Host> {};
template <class D>
using HostOf = typename host_of<D>::type;

/// What a rank keeps between steps in memory, one buffer a kind and place, flat by flat. A kind
/// that the strategy shards is as long as this rank's parts; one that it does not, as long as the
/// whole. What lies on a disk is in `Swap`.
template <class Strategy, class Model, class D>
class State {
  using Sharding = typename Strategy::sharding;
  using Precision = typename Strategy::precision;
  using Host = std::conditional_t<is_offloaded<Strategy>, HostOf<D>, D>;
  static constexpr std::size_t moment_count = Strategy::optimizer::moments;
  static constexpr bool copies = computes_with_copy<Precision>;
  static constexpr bool host_updates = optimizer_place<Strategy> == Place::host;

 public:
  using Storage = typename Precision::storage;
  using Compute = typename Precision::compute;
  using Gradient = typename Precision::gradient;
  using Moment = typename Precision::optimizer;
  using Operands = UpdateOperands<Storage, Gradient, Moment, Compute, moment_count>;

  /// `rank`: this rank's place among those that share one copy. `in_place`: full gradients lie
  /// where gradients are kept.
  State(D& device, const Layout<Model>& layout, std::size_t rank, bool in_place)
      : layout_{&layout},
        rank_{rank},
        kept_{kept_flats<Strategy>(layout, in_place)},
        places_{place_all()},
        parameters_{device.template allocate<Compute>(end().parameters, Purpose::parameters)},
        masters_{device.template allocate<Storage>(end().masters, Purpose::parameters)},
        gradients_{device.template allocate<Gradient>(end().gradients, Purpose::gradients)},
        moments_{
            device.template allocate<Moment>(end().moments * moment_count, Purpose::optimizer)} {
    if constexpr (is_offloaded<Strategy>) {
      Host& host = device.host();
      host_parameters_ =
          host.template allocate<Compute>(end().host_parameters, Purpose::parameters);
      host_masters_ = host.template allocate<Storage>(end().host_masters, Purpose::parameters);
      host_gradients_ =
          host.template allocate<Gradient>(end().host_moments_if(host_updates), Purpose::gradients);
      host_moments_ = host.template allocate<Moment>(
          end().host_moments_if(host_updates) * moment_count, Purpose::optimizer);
    }
  }

  const std::vector<KeptFlat>& all_kept() const { return kept_; }
  const KeptFlat& kept(std::size_t f) const { return kept_[f]; }

  /// Flat f's parameters as this rank keeps them for units: its part, or the whole. In the host's
  /// memory if they are kept there, empty if on a disk.
  std::span<Compute> parameters(std::size_t f) const {
    if constexpr (parameters_place<Strategy> == Place::host)
      if (kept_[f].parameters_place == Place::host)
        return slice(host_parameters_, places_[f].host_parameters, kept_[f].parameters);
    if (kept_[f].parameters_place != Place::device) return {};
    return slice(parameters_, places_[f].parameters, kept_[f].parameters);
  }
  /// Those kept on the device: of what is updated those from `device_gradients_from` on; the whole,
  /// where it is not split. Empty if f is frozen.
  std::span<Gradient> gradients(std::size_t f) const {
    return slice(gradients_, places_[f].gradients, kept_[f].device_gradients);
  }
  /// Those that the host updates by. Empty if they lie on a disk.
  std::span<Gradient> host_gradients(std::size_t f) const {
    return slice(host_gradients_, places_[f].host_moments, host_updates ? kept_[f].away : 0);
  }
  /// The elements of flat f that this rank updates: its part, or all if every rank updates all.
  std::span<Compute> updated_parameters(std::size_t f) const { return updated(parameters(f), f); }
  std::span<Gradient> updated_gradients(std::size_t f) const { return updated(gradients(f), f); }
  /// Of these, in storage dtype, those that the device updates, and those that the host does. Of a
  /// frozen flat none, where units compute in another.
  std::span<Storage> masters(std::size_t f) const {
    if (kept_[f].has_device_masters)
      return slice(masters_, places_[f].masters, kept_[f].device_masters());
    if constexpr (copies)
      return {};
    else
      return updated_parameters(f).subspan(kept_[f].away);
  }
  std::span<Storage> host_masters(std::size_t f) const {
    if (!host_updates) return {};
    if (kept_[f].has_away_masters)
      return slice(host_masters_, places_[f].host_masters, kept_[f].away);
    if constexpr (copies)
      return {};
    else
      return updated_parameters(f).first(kept_[f].away);
  }
  /// Where they begin in the flat.
  std::size_t updated_from(std::size_t f) const {
    return Sharding::optimizer ? rank_ * flat(f).part : 0;
  }
  /// What the device's update of flat f reads and writes; the host's. `copy`: where the parameters
  /// go in compute dtype if they are not kept on the same place.
  Operands operands(std::size_t f, Compute* copy = nullptr) const {
    const KeptFlat& kept = kept_[f];
    if (kept.parameters_place == Place::device) copy = updated_parameters(f).data() + kept.away;
    // In place, gradients are whole where a part is updated.
    const auto all = kept.away == 0 ? updated_gradients(f)
                                    : gradients(f).subspan(kept.away - kept.device_gradients_from);
    return {masters(f), all, moments_at(moments_, places_[f].moments, end().moments), copy};
  }
  Operands host_operands(std::size_t f, Compute* copy = nullptr) const {
    const KeptFlat& kept = kept_[f];
    if (kept.parameters_place == Place::host) copy = updated_parameters(f).data();
    return {host_masters(f), host_gradients(f),
            moments_at(host_moments_, places_[f].host_moments, end().host_moments), copy};
  }
  /// This rank's part of flat f, wherever it lies: parts are disjoint and cover the flat.
  template <class T>
  std::span<T> part_of(std::span<T> whole_or_part, std::size_t f) const {
    const std::size_t part = flat(f).part;
    return whole_or_part.size() == part ? whole_or_part : whole_or_part.subspan(rank_ * part, part);
  }
  /// Of the elements that this rank updates, those whose squares it answers for.
  FlatLayout::Run answered_for(std::size_t f) const {
    return {Sharding::optimizer ? 0 : rank_ * flat(f).part, flat(f).part};
  }
  /// Of their gradients those that the device keeps.
  std::span<const Gradient> answered_gradients(std::size_t f) const {
    if (kept_[f].away == 0) return part_of(gradients(f), f);
    const FlatLayout::Run mine = answered_for(f);
    const std::size_t from = kept_[f].device_gradients_from;
    const std::size_t first = std::max(from, mine.first), last = mine.first + mine.count;
    return gradients(f).subspan(first - from).first(last > first ? last - first : 0);
  }

  /// Calls `visit(element, i)` for each element i of a parameter that lies in `range`, whose first
  /// element is the flat's element `begin`.
  template <class T, class Visit>
  static void for_each_in(const ParameterLayout& parameter, std::size_t begin, std::span<T> range,
                          Visit visit) {
    const std::size_t first = std::max(parameter.offset, begin);
    const std::size_t last =
        std::min(parameter.offset + parameter.spec.shape.count(), begin + range.size());
    for (std::size_t i = first; i < last; ++i) visit(range[i - begin], i - parameter.offset);
  }
  /// Calls `visit(place, span, begin)` for each stretch of flat f's parameters that lies in memory,
  /// the device's or the host's: as units compute with them, and as they are updated where those
  /// are apart.
  template <class Visit>
  void for_each_parameter_range(std::size_t f, Visit visit) const {
    const auto own = parameters(f);
    if (!own.empty())
      visit(kept_[f].parameters_place, own,
            own.size() == flat(f).padded ? 0 : rank_ * flat(f).part);
    if (kept_[f].has_device_masters)
      visit(Place::device, masters(f), updated_from(f) + kept_[f].away);
    if (kept_[f].has_away_masters && host_updates)
      visit(Place::host, host_masters(f), updated_from(f));
  }
  /// The same for what this rank keeps of reduced gradients.
  template <class Visit>
  void for_each_gradient_range(std::size_t f, Visit visit) const {
    const auto own = gradients(f);
    visit(Place::device, own,
          own.size() == flat(f).padded ? 0 : updated_from(f) + kept_[f].device_gradients_from);
    visit(Place::host, host_gradients(f), updated_from(f));
  }

 private:
  // Where a flat begins in each buffer; behind the last flat, where they end.
  struct Places {
    std::size_t parameters = 0, masters = 0, gradients = 0, moments = 0;
    std::size_t host_parameters = 0, host_masters = 0, host_moments = 0;

    std::size_t host_moments_if(bool wanted) const { return wanted ? host_moments : 0; }
  };

  const FlatLayout& flat(std::size_t f) const { return layout_->flat(f); }
  const Places& end() const { return places_.back(); }
  std::vector<Places> place_all() const {
    std::vector<Places> places(1);
    for (const KeptFlat& kept : kept_) {
      Places next = places.back();
      if (kept.parameters_place == Place::device) next.parameters += kept.parameters;
      if (kept.parameters_place == Place::host) next.host_parameters += kept.parameters;
      next.gradients += kept.device_gradients;
      next.masters += kept.has_device_masters ? kept.device_places() : 0;
      next.moments += kept.device_places();
      if (host_updates) {
        next.host_masters += kept.has_away_masters ? kept.away_places() : 0;
        next.host_moments += kept.away_places();
      }
      places.push_back(next);
    }
    return places;
  }
  template <class Buffer>
  static auto slice(const Buffer& buffer, std::size_t begin, std::size_t count) {
    return std::span{buffer.data() + begin, count};
  }
  template <class Buffer>
  static std::array<Moment*, moment_count> moments_at(const Buffer& buffer, std::size_t begin,
                                                      std::size_t stride) {
    std::array<Moment*, moment_count> moments;
    for (std::size_t k = 0; k < moment_count; ++k) moments[k] = buffer.data() + k * stride + begin;
    return moments;
  }
  template <class T>
  std::span<T> updated(std::span<T> kept, std::size_t f) const {
    return Sharding::optimizer && !kept.empty() ? part_of(kept, f) : kept;
  }

  const Layout<Model>* layout_;
  std::size_t rank_;
  std::vector<KeptFlat> kept_;
  std::vector<Places> places_;
  typename D::template Buffer<Compute> parameters_;
  typename D::template Buffer<Storage> masters_;
  typename D::template Buffer<Gradient> gradients_;
  typename D::template Buffer<Moment> moments_;
  typename Host::template Buffer<Compute> host_parameters_;
  typename Host::template Buffer<Storage> host_masters_;
  typename Host::template Buffer<Gradient> host_gradients_;
  typename Host::template Buffer<Moment> host_moments_;
};

}  // namespace shardexpr::detail
