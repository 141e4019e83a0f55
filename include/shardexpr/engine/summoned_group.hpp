// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/swap_state.hpp>

#include <cstddef>
#include <span>

namespace shardexpr::detail {

/// The full parameters of a group in storage dtype, in memory of their own. Where units compute in
/// another dtype, frozen parameters are cast from it: they are kept in no other.
///
/// Order:   construction and `spread` are collective; when they return, their work is done.
/// Cost:    the group's padded elements, freed with the object; as much of the host's where it
/// cannot
///          reach the device, and for a flat at a time where something is offloaded.
template <class M, class S>
class SummonedGroup {
  using Core = detail::Core<M, S>;
  using Device = typename Core::Device;
  using Storage = typename S::precision::storage;
  using Compute = typename S::precision::compute;
  static constexpr bool has_masters = computes_with_copy<typename S::precision>;

 public:
  /// `shows`: this rank looks at them.
  SummonedGroup(Core& core, std::size_t g, bool shows)
      : core_{&core}, g_{g}, drain_{core.timeline} {
    std::size_t count = 0;
    core.layout.for_each_flat(g,
                              [&](std::size_t, const FlatLayout& flat) { count += flat.padded; });
    memory_ = core.device->template allocate<Storage>(count, Purpose::other);
    const Context<Device> on = core.begin(comm_stream, {"summon", g});
    core.layout.for_each_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      if constexpr (is_offloaded<S>) return collect_offloaded(on, f);
      if constexpr (has_masters)
        if (flat.is_trainable) return collect(on, f, core.state.masters(f));
      collect(on, f, core.state.parameters(f));
    });
    if constexpr (!shares_memory<S>)
      if (shows) {
        shown_ = core.host().template allocate<Storage>(count, Purpose::transfers);
        on.device.copy(on.stream, std::span<const Storage>{memory_.span()}, shown_.span());
      }
    core.timeline.synchronize(comm_stream);
  }
  SummonedGroup(const SummonedGroup&) = delete;
  SummonedGroup& operator=(const SummonedGroup&) = delete;

  /// Every rank takes what `root` has here for its own.
  void spread(std::size_t root) {
    const Context<Device> on = core_->begin(comm_stream, {"write back", g_});
    if constexpr (!shares_memory<S>)
      if (core_->mesh.world().rank() == root)
        on.device.copy(on.stream, std::span<const Storage>{shown_.span()}, memory_.span());
    core_->layout.for_each_flat(g_, [&](std::size_t f, const FlatLayout&) {
      core_->mesh.world().broadcast(on, full(f), root);
    });
    restore();
  }
  /// Every rank takes what it has here for its own: all have the same.
  void restore() {
    const Context<Device> on = core_->begin(comm_stream, {"write back", g_});
    core_->layout.for_each_flat(g_, [&](std::size_t f, const FlatLayout& flat) {
      if constexpr (is_offloaded<S>) return keep_offloaded(on, f);
      keep(on, f, core_->state.parameters(f));
      if constexpr (has_masters)
        if (flat.is_trainable) keep(on, f, core_->state.masters(f));
    });
    core_->timeline.synchronize(comm_stream);
  }

  /// Flat f, one of the group's, where the host can reach it.
  std::span<Storage> shown(std::size_t f) const {
    if constexpr (shares_memory<S>)
      return full(f);
    else
      return flat_in(shown_, f);
  }

 private:
  template <class Buffer>
  std::span<Storage> flat_in(const Buffer& memory, std::size_t f) const {
    std::size_t at = 0;
    for (std::size_t before = core_->layout.group(g_).first_flat; before < f; ++before)
      at += core_->layout.flat(before).padded;
    return {memory.data() + at, core_->layout.flat(f).padded};
  }
  std::span<Storage> full(std::size_t f) const { return flat_in(memory_, f); }

  /// What this rank keeps of flat f, a part or all -> the whole.
  template <class T>
  void collect(const Context<Device>& on, std::size_t f, std::span<T> kept) {
    const std::span<Storage> whole = full(f), mine = same_range(whole, f, kept);
    on.device.cast(on.stream, std::span<const T>{kept}, mine);
    if (mine.size() < whole.size())
      core_->mesh.shard().all_gather(on, std::span<const Storage>{mine}, whole);
  }
  template <class T>
  void keep(const Context<Device>& on, std::size_t f, std::span<T> kept) {
    on.device.cast(on.stream, std::span<const Storage>{same_range(full(f), f, kept)}, kept);
  }
  template <class T>
  std::span<Storage> same_range(std::span<Storage> whole, std::size_t f, std::span<T> kept) const {
    return kept.size() == whole.size() ? whole : core_->state.part_of(whole, f);
  }

  // What lies off the device goes through memory of the host, this rank's share of a flat at a
  // time, and the host waits.

  using Host = typename Core::Host;
  using Bounce = typename Host::template Buffer<Storage>;

  void collect_offloaded(const Context<Device>& on, std::size_t f) {
    const FlatLayout& flat = core_->layout.flat(f);
    const KeptFlat& kept = core_->state.kept(f);
    // Of a flat that is trained, what this rank updates: at the front what the device does not.
    const std::size_t count = flat.is_trainable ? kept.updated : kept.parameters;
    const std::size_t first = count == flat.padded ? 0 : core_->mesh.shard().rank() * flat.part;
    const std::span<Storage> whole = full(f), mine = whole.subspan(first, count);
    std::size_t away = kept.away;
    if (flat.is_trainable) {
      const auto masters = core_->state.masters(f);
      on.device.copy(on.stream, std::span<const Storage>{masters},
                     mine.subspan(kept.away, masters.size()));
    } else if (kept.parameters_place == Place::device) {
      on.device.cast(on.stream, std::span<const Compute>{core_->state.parameters(f)}, mine);
    } else {
      away = count;
    }
    if (away != 0) fetch(on, f, mine.first(away));
    if (count < whole.size())
      core_->mesh.shard().all_gather(on, std::span<const Storage>{mine}, whole);
    core_->timeline.synchronize(comm_stream);
  }
  /// What host and disk have of flat f's parameters -> the device.
  void fetch(const Context<Device>& on, std::size_t f, std::span<Storage> to) {
    const Bounce bounce = core_->host().template allocate<Storage>(to.size(), Purpose::transfers);
    const Drain drain{core_->timeline};
    const auto take = [&](auto from, std::size_t at) {
      for (std::size_t i = 0; i < from.size(); ++i)
        bounce.data()[at + i] = static_cast<Storage>(static_cast<float>(from[i]));
    };
    if (core_->layout.flat(f).is_trainable) {
      take(core_->state.host_masters(f), 0);
      if constexpr (optimizer_place<S> == Place::nvme)
        visit_chunks<SwapAccess::reads>(
            *core_, f, [&](const auto& view, std::size_t at) { take(view.masters, at); });
    } else {
      take(core_->state.parameters(f), 0);
      if constexpr (parameters_place<S> == Place::nvme)
        visit_swapped_parameters<SwapAccess::reads>(*core_, f,
                                                    [&](auto values) { take(values, 0); });
    }
    on.device.copy(on.stream, std::span<const Storage>{bounce.span()}, to);
    core_->timeline.synchronize(comm_stream);
  }
  void keep_offloaded(const Context<Device>& on, std::size_t f) {
    const FlatLayout& flat = core_->layout.flat(f);
    const std::span<const Storage> whole{full(f)};
    const Bounce bounce = core_->host().template allocate<Storage>(flat.padded, Purpose::transfers);
    const Drain drain{core_->timeline};
    on.device.copy(on.stream, whole, bounce.span());
    core_->timeline.synchronize(comm_stream);
    const auto give = [&](auto to, std::size_t begin) {
      using T = typename decltype(to)::value_type;
      for (std::size_t i = 0; i < to.size(); ++i)
        to[i] = static_cast<T>(static_cast<float>(bounce.data()[begin + i]));
    };
    core_->state.for_each_parameter_range(f, [&](Place place, auto range, std::size_t begin) {
      if (place == Place::host) return give(range, begin);
      on.device.cast(on.stream, whole.subspan(begin, range.size()), range);
    });
    if constexpr (parameters_place<S> == Place::nvme)
      visit_swapped_parameters<SwapAccess::writes>(
          *core_, f, [&](auto values) { give(values, core_->mesh.shard().rank() * flat.part); });
    if constexpr (optimizer_place<S> == Place::nvme)
      visit_chunks<SwapAccess::writes>(*core_, f, [&](const auto& view, std::size_t first) {
        give(view.masters, core_->state.updated_from(f) + first);
      });
  }

  Core* core_;
  std::size_t g_;
  typename Device::template Buffer<Storage> memory_;
  Bounce shown_;
  Drain<typename Core::Timeline> drain_;  // an exception frees the memory behind what uses it
};

}  // namespace shardexpr::detail
