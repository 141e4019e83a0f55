// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/arena.hpp>
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/gather_storage.hpp>
#include <shardexpr/engine/offloaded_parameters.hpp>
#include <shardexpr/engine/wire.hpp>

#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

namespace shardexpr::detail {

/// The full parameters of groups while they are gathered, and what ReshardTo keeps of them between.
template <class M, class S>
class GatheredParameters {
  using Core = detail::Core<M, S>;
  using Device = typename Core::Device;
  using Mark = typename Core::Mark;
  using Needs = typename Core::Needs;
  using T = typename S::precision::compute;
  using Wire = ParameterWire<S>;
  using Kept = typename Wire::Kept;
  static constexpr bool gathers = S::sharding::parameters;
  static constexpr bool is_kept_apart = parameters_place<S> != Place::device;
  // Who writes first where a group is gathered.
  static constexpr StreamId first_stream =
      is_kept_apart && !S::communicator::gather_is_shared ? up_stream : comm_stream;
  static constexpr bool reshards = S::reshard::ranks != 0;
  static constexpr std::size_t nowhere = static_cast<std::size_t>(-1);

 public:
  explicit GatheredParameters(Core& core)
      : core_{&core},
        buffer_{*core.device, core.mesh.shard(), core.counts.gathered_elements},
        regathered_{*core.device, core.mesh, core.counts.regathered_elements},
        wire_{*core.device, core.mesh, core.counts},
        kept_{core.device->template allocate<Kept>(
            core.counts.resharded_elements / Wire::kept_elements, Purpose::resharded)},
        arena_{core.counts.gathered_elements, core.layout.group_count()},
        regathered_arena_{core.counts.regathered_elements, core.layout.group_count()},
        kept_apart_{core},
        groups_(core.layout.group_count()) {}

  /// This rank's parts -> the whole group, of every rank that shares the copy.
  void gather(std::size_t g) {
    take(g, arena_, buffer_.data(), first_stream);
    const auto full = [&](const FlatLayout& flat) {
      return std::span{groups_[g].data + flat.gathered_offset, flat.padded};
    };
    if constexpr (is_kept_apart) kept_apart_.upload(g, full);
    const Context<Device> on = core_->begin(comm_stream, {"gather", g});
    core_->layout.for_each_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      if (!flat.is_persistent)
        wire_.gather(core_->mesh.shard(), on, std::span<const T>{part(f)}, full(flat));
    });
    finish(g);
    if constexpr (is_kept_apart) kept_apart_.finish(groups_[g].gathered);
  }

  /// Keeps this rank's 1/K of a gathered group.
  void keep(std::size_t g) {
    Group& group = groups_[g];
    if (group.kept_at == nowhere) {  // the same place in every step
      group.kept_at = kept_end_;
      kept_end_ += core_->layout.group(g).gathered / S::reshard::ranks / Wire::kept_elements;
    }
    const Context<Device> on = core_->begin(compute_stream, {"keep", g});
    for_each_kept(g, [&](std::span<Kept> kept, const FlatLayout& flat) {
      const T* full = group.data + flat.gathered_offset;
      const std::size_t count = kept.size() * Wire::kept_elements;
      wire_.keep(on, std::span<const T>{full + core_->mesh.reshard().rank() * count, count}, kept);
    });
    group.kept = core_->timeline.mark(compute_stream);
  }
  /// What `keep` kept in K ranks -> the whole group.
  void regather(std::size_t g) {
    if constexpr (reshards) {
      if constexpr (regathers_apart<S>)
        take(g, regathered_arena_, regathered_.data());
      else
        take(g, arena_, buffer_.data());
      groups_[g].is_regathered = true;
      core_->timeline.order(comm_stream, groups_[g].kept);
      const Context<Device> on = core_->begin(comm_stream, {"regather", g});
      for_each_kept(g, [&](std::span<Kept> kept, const FlatLayout& flat) {
        wire_.regather(core_->mesh.reshard(), on, std::span<const Kept>{kept},
                       std::span{groups_[g].data + flat.gathered_offset, flat.padded});
      });
      finish(g);
    }
  }

  /// After what the compute stream has been given so far, the memory is another group's.
  void release(std::size_t g) {
    Group& group = groups_[g];
    const std::size_t count = core_->layout.group(g).gathered;
    core_->timeline.order(compute_stream, group.gathered);  // gathered, and perhaps never used
    const Context<Device> on = core_->begin(compute_stream, {"release", g});
    on.device.retire(on.stream, std::span{group.data, count});
    arena_of(group).release(group.at, count, core_->timeline.mark(compute_stream));
    group.data = nullptr;
    note_live(on.stream);
  }

  /// The compute stream goes on when group g is there.
  void await(std::size_t g, Needs& needs) const {
    if constexpr (gathers) needs.add(groups_[g].gathered);
  }

  bool is_gathered(std::size_t g) const { return groups_[g].data != nullptr; }
  /// Flat f in full, of a gathered group or kept whole.
  T* flat(std::size_t f) const {
    const FlatLayout& flat = core_->layout.flat(f);
    if constexpr (gathers)
      if (!flat.is_persistent) return groups_[flat.group].data + flat.gathered_offset;
    return core_->state.parameters(f).data();
  }
  bool fits(std::size_t g) const { return arena_.fits(core_->layout.group(g).gathered); }
  std::size_t free_elements() const { return arena_.size() - arena_.live(); }

 private:
  struct Nothing {
    explicit Nothing(Core&) {}
  };
  struct Group {
    T* data = nullptr;  // while gathered
    std::size_t at = 0, kept_at = nowhere;
    bool is_regathered = false;
    Mark gathered, kept;
  };
  using Arena = detail::Arena<typename Core::Timeline>;

  Arena& arena_of(const Group& group) {
    return regathers_apart<S> && group.is_regathered ? regathered_arena_ : arena_;
  }
  void take(std::size_t g, Arena& arena, T* data, StreamId first = comm_stream) {
    Needs needs;
    groups_[g].at = arena.allocate(core_->layout.group(g).gathered, needs);
    groups_[g].data = data + groups_[g].at;
    groups_[g].is_regathered = false;
    core_->timeline.order(first, needs);
  }
  /// What this rank gives to a gather.
  std::span<T> part(std::size_t f) const {
    if constexpr (is_kept_apart)
      return kept_apart_.part(f);
    else
      return core_->state.parameters(f);
  }
  void finish(std::size_t g) {
    groups_[g].gathered = core_->timeline.mark(comm_stream);
    note_live(core_->timeline[comm_stream]);
  }
  void note_live(typename Device::Stream& stream) {
    core_->device->note_live(stream, Purpose::gathered,
                             (arena_.live() + regathered_arena_.live()) * sizeof(T));
  }
  template <class Visit>
  void for_each_kept(std::size_t g, Visit visit) {
    Kept* at = kept_.data() + groups_[g].kept_at;
    core_->layout.for_each_flat(g, [&](std::size_t, const FlatLayout& flat) {
      if (flat.is_persistent) return;
      const std::span<Kept> kept{at, flat.padded / S::reshard::ranks / Wire::kept_elements};
      at += kept.size();
      visit(kept, flat);
    });
  }

  Core* core_;
  GatherStorage<S, gathers> buffer_;
  RegatherStorage<S> regathered_;
  Wire wire_;
  typename Device::template Buffer<Kept> kept_;
  Arena arena_, regathered_arena_;
  std::conditional_t<is_kept_apart, OffloadedParameters<M, S>, Nothing> kept_apart_;
  std::vector<Group> groups_;
  std::size_t kept_end_ = 0;
};

}  // namespace shardexpr::detail
