// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/initial_state.hpp>
#include <shardexpr/engine/summoned_group.hpp>
#include <shardexpr/engine/swap_state.hpp>
#include <shardexpr/plan/step_counts.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// What a rank keeps from step to step, parameter by parameter, wherever it lies: what a checkpoint
// holds. No rank sees more than its own.

namespace shardexpr::detail {

/// Elements of one parameter, of one kind of what is kept of it: as it is updated, or a moment.
struct StateStretch {
  static constexpr std::size_t parameter = 0;  // kind; moment k is kind k + 1

  const std::string* name;
  const Shape* shape;  // of the parameter
  std::size_t kind = 0;
  std::size_t first = 0;              // of the elements, in the parameter
  std::size_t flat = 0, in_flat = 0;  // the flat, and where in it they are
  bool is_on_disk = false;            // `visit` shows it from there, or brings it there
};

/// In which of a precision's dtypes it is kept.
enum class StateDtype { storage, compute, optimizer };
/// A stretch of `count` elements.
struct DescribedStretch {
  StateStretch stretch;
  std::size_t count, element_bytes;
  StateDtype dtype;
};

/// Which elements of what this rank keeps: those that no other rank answers for, which together are
/// the model, once; or all of them, copies of what others keep, too.
enum class StateShare { own, all };
/// By what `KeptState` shows it: the model's parameters, or, as it lies in memory, whole flats,
/// which are called "flat 0" and on: those mean something to the same layout alone.
enum class StateUnits { parameters, flats };

/// A parameter in its flat, or a flat as a whole, by the name that `KeptState` gives it.
struct NamedState {
  std::string name;
  Shape shape;
  std::size_t offset;  // in its flat

  std::size_t end() const { return offset + shape.count(); }
  StateStretch stretch(std::size_t kind, std::size_t flat, std::size_t in_flat) const {
    return {&name, &shape, kind, in_flat - offset, flat, in_flat};
  }
};
/// What there is, flat by flat. It depends on the model alone: strategies share what is compiled.
template <class M>
std::vector<std::vector<NamedState>> named_state(const Layout<M>& layout, StateUnits units) {
  std::vector<std::vector<NamedState>> all(layout.flat_count());
  if (units == StateUnits::flats) {
    for (std::size_t f = 0; f < all.size(); ++f)
      all[f].push_back({"flat " + std::to_string(f), shape(layout.flat(f).padded), 0});
    return all;
  }
  for (OwnParameter& own : own_parameters(layout))
    all[own.layout->flat].push_back(
        {std::move(own.name), own.layout->spec.shape, own.layout->offset});
  return all;
}

/// Calls `visit(stretch, span<T>)` for each stretch, in memory of the host: T is the dtype in which
/// it is kept, const where `access` is `reads`.
///
/// Order:   when nothing else runs; nothing of it is collective. Flat by flat; of each parameter
///          and kind from the first element to the last.
/// Cost:    where the host does not reach the device, `most_elements` of its memory at a time.
template <SwapAccess access, class M, class S>
class KeptState {
  using Core = detail::Core<M, S>;
  using Storage = typename S::precision::storage;
  using Sharding = typename S::sharding;
  static constexpr std::size_t moments = S::optimizer::moments;
  static constexpr std::size_t most_elements = std::size_t{4} << 20;

 public:
  explicit KeptState(Core& core, StateUnits units = StateUnits::parameters)
      : core_{&core}, parameters_{named_state(core.layout, units)} {}

  /// Every copy of the model is kept by ranks of its own; the first saves it.
  bool has(StateShare share) const {
    return share == StateShare::all || core_->mesh.world().rank() < core_->mesh.shape().shards;
  }
  template <class Visit>
  void visit(StateShare share, Visit visit) {
    for (std::size_t f = 0; f < parameters_.size(); ++f) visit_flat(share, f, visit);
  }
  template <class Visit>
  void visit_flat(StateShare share, std::size_t f, Visit& visit) {
    if (!has(share)) return;
    window_ = window(share, f);
    if (core_->layout.flat(f).is_trainable)
      visit_trained(f, visit);
    else
      visit_frozen(f, visit);
  }
  /// Bytes of what `visit` shows that lie in memory, not on a disk.
  std::size_t memory_bytes(StateShare share) const {
    std::size_t bytes = 0;
    for (const DescribedStretch& described : describe(share))
      bytes +=
          (described.count - on_disk(described.stretch, described.count)) * described.element_bytes;
    return bytes;
  }
  /// Calls `look(name, shape, offset)` for each parameter of flat f; it begins with the flat's
  /// element `offset`.
  template <class Look>
  void for_each_parameter(std::size_t f, Look look) const {
    for (const NamedState& named : parameters_[f]) look(named.name, named.shape, named.offset);
  }
  /// What `visit` will show of each parameter and kind, in one stretch or in several that follow
  /// each other. A list, so that what is done with each is compiled once and not for each dtype.
  std::vector<DescribedStretch> describe(StateShare share) const {
    std::vector<DescribedStretch> all;
    if (!has(share)) return all;
    using Compute = typename S::precision::compute;
    using Moment = typename S::precision::optimizer;
    for (std::size_t f = 0; f < parameters_.size(); ++f) {
      const bool is_trained = core_->layout.flat(f).is_trainable;
      const FlatLayout::Run seen = window(share, f);
      for (const NamedState& named : parameters_[f]) {
        const std::size_t first = std::max(named.offset, seen.first);
        const std::size_t last = std::min(named.end(), seen.first + seen.count);
        if (first >= last) continue;
        StateStretch stretch = named.stretch(StateStretch::parameter, f, first);
        if (!is_trained) {
          all.push_back({stretch, last - first, sizeof(Compute), StateDtype::compute});
          continue;
        }
        all.push_back({stretch, last - first, sizeof(Storage), StateDtype::storage});
        for (stretch.kind = 1; stretch.kind <= moments; ++stretch.kind)
          all.push_back({stretch, last - first, sizeof(Moment), StateDtype::optimizer});
      }
    }
    return all;
  }

 private:
  /// How many of these elements lie on a disk.
  std::size_t on_disk(const StateStretch& stretch, std::size_t count) const {
    const KeptFlat& kept = core_->state.kept(stretch.flat);
    if (!core_->layout.flat(stretch.flat).is_trainable)
      return kept.parameters_place == Place::nvme ? count : 0;
    if (optimizer_place<S> != Place::nvme) return 0;
    const std::size_t begin = core_->state.updated_from(stretch.flat);
    const std::size_t first = std::max(stretch.in_flat, begin);
    const std::size_t last = std::min(stretch.in_flat + count, begin + kept.away);
    return first < last ? last - first : 0;
  }
  /// The elements of flat f that are to be seen.
  FlatLayout::Run window(StateShare share, std::size_t f) const {
    const FlatLayout& flat = core_->layout.flat(f);
    const std::size_t mine = core_->mesh.shard().rank() * flat.part;
    if (share == StateShare::own) return {mine, flat.part};
    const std::size_t kept =
        flat.is_trainable ? core_->state.kept(f).updated : core_->state.kept(f).parameters;
    return kept == flat.padded ? FlatLayout::Run{0, flat.padded} : FlatLayout::Run{mine, kept};
  }

  template <class Visit>
  void visit_trained(std::size_t f, Visit& visit) {
    const State<S, M, typename Core::Device>& state = core_->state;
    const KeptFlat& kept = state.kept(f);
    const std::size_t begin = state.updated_from(f);
    // What the device does not update lies at the front.
    if constexpr (optimizer_place<S> == Place::host) {
      const auto away = state.host_operands(f);
      on_host(f, StateStretch::parameter, state.host_masters(f), begin, visit);
      for (std::size_t k = 0; k < moments; ++k)
        on_host(f, k + 1, std::span{away.moments[k], kept.away}, begin, visit);
    }
    if constexpr (optimizer_place<S> == Place::nvme)
      visit_chunks<access>(*core_, f, [&](const auto& view, std::size_t first) {
        from_disk(f, StateStretch::parameter, view.masters, begin + first, visit);
        for (std::size_t k = 0; k < moments; ++k)
          from_disk(f, k + 1, view.moments[k], begin + first, visit);
      });
    on_device(f, StateStretch::parameter, state.masters(f), begin + kept.away, visit);
    const auto operands = state.operands(f);
    for (std::size_t k = 0; k < moments; ++k)
      on_device(f, k + 1, std::span{operands.moments[k], kept.on_device()}, begin + kept.away,
                visit);
  }
  /// In the dtype of units: it is kept in no other.
  template <class Visit>
  void visit_frozen(std::size_t f, Visit& visit) {
    const auto values = core_->state.parameters(f);
    const FlatLayout& flat = core_->layout.flat(f);
    const KeptFlat& kept = core_->state.kept(f);
    const std::size_t begin =
        kept.parameters == flat.padded ? 0 : core_->mesh.shard().rank() * flat.part;
    if (kept.parameters_place == Place::device)
      on_device(f, StateStretch::parameter, values, begin, visit);
    else if (kept.parameters_place == Place::host)
      on_host(f, StateStretch::parameter, values, begin, visit);
    else if constexpr (parameters_place<S> == Place::nvme)
      visit_swapped_parameters<access>(*core_, f, [&](auto seen) {
        using T = typename decltype(seen)::value_type;
        if constexpr (access == SwapAccess::writes) std::fill(seen.begin(), seen.end(), T{});
        from_disk(f, StateStretch::parameter, seen, begin, visit);
      });
  }

  /// `values` are the flat's elements from `begin` on.
  template <class T, class Visit>
  void on_host(std::size_t f, std::size_t kind, std::span<T> values, std::size_t begin,
               Visit& visit, bool is_on_disk = false) {
    using Seen = std::conditional_t<access == SwapAccess::reads, const T, T>;
    for (const NamedState& named : parameters_[f]) {
      const std::size_t first = std::max({named.offset, begin, window_.first});
      const std::size_t last =
          std::min({named.end(), begin + values.size(), window_.first + window_.count});
      if (first >= last) continue;
      StateStretch stretch = named.stretch(kind, f, first);
      stretch.is_on_disk = is_on_disk;
      visit(stretch, std::span<Seen>{values.subspan(first - begin, last - first)});
    }
  }
  template <class T, class Visit>
  void from_disk(std::size_t f, std::size_t kind, std::span<T> values, std::size_t begin,
                 Visit& visit) {
    on_host(f, kind, values, begin, visit, /*is_on_disk=*/true);
  }
  template <class T, class Visit>
  void on_device(std::size_t f, std::size_t kind, std::span<T> values, std::size_t begin,
                 Visit& visit) {
    using Seen = std::conditional_t<access == SwapAccess::reads, const T, T>;
    const std::size_t first = std::max(begin, window_.first);
    const std::size_t last = std::min(begin + values.size(), window_.first + window_.count);
    for (std::size_t at = first; at < last;) {
      const std::size_t count = shares_memory<S> ? last - at : std::min(most_elements, last - at);
      core_->visit_on_host(compute_stream, std::span<Seen>{values.subspan(at - begin, count)},
                           [&](std::span<Seen> seen) { on_host(f, kind, seen, at, visit); });
      at += count;
    }
  }

  Core* core_;
  std::vector<std::vector<NamedState>> parameters_;  // by flat
  FlatLayout::Run window_;                           // of the flat, what is to be seen
};

/// Makes what units compute with follow from what was written through `KeptState`.
/// Order:   collective.
/// Cost:    where units compute in another dtype, memory for the largest group in storage dtype.
template <class M, class S>
void refresh_parameters(Core<M, S>& core) {
  using Compute = typename S::precision::compute;
  constexpr bool apart =
      computes_with_copy<typename S::precision> || parameters_place<S> != optimizer_place<S>;
  for (std::size_t g = 0; g < core.layout.group_count(); ++g) {
    if constexpr (apart) {
      SummonedGroup<M, S> group{core, g, /*shows=*/false};
      group.restore();
    } else {
      const Context<typename Core<M, S>::Device> on = core.begin(comm_stream, {"publish", g});
      core.layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout& flat) {
        if (is_published<S>(flat))
          core.mesh.shard().all_gather(on,
                                       std::span<const Compute>{core.state.updated_parameters(f)},
                                       core.state.parameters(f));
      });
      core.timeline.synchronize(comm_stream);
    }
  }
}

}  // namespace shardexpr::detail
