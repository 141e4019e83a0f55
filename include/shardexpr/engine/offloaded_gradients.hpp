// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/exact_sum.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/pack.hpp>
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/single_work.hpp>
#include <shardexpr/engine/slots.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

namespace shardexpr::detail {

template <class G, class Kept>
struct AddTo {
  static constexpr std::size_t pack_elements = pack_elements_of<G, Kept>;
  Kept* to;
  const G* from;
  SHARDEXPR_HOST_DEVICE static Kept sum(Kept to, G from) {
    return static_cast<Kept>(static_cast<float>(to) + static_cast<float>(from));
  }
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const { to[i] = sum(to[i], from[i]); }
  struct Loaded {
    Pack<Kept, pack_elements> to;
    Pack<G, pack_elements> from;
  };
  bool can_pack() const { return begin_packs<pack_elements>(to, from); }
  SHARDEXPR_HOST_DEVICE Loaded load(std::size_t first) const {
    return {load_pack<pack_elements>(static_cast<const Kept*>(to) + first),
            load_pack<pack_elements>(from + first)};
  }
  SHARDEXPR_HOST_DEVICE void finish(std::size_t first, Loaded on) const {
    for (std::size_t i = 0; i < pack_elements; ++i)
      on.to.value[i] = sum(on.to.value[i], on.from.value[i]);
    store_pack(to + first, on.to);
  }
};

/// from -> kept, or kept + from -> kept.
template <class D, class G, class Kept>
void keep_gradients(const Context<D>& on, std::span<const G> from, std::span<Kept> kept,
                    bool adds) {
  if (!adds) return on.device.cast(on.stream, from, kept);
  on.for_each(kept.size(), reads(from, kept), writes(kept),
              AddTo<G, Kept>{kept.data(), from.data()});
}

/// Reduced gradients on their way from the device to where the optimizer's state lies, in the
/// reduce dtype; and the sum of their squares, group by group as they arrive for the last time.
template <class M, class S>
class OffloadedGradients {
  using Core = detail::Core<M, S>;
  using Device = typename Core::Device;
  using Host = typename Core::Host;
  using Timeline = typename Core::Timeline;
  using Mark = typename Core::Mark;
  using G = typename S::precision::reduce;
  using Kept = typename S::precision::gradient;
  static constexpr bool on_disk = optimizer_place<S> == Place::nvme;
  static constexpr bool lands_apart = S::sharding::optimizer;

 public:
  explicit OffloadedGradients(Core& core)
      : core_{&core},
        stages_{core.counts.transfers.host_landing_elements != 0},
        landing_{*core.device, core.counts.transfers.landing_elements},
        host_landing_{core.host(), core.counts.transfers.host_landing_elements},
        squares_{core.host().template allocate<ExactSum>(1, Purpose::other)},
        squares_up_{core.device->template allocate<ExactSum>(1, Purpose::other)},
        reduced_(core.layout.flat_count()),
        kept_(core.layout.group_count()) {}

  /// Memory on the device for what group g's reduction leaves, where full gradients are not reduced
  /// in place. The collective stream is behind its last use.
  void open(std::size_t g) {
    if constexpr (lands_apart) {
      slot_ = landing_.take();
      core_->timeline.order(comm_stream, landing_.last_use(slot_));
      G* at = landing_.at(slot_);
      core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
        reduced_[f] = {at, core_->state.kept(f).updated};
        at += reduced_[f].size();
      });
    }
  }
  /// Where flat f's reduced gradients are on the device.
  std::span<G> reduced(std::size_t f) const { return reduced_[f]; }
  void reduced_in_place(std::size_t f, std::span<G> full) { reduced_[f] = full; }

  /// Sends what was reduced on `stream` to where it is kept; what the device itself updates is kept
  /// there. `is_last`: for this step. Returns when the device's memory of it is free.
  Mark keep(std::size_t g, StreamId stream, bool adds, bool is_last) {
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      const KeptFlat& kept = core_->state.kept(f);
      if (kept.device_gradients != 0)
        keep_gradients(core_->begin(stream, {"keep gradients", g}),
                       std::span<const G>{reduced_[f]}.subspan(kept.device_gradients_from),
                       core_->state.gradients(f), adds);
    });
    core_->timeline.order(down_stream, core_->timeline.mark(stream));
    std::size_t host_slot = 0;
    if (stages_) {
      host_slot = host_landing_.take();
      core_->timeline.order(down_stream, host_landing_.last_use(host_slot));
    }
    G* at = host_landing_.at(host_slot);
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      const std::span<const G> from =
          std::span<const G>{reduced_[f]}.first(core_->state.kept(f).away);
      if (from.empty()) return;
      if (!stages_)
        core_->copy_down({"download", g}, from, as_reduced(core_->state.host_gradients(f)));
      else
        core_->copy_down({"download", g}, from, std::span<G>{at, from.size()});
      if (stages_) at += core_->state.kept(f).away_places();
    });
    const Mark down = core_->timeline.mark(down_stream);
    if constexpr (lands_apart) landing_.add_use(slot_, down);
    if (stages_ || is_last) core_->timeline.order(host_stream, down);
    at = host_landing_.at(host_slot);
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      const KeptFlat& kept = core_->state.kept(f);
      if (kept.away == 0) return;
      const std::span<const G> arrived{at, stages_ ? kept.away : 0};
      if (stages_) at += kept.away_places();
      if constexpr (on_disk) {
        write_chunks(g, f, arrived, adds, is_last);
      } else {
        const Context<Host> on = core_->begin_on_host(host_stream, {"keep gradients", g});
        if (stages_) keep_gradients(on, arrived, core_->state.host_gradients(f), adds);
        if (is_last) add_squares(on, f, 0, core_->state.host_gradients(f));
      }
    });
    if (stages_) host_landing_.add_use(host_slot, core_->timeline.mark(host_stream));
    kept_[g] = {};
    if constexpr (on_disk)
      kept_[g].add(core_->timeline.mark(write_stream));
    else
      kept_[g].add(stages_ ? core_->timeline.mark(host_stream) : down);
    return down;
  }

  /// What is kept of group g -> the device, where it was reduced, for what is still to be done with
  /// it there: on `stream`.
  void fetch(std::size_t g, StreamId stream) {
    slot_ = landing_.take();
    G* at = landing_.at(slot_);
    std::size_t host_slot = 0;
    if (stages_) {
      host_slot = host_landing_.take();
      core_->timeline.order(host_stream, host_landing_.last_use(host_slot));
      if constexpr (!on_disk) core_->timeline.order(host_stream, kept_[g]);
    }
    G* staged = host_landing_.at(host_slot);
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      const KeptFlat& kept = core_->state.kept(f);
      reduced_[f] = {at, kept.updated};
      at += kept.updated;
      if (!stages_ || kept.away == 0) return;
      const std::span<G> to{staged, kept.away};
      staged += kept.away_places();
      if constexpr (on_disk) {
        read_chunks(g, f, to);
      } else {
        const Context<Host> on = core_->begin_on_host(host_stream, {"fetch gradients", g});
        on.device.cast(on.stream, std::span<const Kept>{core_->state.host_gradients(f)}, to);
      }
    });
    typename Timeline::Needs ready = landing_.last_use(slot_);
    if (stages_)
      ready.add(core_->timeline.mark(host_stream));
    else
      ready.add(kept_[g]);
    core_->timeline.order(up_stream, ready);
    staged = host_landing_.at(host_slot);
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      const KeptFlat& kept = core_->state.kept(f);
      if (kept.away == 0) return;
      const std::span<const G> from = stages_ ? std::span<const G>{staged, kept.away}
                                              : as_reduced(core_->state.host_gradients(f));
      if (stages_) staged += kept.away_places();
      core_->copy_up({"fetch gradients", g}, from, reduced_[f].first(kept.away));
    });
    const Mark up = core_->timeline.mark(up_stream);
    if (stages_) host_landing_.add_use(host_slot, up);
    core_->timeline.order(stream, up);
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      const KeptFlat& kept = core_->state.kept(f);
      if (kept.on_device() == 0) return;
      const Context<Device> on = core_->begin(stream, {"fetch gradients", g});
      on.device.cast(on.stream,
                     std::span<const Kept>{core_->state.gradients(f)}.subspan(
                         kept.away - kept.device_gradients_from),
                     reduced_[f].subspan(kept.away));
    });
  }

  /// What must have happened before the gradients of group g are read where they are kept.
  const typename Timeline::Needs& kept(std::size_t g) const { return kept_[g]; }

  /// The squares that the host added up -> `to`, on the compute stream; the host begins anew.
  void send_squares(std::span<ExactSum> to) {
    core_->timeline.order(up_stream, core_->timeline.mark(host_stream));
    core_->copy_up({"squares"}, std::span<const ExactSum>{squares_.span()}, squares_up_.span());
    const Mark up = core_->timeline.mark(up_stream);
    core_->timeline.order(compute_stream, up);
    const Context<Device> on = core_->begin(compute_stream, {"norm"});
    on.run(reads(squares_up_.span(), to), writes(to), AddSum{to.data(), squares_up_.data()});
    forget_squares(up);
  }
  /// Those of gradients that nobody wants.
  void forget_squares(const Mark& last_use = {}) {
    core_->timeline.order(host_stream, last_use);
    core_->begin_on_host(host_stream, {"norm"})
        .run(reads(), writes(squares_.span()), [to = squares_.data()] { *to = ExactSum{}; });
  }

 private:
  // Kept gradients, where they are of the reduce dtype.
  static std::span<G> as_reduced([[maybe_unused]] std::span<Kept> kept) {
    if constexpr (std::is_same_v<G, Kept>)
      return kept;
    else
      return {};
  }
  /// Of `values`, which begin with the `first` element of what flat f's update needs from the host,
  /// those in whole blocks that this rank answers for.
  void add_squares(const Context<Host>& on, std::size_t f, std::size_t first,
                   std::span<const Kept> values) {
    const auto mine = core_->state.answered_for(f);
    const std::size_t end =
        std::min(mine.first + mine.count, core_->state.kept(f).device_gradients_from);
    const std::size_t from = std::max(first, mine.first), to = std::min(first + values.size(), end);
    if (from < to)
      on.device.sum_squares(on.stream, values.subspan(from - first, to - from), squares_.data());
  }

  std::span<Kept> chunk_in(std::size_t slot, std::size_t count) const {
    return {reinterpret_cast<Kept*>(core_->swap.gradients.at(slot)), count};
  }
  template <class Visit>
  void for_each_chunk(std::size_t f, Visit visit) {
    const auto& swap = core_->swap.layout();
    for (const auto& chunk : swap.chunks())
      if (chunk.flat == f) visit(chunk, swap.gradients(chunk), swap.gradient_section_bytes(chunk));
  }
  void write_chunks(std::size_t g, std::size_t f, std::span<const G> arrived, bool adds,
                    bool is_last) {
    auto& swap = core_->swap;
    for_each_chunk(f, [&](const auto& chunk, std::size_t offset, std::size_t bytes) {
      const std::size_t slot = swap.gradients.take();
      if (adds) {
        read_behind(swap.gradients.last_use(slot), g);
        swap.read(core_->begin_on_host(read_stream, {"read gradients", g}), offset,
                  swap.gradients.span(slot).first(bytes), "gradients", f);
        core_->timeline.order(host_stream, core_->timeline.mark(read_stream));
      } else {
        core_->timeline.order(host_stream, swap.gradients.last_use(slot));
      }
      const Context<Host> on = core_->begin_on_host(host_stream, {"keep gradients", g});
      const std::span<Kept> kept = chunk_in(slot, chunk.count);
      keep_gradients(on, arrived.subspan(chunk.first, chunk.count), kept, adds);
      if (is_last) add_squares(on, f, chunk.first, kept);
      core_->timeline.order(write_stream, core_->timeline.mark(host_stream));
      swap.write(core_->begin_on_host(write_stream, {"write gradients", g}),
                 swap.gradients.span(slot).first(bytes), offset, "gradients", f);
      swap.gradients.add_use(slot, core_->timeline.mark(write_stream));
    });
  }
  /// The disk's reads go on behind the slot's last use and what was written of group g.
  void read_behind(typename Timeline::Needs needs, std::size_t g) {
    needs.add(kept_[g]);
    core_->timeline.order(read_stream, needs);
  }
  void read_chunks(std::size_t g, std::size_t f, std::span<G> to) {
    auto& swap = core_->swap;
    for_each_chunk(f, [&](const auto& chunk, std::size_t offset, std::size_t bytes) {
      const std::size_t slot = swap.gradients.take();
      read_behind(swap.gradients.last_use(slot), g);
      swap.read(core_->begin_on_host(read_stream, {"read gradients", g}), offset,
                swap.gradients.span(slot).first(bytes), "gradients", f);
      core_->timeline.order(host_stream, core_->timeline.mark(read_stream));
      const Context<Host> on = core_->begin_on_host(host_stream, {"fetch gradients", g});
      on.device.cast(on.stream, std::span<const Kept>{chunk_in(slot, chunk.count)},
                     to.subspan(chunk.first, chunk.count));
      swap.gradients.add_use(slot, core_->timeline.mark(host_stream));
    });
  }

  Core* core_;
  bool stages_;  // gradients are added or cast on the host, or go on to a disk
  Slots<Device, G, Timeline, 2> landing_;
  Slots<Host, G, Timeline, 2> host_landing_;
  typename Host::template Buffer<ExactSum> squares_;
  typename Device::template Buffer<ExactSum> squares_up_;
  std::vector<std::span<G>> reduced_;           // by flat
  std::vector<typename Timeline::Needs> kept_;  // by group
  std::size_t slot_ = 0;
};

}  // namespace shardexpr::detail
