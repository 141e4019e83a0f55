// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/quantized_block.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/arena_map.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
#include <shardexpr/plan/places.hpp>
#include <shardexpr/plan/schedule.hpp>
#include <shardexpr/plan/swap_layout.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

namespace shardexpr::detail {

/// What one step needs and sends, on one rank.
struct StepCounts {
  // Of the arenas, in elements.
  std::size_t gathered_elements = 0;
  std::size_t regathered_elements = 0;  // where backward's gathers need memory of their own
  std::size_t resharded_elements = 0;
  std::size_t gradients_elements = 0;
  std::size_t staging_elements = 0, copies_staging_elements = 0;
  // Of the flats whose blocks lie between quantizing and dequantizing; none where nothing is.
  std::size_t wire_elements = 0, rewire_elements = 0, gradient_wire_elements = 0;

  // Of the parts of the longest reductions, over the ranks of a copy and over the copies.
  std::size_t room_elements = 0, copies_room_elements = 0;

  std::size_t peak_live_elements = 0;
  // Sent.
  std::size_t all_gather_bytes = 0, reduce_scatter_bytes = 0, all_reduce_bytes = 0;
  std::size_t all_to_all_bytes = 0;
  TransferCounts transfers;
};

/// Bytes of values as they are sent: of blocks, where they are quantized.
template <std::size_t bits, class T>
constexpr std::size_t wire_bytes(std::size_t elements) {
  if constexpr (bits == 0)
    return elements * sizeof(T);
  else
    return block_count(elements) * sizeof(QuantizedBlock<bits>);
}
/// The same of parameters on the way to units, and of gradients on the way to who keeps them.
template <class S>
constexpr std::size_t parameter_wire_bytes(std::size_t elements) {
  return wire_bytes<S::weight_compression::bits, typename S::precision::compute>(elements);
}
template <class S>
constexpr std::size_t gradient_wire_bytes(std::size_t elements) {
  return wire_bytes<S::gradient_compression::bits, typename S::precision::reduce>(elements);
}

/// Gathers of K ranks and gathers of all cannot share memory that their ranks share: one group of K
/// would write where the others still read.
template <class Strategy>
inline constexpr bool regathers_apart =
    Strategy::reshard::ranks != 0 && Strategy::communicator::gather_is_shared;

/// Gradients are reduced in one dtype and kept in another.
template <class Strategy>
inline constexpr bool casts_gradients =
    !std::is_same_v<typename Strategy::precision::reduce, typename Strategy::precision::gradient>;
/// Full gradients go where the rank keeps its gradients, and stay: nothing is added to them later.
template <class Strategy>
constexpr bool gradients_in_place(std::size_t micro_batches) {
  return !Strategy::sharding::gradients && !casts_gradients<Strategy> &&
         optimizer_place<Strategy> == Place::device &&
         (micro_batches == 1 || !Strategy::accumulation::reduce_each);
}
/// Reductions after the first add to what is kept.
template <class Strategy>
constexpr bool adds_reductions(std::size_t micro_batches) {
  return Strategy::accumulation::reduce_each && micro_batches > 1;
}
/// A reduced part waits beside what the rank keeps, to be added to it or cast.
template <class Strategy>
constexpr bool stages_reductions(std::size_t micro_batches) {
  return Strategy::sharding::optimizer && optimizer_place<Strategy> == Place::device &&
         (casts_gradients<Strategy> || adds_reductions<Strategy>(micro_batches));
}
/// A kept part waits in the reduce dtype while it is averaged over the copies.
template <class Strategy>
inline constexpr bool stages_copies =
    group_of<typename Strategy::sharding> != 0 &&
    casts_gradients<Strategy>&& optimizer_place<Strategy> == Place::device;
/// The largest part that is reduced at once.
template <class Model>
constexpr std::size_t largest_trained_part(const Layout<Model>& layout) {
  std::size_t n = 0;
  layout.for_each_trained_flat(
      [&](std::size_t, const FlatLayout& flat) { n = std::max(n, flat.part); });
  return n;
}

/// The longest flat that is gathered, with padding.
template <class Model>
constexpr std::size_t largest_gathered_flat(const Layout<Model>& layout) {
  std::size_t n = 0;
  for (std::size_t f = 0; f < layout.flat_count(); ++f)
    if (!layout.flat(f).is_persistent) n = std::max(n, layout.flat(f).padded);
  return n;
}

/// A visitor of `Schedule` that counts: arenas by the same first fit as the run's, bytes by ring.
template <class Strategy, class Model>
class CountingVisitor {
  using Sharding = typename Strategy::sharding;
  static constexpr std::size_t compute_bytes = sizeof(typename Strategy::precision::compute);
  static constexpr std::size_t reduce_bytes = sizeof(typename Strategy::precision::reduce);

 public:
  constexpr CountingVisitor(const Layout<Model>& layout, const MeshShape& mesh,
                            std::size_t micro_batches)
      : layout_{&layout},
        mesh_{mesh},
        in_place_{gradients_in_place<Strategy>(micro_batches)},
        kept_{kept_flats<Strategy>(layout, in_place_)},
        gathered_at_(layout.group_count(), 0),
        gradients_at_(layout.group_count(), 0),
        is_regathered_(layout.group_count(), 0),
        is_kept_(layout.group_count(), 0),
        reduced_(layout.group_count(), 0) {}

  constexpr void gather(std::size_t g) {
    is_regathered_[g] = 0;
    enter(g, gathered_);
    counts.all_gather_bytes +=
        hops() * parameter_wire_bytes<Strategy>(layout_->group(g).gathered / mesh_.shards);
    if constexpr (parameters_place<Strategy> != Place::device)
      layout_->for_each_flat(g, [&](std::size_t, const FlatLayout& flat) {
        if (flat.is_persistent) return;
        moved().to_device_bytes += flat.part * compute_bytes;
        if (parameters_place<Strategy> == Place::nvme)
          moved().read_bytes += in_blocks(flat.part, compute_bytes);
      });
  }
  constexpr void regather(std::size_t g) {
    is_regathered_[g] = 1;
    enter(g, regathers_apart<Strategy> ? regathered_ : gathered_);
    counts.all_gather_bytes +=
        (mesh_.reshard - 1) *
        parameter_wire_bytes<Strategy>(layout_->group(g).gathered / mesh_.reshard);
  }
  constexpr void keep(std::size_t g) {
    if (is_kept_[g]) return;
    is_kept_[g] = 1;
    counts.resharded_elements += layout_->group(g).gathered / mesh_.reshard;
  }
  constexpr void release(std::size_t g) {
    const bool apart = regathers_apart<Strategy> && is_regathered_[g];
    (apart ? regathered_ : gathered_).release(gathered_at_[g], layout_->group(g).gathered);
    live_elements_ -= layout_->group(g).gathered_used;
  }
  constexpr void open_gradients(std::size_t g) {
    if (!in_place_) gradients_at_[g] = gradients_.allocate(layout_->group(g).gradients);
  }
  constexpr void reduce(std::size_t g) {
    const std::size_t bytes =
        hops() * gradient_wire_bytes<Strategy>(layout_->group(g).gradients / mesh_.shards);
    if (Strategy::gradient_compression::bits != 0)
      counts.all_to_all_bytes += bytes;
    else if (Sharding::optimizer)
      counts.reduce_scatter_bytes += bytes;
    else
      counts.all_reduce_bytes += 2 * bytes;
    if constexpr (optimizer_place<Strategy> != Place::device)
      keep_gradients(g, Strategy::accumulation::reduce_each && reduced_[g]++ > 0);
  }
  constexpr void replicate(std::size_t g) {
    // What was not added to anything is averaged over the copies before it is kept.
    if constexpr (optimizer_place<Strategy> != Place::device)
      if (Strategy::accumulation::reduce_each && reduced_[g] > 1) fetch_and_keep_gradients(g);
    layout_->for_each_trained_flat(g, [&](std::size_t, const FlatLayout& flat) {
      counts.all_reduce_bytes +=
          2 * (mesh_.copies - 1) * ceil_div(flat.part, mesh_.copies) * reduce_bytes;
    });
  }
  constexpr void close_gradients(std::size_t g) {
    if (!in_place_) gradients_.release(gradients_at_[g], layout_->group(g).gradients);
  }
  constexpr void update(std::size_t g) {
    if constexpr (is_offloaded<Strategy>)
      layout_->for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) { update_flat(f); });
  }
  constexpr void publish(std::size_t g) {
    layout_->for_each_flat(g, [&](std::size_t, const FlatLayout& flat) {
      if (is_published<Strategy>(flat))
        counts.all_gather_bytes += hops() * flat.part * compute_bytes;
    });
  }
  template <std::size_t S>
  constexpr void forward(std::size_t) {}
  template <std::size_t S>
  constexpr void rebuild(std::size_t) {}
  template <std::size_t S>
  constexpr void backward(std::size_t) {}

  constexpr StepCounts finish() {
    counts.gathered_elements = gathered_.high_water();
    counts.regathered_elements = regathered_.high_water();
    counts.gradients_elements = gradients_.high_water();
    return counts;
  }

  constexpr const std::vector<KeptFlat>& kept() const { return kept_; }

  StepCounts counts;

 private:
  constexpr std::size_t hops() const { return mesh_.shards - 1; }
  constexpr void enter(std::size_t g, ArenaMap& arena) {
    gathered_at_[g] = arena.allocate(layout_->group(g).gathered);
    live_elements_ += layout_->group(g).gathered_used;
    counts.peak_live_elements = std::max(counts.peak_live_elements, live_elements_);
  }

  constexpr TransferCounts& moved() { return counts.transfers; }
  constexpr void keep_gradients(std::size_t g, bool adds) {
    layout_->for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      moved().to_host_bytes += kept_[f].away * reduce_bytes;
    });
    if constexpr (optimizer_place<Strategy> == Place::nvme) {
      const std::size_t bytes = gradient_bytes_on_disk(g);
      moved().written_bytes += bytes;
      if (adds) moved().read_bytes += bytes;
    }
  }
  constexpr void fetch_and_keep_gradients(std::size_t g) {
    layout_->for_each_trained_flat(g, [&](std::size_t f, const FlatLayout&) {
      moved().to_device_bytes += kept_[f].away * reduce_bytes;
    });
    if constexpr (optimizer_place<Strategy> == Place::nvme)
      moved().read_bytes += gradient_bytes_on_disk(g);
    keep_gradients(g, /*adds=*/false);
  }
  constexpr std::size_t gradient_bytes_on_disk(std::size_t g) const {
    std::size_t bytes = 0;
    for (const auto& chunk : swap_.chunks())
      if (layout_->flat(chunk.flat).group == g) bytes += swap_.gradient_section_bytes(chunk);
    return bytes;
  }
  constexpr void update_flat(std::size_t f) {
    const KeptFlat& kept = kept_[f];
    const bool is_on_disk = kept.parameters_place == Place::nvme;
    if (kept.parameters_place == Place::device)
      moved().to_device_bytes += kept.away * compute_bytes;
    else
      moved().to_host_bytes += kept.on_device() * compute_bytes;
    if constexpr (optimizer_place<Strategy> == Place::nvme) {
      for (const auto& chunk : swap_.chunks()) {
        if (chunk.flat != f) continue;
        moved().read_bytes += swap_.read_bytes(chunk);
        moved().written_bytes += swap_.written_bytes(chunk);
        if (is_on_disk && kept.has_away_masters)
          moved().written_bytes += in_blocks(chunk.count, compute_bytes);
      }
    } else if (is_on_disk) {
      moved().written_bytes += in_blocks(kept.parameters, compute_bytes);
    }
  }

  const Layout<Model>* layout_;
  MeshShape mesh_;
  bool in_place_;
  std::vector<KeptFlat> kept_;
  SwapLayout<Strategy> swap_{kept_};
  ArenaMap gathered_, regathered_, gradients_;  // elements
  std::vector<std::size_t> gathered_at_, gradients_at_;
  std::vector<char> is_regathered_, is_kept_;
  std::vector<std::size_t> reduced_;
  std::size_t live_elements_ = 0;
};

/// The memory that transfers pass through.
template <class Strategy, class Model>
constexpr void size_transfers(const Layout<Model>& layout, const std::vector<KeptFlat>& kept,
                              std::size_t micro_batches, TransferCounts& counts) {
  constexpr bool copies = computes_with_copy<typename Strategy::precision>;
  constexpr Place optimizer = optimizer_place<Strategy>;
  // What is on its way of two groups at once: one arrives while the other is used.
  std::size_t reduced = 0, away = 0, uploaded = 0;
  for (std::size_t g = 0; g < layout.group_count(); ++g) {
    std::size_t reduced_of = 0, away_of = 0, uploaded_of = 0;
    layout.for_each_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      reduced_of += kept[f].updated;
      away_of += kept[f].away_places();
      if (!flat.is_persistent) uploaded_of += kept[f].parameters;
    });
    reduced = std::max(reduced, reduced_of);
    away = std::max(away, away_of);
    uploaded = std::max(uploaded, uploaded_of);
  }
  if constexpr (optimizer != Place::device) {
    if (Strategy::sharding::optimizer) counts.landing_elements = 2 * reduced;
    if (optimizer == Place::nvme || casts_gradients<Strategy> ||
        adds_reductions<Strategy>(micro_batches))
      counts.host_landing_elements = 2 * away;
  }
  if constexpr (parameters_place<Strategy> != Place::device)
    if (Strategy::communicator::gather_is_shared) counts.upload_elements = 2 * uploaded;
  for (const KeptFlat& flat : kept) {
    if (!copies) break;
    if (flat.parameters_place != Place::device)
      counts.shadow_elements = std::max(counts.shadow_elements, 2 * flat.device_places());
    if (optimizer == Place::host && flat.parameters_place != Place::host)
      counts.host_shadow_elements = std::max(counts.host_shadow_elements, 2 * flat.away_places());
  }
  if constexpr (is_on_disk<Strategy>) {
    const SwapLayout<Strategy> swap{kept};
    counts.parameter_slot_bytes = 2 * swap.parameter_slot_bytes();
    counts.chunk_slot_bytes = 3 * swap.slot_bytes();
    counts.gradient_slot_bytes = 2 * swap.gradient_slot_bytes();
  }
}

/// Walks one step and counts.
/// Errors:  throws ConfigError if there is no micro-batch, if a policy would change nothing of this
///          model, and as `Schedule` does.
template <class Strategy, class Model>
constexpr StepCounts count_step(const Layout<Model>& layout, const MeshShape& mesh,
                                std::size_t micro_batches) {
  if (micro_batches == 0) throw ConfigError("a step of 0 micro-batches: give at least 1");
  Schedule<Strategy, Model> schedule{layout};
  CountingVisitor<Strategy, Model> visitor{layout, mesh, micro_batches};
  for (std::size_t m = 0; m < micro_batches; ++m) {
    schedule.forward(visitor);
    schedule.backward(visitor, m + 1 == micro_batches);
  }
  schedule.update(visitor);
  StepCounts counts = visitor.finish();
  if (mesh.reshard != 0 && counts.resharded_elements == 0)
    throw ConfigError("ReshardTo<" + std::to_string(mesh.reshard) +
                      ">: every group stays gathered from its forward to its backward, so that "
                      "nothing would be kept: leave it out");
  const std::size_t largest = largest_trained_part(layout);
  if (stages_reductions<Strategy>(micro_batches)) counts.staging_elements = largest;
  if (stages_copies<Strategy>) counts.copies_staging_elements = largest;
  if (Strategy::gradient_compression::bits == 0) counts.room_elements = largest;
  if (mesh.copies > 1) counts.copies_room_elements = ceil_div(largest, mesh.copies);
  if constexpr (is_offloaded<Strategy>)
    size_transfers<Strategy>(layout, visitor.kept(), micro_batches, counts.transfers);
  if (Strategy::weight_compression::bits != 0) {
    counts.wire_elements = largest_gathered_flat(layout);
    if (counts.wire_elements == 0)
      throw ConfigError(
          "QuantizedWeights: every parameter persists, so that nothing is gathered: leave it out, "
          "or give PersistBelow less");
    if (regathers_apart<Strategy>) counts.rewire_elements = counts.wire_elements;
  }
  if (Strategy::gradient_compression::bits != 0)
    counts.gradient_wire_elements = largest * mesh.shards;
  return counts;
}

}  // namespace shardexpr::detail
