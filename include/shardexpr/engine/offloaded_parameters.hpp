// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/slots.hpp>

#include <cstddef>
#include <span>
#include <vector>

namespace shardexpr::detail {

/// Parameters that are kept off the device, on their way to it.
template <class M, class S>
class OffloadedParameters {
  using Core = detail::Core<M, S>;
  using Device = typename Core::Device;
  using Mark = typename Core::Mark;
  using T = typename S::precision::compute;

 public:
  /// Parts do not go at once to where their groups are gathered.
  static constexpr bool lands_apart = S::communicator::gather_is_shared;

  explicit OffloadedParameters(Core& core)
      : core_{&core},
        landing_{*core.device, core.counts.transfers.upload_elements},
        parts_(core.layout.flat_count()) {}

  /// This rank's parts of group g -> the device; the collective stream is behind it. `full(flat)`
  /// is where a flat will be gathered: the part goes there at once where no other rank reads that
  /// memory, else to memory of its own. `part(f)` then says where.
  template <class Full>
  void upload(std::size_t g, Full full) {
    if constexpr (lands_apart) {
      slot_ = landing_.take();
      core_->timeline.order(up_stream, landing_.last_use(slot_));
    }
    at_ = landing_.at(slot_);
    core_->layout.for_each_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      if (flat.is_persistent) return;
      const std::span<T> to = parts_[f] = place(flat, full(flat));
      if constexpr (parameters_place<S> == Place::host) {
        core_->copy_up({"upload", g}, std::span<const T>{core_->state.parameters(f)}, to);
      } else {
        auto& swap = core_->swap;
        const std::size_t slot = swap.parameters.take();
        core_->timeline.order(read_stream, swap.parameters.last_use(slot));
        swap.read(core_->begin_on_host(read_stream, {"read", g}), swap.layout().parameters(f),
                  swap.parameters.span(slot).first(in_blocks(to.size(), sizeof(T))), "parameters",
                  f);
        core_->timeline.order(up_stream, core_->timeline.mark(read_stream));
        const T* from = reinterpret_cast<const T*>(swap.parameters.at(slot));
        core_->copy_up({"upload", g}, std::span<const T>{from, to.size()}, to);
        swap.parameters.add_use(slot, core_->timeline.mark(up_stream));
      }
    });
    core_->timeline.order(comm_stream, core_->timeline.mark(up_stream));
  }
  /// What was uploaded of flat f last.
  std::span<T> part(std::size_t f) const { return parts_[f]; }
  /// The part was gathered at `mark`: its memory is free.
  void finish(const Mark& mark) {
    if constexpr (lands_apart) landing_.add_use(slot_, mark);
  }

 private:
  std::span<T> place(const FlatLayout& flat, std::span<T> full) {
    if constexpr (!lands_apart)
      return full.subspan(core_->mesh.shard().rank() * flat.part, flat.part);
    at_ += flat.part;
    return {at_ - flat.part, flat.part};
  }

  Core* core_;
  Slots<Device, T, typename Core::Timeline, 2> landing_;
  std::vector<std::span<T>> parts_;  // by flat
  std::size_t slot_ = 0;
  T* at_ = nullptr;
};

}  // namespace shardexpr::detail
