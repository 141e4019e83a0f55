// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/policy/offload.hpp>

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

namespace shardexpr::detail {

/// Whether the host reads and writes the device's memory as its own; else what it is to see is
/// copied to memory of the host beside the device.
template <class Strategy>
inline constexpr bool shares_memory = !requires {
  requires !Strategy::device::shares_memory;
};
template <class Strategy>
inline constexpr bool needs_host = is_offloaded<Strategy> || !shares_memory<Strategy>;
/// Whether what a step decides goes down to the host: to update by it, or to read it.
template <class Strategy>
inline constexpr bool outcome_comes_down =
    optimizer_place<Strategy> != Place::device || !shares_memory<Strategy>;

/// Units compute with a copy of the parameters, in a dtype of its own.
template <class Precision>
inline constexpr bool computes_with_copy =
    !std::is_same_v<typename Precision::storage, typename Precision::compute>;

/// What one rank keeps of a flat, in elements, and on which place. Of what it updates, the first
/// `away` elements are updated off the device, where the optimizer's place says, the others on it.
struct KeptFlat {
  Place parameters_place = Place::device;
  std::size_t parameters = 0;  // in compute dtype
  std::size_t updated = 0, away = 0;
  // Parameters in storage dtype, where they are kept apart.
  bool has_device_masters = false, has_away_masters = false;
  // On the device; `device_gradients_from`: the first, counted in what is updated. A block that the
  // host begins and the device ends is whole on the device, so that its squares are added at once.
  std::size_t device_gradients = 0, device_gradients_from = 0;

  constexpr std::size_t on_device() const { return updated - away; }
  constexpr std::size_t device_masters() const { return has_device_masters ? on_device() : 0; }
  constexpr std::size_t away_masters() const { return has_away_masters ? away : 0; }
  /// Moments begin at blocks, as parameters do.
  constexpr std::size_t device_places() const { return round_up(on_device(), block_elements); }
  constexpr std::size_t away_places() const { return round_up(away, block_elements); }
};

/// Elements that one rank keeps of a flat's parameters, by what the sharding splits.
template <class Sharding>
constexpr std::size_t kept_parameters(const FlatLayout& flat) {
  return Sharding::parameters && !flat.is_persistent ? flat.part : flat.padded;
}
/// `in_place`: full gradients lie there too. Else no more is kept than is updated.
template <class Sharding>
constexpr std::size_t kept_gradients(const FlatLayout& flat, bool in_place) {
  if (!flat.is_trainable) return 0;
  const bool part = Sharding::gradients || (Sharding::optimizer && !in_place);
  return part ? flat.part : flat.padded;
}
/// What it updates.
template <class Sharding>
constexpr std::size_t kept_for_update(const FlatLayout& flat) {
  if (!flat.is_trainable) return 0;
  return Sharding::optimizer ? flat.part : flat.padded;
}

/// Of each flat what one rank keeps. `in_place`: full gradients lie where gradients are kept.
template <class Strategy, class Model>
constexpr std::vector<KeptFlat> kept_flats(const Layout<Model>& layout, bool in_place) {
  using Sharding = typename Strategy::sharding;
  using Optimizer = typename Strategy::offload::optimizer;
  constexpr Place place = optimizer_place<Strategy>;
  std::vector<KeptFlat> all;
  std::size_t updated = 0, away = 0;  // of the flats before
  for (std::size_t f = 0; f < layout.flat_count(); ++f) {
    const FlatLayout& flat = layout.flat(f);
    KeptFlat kept;
    kept.parameters = kept_parameters<Sharding>(flat);
    kept.parameters_place = flat.is_persistent ? Place::device : parameters_place<Strategy>;
    kept.updated = kept_for_update<Sharding>(flat);
    updated += kept.updated;
    if constexpr (is_partial<Optimizer>) {
      // Each flat has its share, and all together the fraction to the element.
      kept.away = updated / Optimizer::denominator * Optimizer::numerator +
                  updated % Optimizer::denominator * Optimizer::numerator / Optimizer::denominator -
                  away;
    } else {
      kept.away = place == Place::device ? 0 : kept.updated;
    }
    away += kept.away;
    constexpr bool copies = computes_with_copy<typename Strategy::precision>;
    kept.has_device_masters = copies || kept.parameters_place != Place::device;
    kept.has_away_masters = copies || kept.parameters_place != place;
    kept.device_gradients_from = kept.away / block_elements * block_elements;
    kept.device_gradients = kept.away == 0 ? kept_gradients<Sharding>(flat, in_place)
                                           : kept.updated - kept.device_gradients_from;
    all.push_back(kept);
  }
  return all;
}

}  // namespace shardexpr::detail
