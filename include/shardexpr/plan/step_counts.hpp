// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/arena_map.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
#include <shardexpr/plan/schedule.hpp>

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

  std::size_t peak_live_elements = 0;
  std::size_t all_gather_bytes = 0, reduce_scatter_bytes = 0, all_reduce_bytes = 0;  // sent
};

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
         (micro_batches == 1 || !Strategy::accumulation::reduce_each);
}
/// A reduced part waits beside what the rank keeps, to be added to it or cast.
template <class Strategy>
constexpr bool stages_reductions(std::size_t micro_batches) {
  return Strategy::sharding::optimizer &&
         (casts_gradients<Strategy> || (Strategy::accumulation::reduce_each && micro_batches > 1));
}
/// A kept part waits in the reduce dtype while it is averaged over the copies.
template <class Strategy>
inline constexpr bool stages_copies =
    group_of<typename Strategy::sharding> != 0 && casts_gradients<Strategy>;
/// The largest part that is reduced at once.
template <class Model>
constexpr std::size_t largest_trained_part(const Layout<Model>& layout) {
  std::size_t n = 0;
  layout.for_each_trained_flat(
      [&](std::size_t, const FlatLayout& flat) { n = std::max(n, flat.part); });
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
        gathered_at_(layout.group_count(), 0),
        gradients_at_(layout.group_count(), 0),
        is_regathered_(layout.group_count(), 0),
        is_kept_(layout.group_count(), 0) {}

  constexpr void gather(std::size_t g) {
    is_regathered_[g] = 0;
    enter(g, gathered_);
    counts.all_gather_bytes += hops() * layout_->group(g).gathered / mesh_.shards * compute_bytes;
  }
  constexpr void regather(std::size_t g) {
    is_regathered_[g] = 1;
    enter(g, regathers_apart<Strategy> ? regathered_ : gathered_);
    counts.all_gather_bytes +=
        (mesh_.reshard - 1) * layout_->group(g).gathered / mesh_.reshard * compute_bytes;
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
    const std::size_t bytes = hops() * layout_->group(g).gradients / mesh_.shards * reduce_bytes;
    if (Sharding::optimizer)
      counts.reduce_scatter_bytes += bytes;
    else
      counts.all_reduce_bytes += 2 * bytes;
  }
  constexpr void replicate(std::size_t g) {
    layout_->for_each_trained_flat(g, [&](std::size_t, const FlatLayout& flat) {
      counts.all_reduce_bytes +=
          2 * (mesh_.copies - 1) * ceil_div(flat.part, mesh_.copies) * reduce_bytes;
    });
  }
  constexpr void close_gradients(std::size_t g) {
    if (!in_place_) gradients_.release(gradients_at_[g], layout_->group(g).gradients);
  }
  constexpr void update(std::size_t) {}
  constexpr void publish(std::size_t g) {
    layout_->for_each_flat(g, [&](std::size_t, const FlatLayout& flat) {
      if (is_published<Sharding>(flat))
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

  StepCounts counts;

 private:
  constexpr std::size_t hops() const { return mesh_.shards - 1; }
  constexpr void enter(std::size_t g, ArenaMap& arena) {
    gathered_at_[g] = arena.allocate(layout_->group(g).gathered);
    live_elements_ += layout_->group(g).gathered_used;
    counts.peak_live_elements = std::max(counts.peak_live_elements, live_elements_);
  }

  const Layout<Model>* layout_;
  MeshShape mesh_;
  bool in_place_;
  ArenaMap gathered_, regathered_, gradients_;  // elements
  std::vector<std::size_t> gathered_at_, gradients_at_;
  std::vector<char> is_regathered_, is_kept_;
  std::size_t live_elements_ = 0;
};

/// Walks one step and counts.
/// Errors:  throws ConfigError if there is no micro-batch, and as `Schedule` does.
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
  return counts;
}

}  // namespace shardexpr::detail
