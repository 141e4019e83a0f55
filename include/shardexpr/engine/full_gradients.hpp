// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/arena.hpp>
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/offloaded_gradients.hpp>
#include <shardexpr/engine/wire.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace shardexpr::detail {

/// The full gradients of groups from the first backward that adds to them until they are reduced.
template <class M, class S>
class FullGradients {
  using Core = detail::Core<M, S>;
  using Device = typename Core::Device;
  using Mark = typename Core::Mark;
  using Needs = typename Core::Needs;
  using Sharding = typename S::sharding;
  using G = typename S::precision::reduce;
  using Kept = typename S::precision::gradient;
  static constexpr bool is_offloaded = optimizer_place<S> != Place::device;
  struct Nothing {
    explicit Nothing(Core&) {}
  };

 public:
  FullGradients(Core& core, std::size_t micro_batches)
      : core_{&core},
        in_place_{gradients_in_place<S>(micro_batches)},
        buffer_{
            reduction_memory<G>(core.mesh.shard(), *core.device, core.counts.gradients_elements)},
        staging_{core.device->template allocate<G>(core.counts.staging_elements,
                                                   Purpose::full_gradients)},
        copies_staging_{core.device->template allocate<G>(core.counts.copies_staging_elements,
                                                          Purpose::full_gradients)},
        wire_{*core.device, core.counts},
        room_{reserve_reductions<G>(core.mesh.shard(), *core.device, core.counts.room_elements)},
        copies_room_{core.mesh.shape().copies > 1
                         ? reserve_reductions<G>(core.mesh.copies(), *core.device,
                                                 core.counts.copies_room_elements)
                         : nullptr},
        arena_{core.counts.gradients_elements, core.layout.group_count()},
        offloaded_{core},
        groups_(core.layout.group_count()) {}

  void open(std::size_t g) {
    Group& group = groups_[g];
    Needs needs;
    if (in_place_)
      needs.add(group.reduced);
    else
      group.at = arena_.allocate(core_->layout.group(g).gradients, needs);
    core_->timeline.order(compute_stream, needs);
    const Context<Device> on = core_->begin(compute_stream, {"open", g});
    core_->layout.for_each_trained_flat(
        g, [&](std::size_t f, const FlatLayout&) { on.device.fill_zero(on.stream, flat(f)); });
    group.is_open = true;
    note_live(on.stream);
  }

  /// Full gradients -> the mean, where it is kept. `adds`: to what earlier micro-batches left in
  /// that place. `is_last`: no other micro-batch of the step does. `computed`: the point after the
  /// last backward that added to the gradients.
  void reduce(std::size_t g, bool adds, [[maybe_unused]] bool is_last, const Mark& computed) {
    Group& group = groups_[g];
    core_->timeline.order(comm_stream, computed);
    if constexpr (is_offloaded) return reduce_and_send(g, adds, is_last);
    const Context<Device> on = core_->begin(comm_stream, {"reduce", g});
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      const std::span<G> full = flat(f);
      const std::span<Kept> kept = core_->state.updated_gradients(f);
      if constexpr (Sharding::optimizer) {
        const bool stages = adds || casts_gradients<S>;
        const std::span<G> to = stages ? staging_.span().first(kept.size()) : as_reduced(kept);
        wire_.reduce_scatter(core_->mesh.shard(), on, std::span<const G>{full}, to);
        if (stages) keep_gradients(on, std::span<const G>{to}, kept, adds);
      } else {
        core_->mesh.shard().all_reduce(on, full, Reduction::mean);
        if (!in_place_) keep_gradients(on, std::span<const G>{full}, kept, adds);
      }
      if (!in_place_) core_->device->retire(on.stream, full);
    });
    group.reduced = group.closed = core_->timeline.mark(comm_stream);
    group.is_open = false;
  }

  /// The kept gradients -> their mean over the copies.
  void replicate(std::size_t g) {
    if constexpr (Core::Timeline::has(copies_stream)) {
      if constexpr (is_offloaded) return replicate_and_send(g);
      core_->timeline.order(copies_stream, groups_[g].reduced);
      const Context<Device> on = core_->begin(copies_stream, {"replicate", g});
      core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
        const std::span<Kept> kept = core_->state.updated_gradients(f);
        const std::span<G> values =
            casts_gradients<S> ? copies_staging_.span().first(kept.size()) : as_reduced(kept);
        if (casts_gradients<S>) on.device.cast(on.stream, std::span<const Kept>{kept}, values);
        core_->mesh.copies().all_reduce(on, values, Reduction::mean);
        if (casts_gradients<S>) on.device.cast(on.stream, std::span<const G>{values}, kept);
      });
      groups_[g].reduced = core_->timeline.mark(copies_stream);
    }
  }

  void close(std::size_t g) {
    if (in_place_) return;
    arena_.release(groups_[g].at, core_->layout.group(g).gradients, groups_[g].closed);
    note_live(core_->timeline[compute_stream]);
  }

  /// Closes an open group whose gradients nobody wants.
  void discard(std::size_t g) {
    const Context<Device> on = core_->timeline.context(compute_stream);
    if (!in_place_)
      core_->layout.for_each_trained_flat(
          g, [&](std::size_t f, const FlatLayout&) { on.device.retire(on.stream, flat(f)); });
    groups_[g].closed = core_->timeline.mark(compute_stream);
    groups_[g].is_open = false;
    close(g);
  }

  /// The compute stream goes on when the gradients of group g are reduced.
  void await(std::size_t g, Needs& needs) const { needs.add(groups_[g].reduced); }
  /// Those that are kept off the device.
  auto& offloaded() { return offloaded_; }
  const auto& offloaded() const { return offloaded_; }

  bool is_open(std::size_t g) const { return groups_[g].is_open; }
  /// Flat f's full gradients, of an open group. Empty if f is frozen.
  std::span<G> flat(std::size_t f) const {
    const FlatLayout& flat = core_->layout.flat(f);
    if (!flat.is_trainable) return {};
    if (in_place_) return as_reduced(core_->state.gradients(f));
    return {buffer_.data() + groups_[flat.group].at + flat.gradient_offset, flat.padded};
  }
  bool fits(std::size_t g) const {
    return in_place_ || arena_.fits(core_->layout.group(g).gradients);
  }

 private:
  struct Group {
    std::size_t at = 0;
    bool is_open = false, is_deferred = false;
    Mark reduced, closed;  // what is kept is final; nobody reads the full gradients any more
  };

  // Kept gradients, where they are of the reduce dtype.
  static std::span<G> as_reduced([[maybe_unused]] std::span<Kept> kept) {
    if constexpr (casts_gradients<S>)
      return {};
    else
      return kept;
  }
  /// `reduce`, where gradients are kept off the device. What is averaged over copies and added to
  /// nothing waits on the device for that.
  void reduce_and_send(std::size_t g, bool adds, bool is_last) {
    Group& group = groups_[g];
    offloaded_.open(g);
    const Context<Device> on = core_->begin(comm_stream, {"reduce", g});
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      const std::span<G> full = flat(f);
      if constexpr (Sharding::optimizer) {
        wire_.reduce_scatter(core_->mesh.shard(), on, std::span<const G>{full},
                             offloaded_.reduced(f));
        core_->device->retire(on.stream, full);
      } else {
        core_->mesh.shard().all_reduce(on, full, Reduction::mean);
        offloaded_.reduced_in_place(f, full);
      }
    });
    const bool has_copies = Core::Timeline::has(copies_stream) && is_last;
    group.is_deferred = has_copies && !adds;
    group.closed = core_->timeline.mark(comm_stream);
    if (!group.is_deferred) {
      const Mark sent = offloaded_.keep(g, comm_stream, adds, is_last && !has_copies);
      if (!Sharding::optimizer) group.closed = sent;
    }
    group.reduced = core_->timeline.mark(comm_stream);
    group.is_open = false;
  }
  void replicate_and_send(std::size_t g) {
    Group& group = groups_[g];
    if (group.is_deferred)
      core_->timeline.order(copies_stream, group.reduced);
    else
      offloaded_.fetch(g, copies_stream);
    const Context<Device> on = core_->begin(copies_stream, {"replicate", g});
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      core_->mesh.copies().all_reduce(on, offloaded_.reduced(f), Reduction::mean);
    });
    offloaded_.keep(g, copies_stream, /*adds=*/false, /*is_last=*/true);
    group.reduced = core_->timeline.mark(copies_stream);
  }
  void note_live(typename Device::Stream& stream) {
    core_->device->note_live(stream, Purpose::full_gradients, arena_.live() * sizeof(G));
  }

  Core* core_;
  bool in_place_;
  decltype(reduction_memory<G>(std::declval<Core&>().mesh.shard(), std::declval<Device&>(),
                               std::size_t{0})) buffer_;
  typename Device::template Buffer<G> staging_, copies_staging_;
  GradientWire<S> wire_;
  std::shared_ptr<void> room_, copies_room_;  // of the communicators
  Arena<typename Core::Timeline> arena_;
  std::conditional_t<is_offloaded, OffloadedGradients<M, S>, Nothing> offloaded_;
  std::vector<Group> groups_;
};

}  // namespace shardexpr::detail
