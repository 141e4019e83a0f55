// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/slots.hpp>
#include <shardexpr/optim/update.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <type_traits>

namespace shardexpr::detail {

/// Updates where the optimizer's state lies, and brings what was updated to where parameters lie.
template <class M, class S>
class OffloadedUpdate {
  using Core = detail::Core<M, S>;
  using Device = typename Core::Device;
  using Host = typename Core::Host;
  using Timeline = typename Core::Timeline;
  using Precision = typename S::precision;
  using Compute = typename Precision::compute;
  using Storage = typename Precision::storage;
  using Operands = typename State<S, M, Device>::Operands;
  static constexpr bool copies = computes_with_copy<Precision>;
  static constexpr Place parameters = parameters_place<S>;
  static constexpr Place optimizer = optimizer_place<S>;
  static constexpr bool host_updates = optimizer == Place::host;

 public:
  explicit OffloadedUpdate(Core& core)
      : core_{&core},
        shadow_{*core.device, core.counts.transfers.shadow_elements},
        host_shadow_{core.host(), core.counts.transfers.host_shadow_elements} {}

  /// `step` has `updates`, `rounding`, and `control` and `host_control`, each where it is read.
  template <class Step>
  void update(std::size_t g, const Step& step) {
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      const KeptFlat& kept = core_->state.kept(f);
      std::size_t slot = 0;  // of parameters on their way to the disk
      if constexpr (parameters == Place::nvme && optimizer != Place::nvme)
        if (kept.parameters_place == Place::nvme) slot = core_->swap.parameters.take();
      if (kept.on_device() != 0) update_on_device(g, f, flat, slot, step);
      if constexpr (host_updates)
        if (kept.away != 0) update_on_host(g, f, flat, slot, step);
      if constexpr (optimizer == Place::nvme) update_chunks(g, f, flat, step);
      if constexpr (parameters == Place::nvme && optimizer != Place::nvme)
        if (kept.parameters_place == Place::nvme) write_parameters(g, f, slot);
    });
  }

 private:
  template <class Context, class Step>
  static void apply(const Context& on, const FlatLayout& flat, std::size_t from,
                    const UpdateControl* control, const Operands& all, const Step& step) {
    for (std::size_t k = 0; k < step.updates.size(); ++k) {
      const auto run = flat.run(k, from, all.parameters.size());
      if (run.count != 0)
        apply_update(on, *step.updates[k], *step.rounding, control, all.part(run.first, run.count));
    }
  }

  template <class Step>
  void update_on_device(std::size_t g, std::size_t f, const FlatLayout& flat, std::size_t slot,
                        const Step& step) {
    const KeptFlat& kept = core_->state.kept(f);
    const bool leaves = kept.parameters_place != Place::device;
    std::size_t shadow = 0;
    if (copies && leaves) {
      shadow = shadow_.take();
      core_->timeline.order(compute_stream, shadow_.last_use(shadow));
    }
    const Operands all = core_->state.operands(f, copies && leaves ? shadow_.at(shadow) : nullptr);
    apply(core_->begin(compute_stream, {"update", g}), flat,
          core_->state.updated_from(f) + kept.away, step.control, all, step);
    if (!leaves) return;
    if constexpr (parameters != Place::device) {
      core_->timeline.order(down_stream, core_->timeline.mark(compute_stream));
      const std::span<const Compute> updated{updated_copy(all), kept.on_device()};
      if constexpr (parameters == Place::host) {
        core_->copy_down({"store", g}, updated,
                         core_->state.updated_parameters(f).subspan(kept.away));
      } else {
        core_->timeline.order(down_stream, core_->swap.parameters.last_use(slot));
        core_->copy_down({"store", g}, updated,
                         std::span<Compute>{in_slot(slot) + kept.away, updated.size()});
      }
      if (copies) shadow_.add_use(shadow, core_->timeline.mark(down_stream));
    }
  }

  template <class Step>
  void update_on_host(std::size_t g, std::size_t f, const FlatLayout& flat, std::size_t slot,
                      const Step& step) {
    const KeptFlat& kept = core_->state.kept(f);
    Compute* copy = nullptr;
    std::size_t shadow = 0;
    core_->timeline.order(host_stream, step.gradients.offloaded().kept(g));
    if constexpr (parameters == Place::nvme) {
      if (kept.parameters_place == Place::nvme) {
        core_->timeline.order(host_stream, core_->swap.parameters.last_use(slot));
        copy = in_slot(slot);
      }
    }
    const bool goes_up = kept.parameters_place == Place::device;
    if (copies && goes_up) {
      shadow = host_shadow_.take();
      core_->timeline.order(host_stream, host_shadow_.last_use(shadow));
      copy = host_shadow_.at(shadow);
    }
    const Operands all = core_->state.host_operands(f, copy);
    const Context<Host> on = core_->begin_on_host(host_stream, {"update", g});
    apply(on, flat, core_->state.updated_from(f), step.host_control, all, step);
    if (goes_up) {
      core_->timeline.order(up_stream, core_->timeline.mark(host_stream));
      core_->copy_up({"store", g}, std::span<const Compute>{updated_copy(all), kept.away},
                     core_->state.updated_parameters(f).first(kept.away));
      if (copies) host_shadow_.add_use(shadow, core_->timeline.mark(up_stream));
    } else if constexpr (parameters == Place::nvme && !copies) {
      on.device.copy(on.stream, std::span<const Compute>{all.parameters},
                     std::span<Compute>{copy, kept.away});
    }
  }

  /// What was updated in memory, by host and device, -> the file.
  void write_parameters(std::size_t g, std::size_t f, std::size_t slot) {
    const KeptFlat& kept = core_->state.kept(f);
    auto& swap = core_->swap;
    typename Timeline::Needs needs;
    if (kept.on_device() != 0) needs.add(core_->timeline.mark(down_stream));
    if constexpr (host_updates)
      if (kept.away != 0) needs.add(core_->timeline.mark(host_stream));
    core_->timeline.order(write_stream, needs);
    swap.write(core_->begin_on_host(write_stream, {"write", g}),
               swap.parameters.span(slot).first(in_blocks(kept.parameters, sizeof(Compute))),
               swap.layout().parameters(f), "parameters", f);
    swap.parameters.add_use(slot, core_->timeline.mark(write_stream));
  }

  // State on a disk ---------------------------------------------------------------------------

  template <class Step>
  void update_chunks(std::size_t g, std::size_t f, const FlatLayout& flat, const Step& step) {
    auto& swap = core_->swap;
    const auto& chunks = swap.layout().chunks();
    for (; next_ < chunks.size() && chunks[next_].flat == f; ++next_) {
      if (next_ == 0) start_reading(0, step);
      // The disk reads the next while this one is updated.
      if (next_ + 1 < chunks.size()) start_reading(next_ + 1, step);
      update_chunk(g, flat, next_, step);
    }
    if (next_ == chunks.size()) next_ = 0;
  }

  template <class Step>
  void start_reading(std::size_t n, const Step& step) {
    auto& swap = core_->swap;
    const auto& chunk = swap.layout().chunks()[n];
    const std::size_t g = core_->layout.flat(chunk.flat).group;
    Read& read = reads_[n % reads_.size()];
    read.slot = swap.chunks.take();
    typename Timeline::Needs needs = swap.chunks.last_use(read.slot);
    needs.add(step.gradients.offloaded().kept(g));
    core_->timeline.order(read_stream, needs);
    swap.read(core_->begin_on_host(read_stream, {"read", g}), chunk, read.slot);
    read.done = core_->timeline.mark(read_stream);
  }

  template <class Step>
  void update_chunk(std::size_t g, const FlatLayout& flat, std::size_t n, const Step& step) {
    auto& swap = core_->swap;
    const auto& chunk = swap.layout().chunks()[n];
    const KeptFlat& kept = core_->state.kept(chunk.flat);
    const std::size_t slot = reads_[n % reads_.size()].slot;
    core_->timeline.order(host_stream, reads_[n % reads_.size()].done);

    const auto view = swap.view(chunk, slot);
    const std::span<Compute> target =
        kept.parameters_place == Place::nvme
            ? std::span<Compute>{}
            : core_->state.updated_parameters(chunk.flat).subspan(chunk.first, chunk.count);
    Operands all;
    all.parameters = view.masters;
    all.gradients = view.gradients;
    for (std::size_t k = 0; k < all.moments.size(); ++k) all.moments[k] = view.moments[k].data();
    all.copy = kept.parameters_place == Place::host ? target.data() : view.shadow;
    const Context<Host> on = core_->begin_on_host(host_stream, {"update", g});
    apply(on, flat, core_->state.updated_from(chunk.flat) + chunk.first, step.host_control, all,
          step);
    const std::span<const Compute> updated{updated_copy(all), chunk.count};
    if constexpr (!copies)
      if (kept.parameters_place == Place::host) on.device.copy(on.stream, updated, target);
    const auto computed = core_->timeline.mark(host_stream);
    if (kept.parameters_place == Place::device) {
      core_->timeline.order(up_stream, computed);
      core_->copy_up({"store", g}, updated, target);
      swap.chunks.add_use(slot, core_->timeline.mark(up_stream));
    }
    core_->timeline.order(write_stream, computed);
    const Context<Host> disk = core_->begin_on_host(write_stream, {"write", g});
    swap.write(disk, chunk, slot);
    if (kept.parameters_place == Place::nvme && kept.has_away_masters) {
      const std::size_t bytes = in_blocks(chunk.count, sizeof(Compute));
      swap.write(disk, {reinterpret_cast<const std::byte*>(view.shadow), bytes},
                 swap.layout().parameters(chunk.flat) + chunk.first * sizeof(Compute), "parameters",
                 chunk.flat);
    }
    swap.chunks.add_use(slot, core_->timeline.mark(write_stream));
  }

  /// The updated parameters in compute dtype.
  static Compute* updated_copy(const Operands& all) {
    if constexpr (copies)
      return all.copy;
    else
      return all.parameters.data();
  }
  Compute* in_slot(std::size_t slot) const {
    return reinterpret_cast<Compute*>(core_->swap.parameters.at(slot));
  }

  struct Read {
    std::size_t slot = 0;
    typename Core::Mark done;
  };

  Core* core_;
  Slots<Device, Compute, Timeline, 2> shadow_;
  Slots<Host, Compute, Timeline, 2> host_shadow_;
  std::array<Read, 2> reads_;
  std::size_t next_ = 0;  // of the file's chunks
};

}  // namespace shardexpr::detail
