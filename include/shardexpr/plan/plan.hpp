// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/buffers.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/activations.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
#include <shardexpr/plan/places.hpp>
#include <shardexpr/plan/step_counts.hpp>
#include <shardexpr/plan/step_summary.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace shardexpr {

/// Bytes that a rank of a communicator of `world` ranks, of which at least `node_ranks` share
/// memory, holds for reductions of which its part is at most `count` elements; none where peers'
/// memory is read in place.
template <class C, class T>
constexpr std::size_t reduction_room_bytes([[maybe_unused]] std::size_t world,
                                           [[maybe_unused]] std::size_t count,
                                           [[maybe_unused]] std::size_t node_ranks) {
  if constexpr (requires { C::template room_bytes<T>(world, count, node_ranks); })
    return C::template room_bytes<T>(world, count, node_ranks);
  else if constexpr (requires { C::template room_bytes<T>(world, count); })
    return C::template room_bytes<T>(world, count);
  else
    return 0;
}

/// What one rank will hold and send. A test compares each number with what a run allocates and
/// sends, for every strategy.
/// Units:   bytes a rank; `sent` bytes a rank and step, as a ring would send them.
struct Plan {
  std::size_t world = 0;
  std::size_t parameter_count = 0;  ///< of the model, in elements

  /// On the device, between steps; parameters with the units' buffers.
  std::size_t parameters_bytes = 0, gradients_bytes = 0, optimizer_bytes = 0;
  std::size_t gathered_bytes = 0;        ///< full parameters while units are gathered
  std::size_t resharded_bytes = 0;       ///< what ReshardTo keeps from forward to backward
  std::size_t full_gradients_bytes = 0;  ///< full gradients until they are reduced
  std::size_t activations_bytes = 0;
  std::size_t transfers_bytes = 0;  ///< what waits there on its way to the host or from it
  std::size_t other_bytes = 0;

  std::size_t device_resident_bytes = 0;  ///< parameters, gradients, optimizer
  std::size_t device_peak_bytes = 0;      ///< all of it

  /// On the host, of what is offloaded; `transfers` is what waits there, on its way to the device
  /// or a disk.
  std::size_t host_parameters_bytes = 0, host_gradients_bytes = 0, host_optimizer_bytes = 0;
  std::size_t host_transfers_bytes = 0, host_other_bytes = 0;
  std::size_t host_resident_bytes = 0;  ///< parameters, gradients, optimizer
  std::size_t host_peak_bytes = 0;      ///< all of it
  std::size_t nvme_bytes = 0;           ///< of the rank's file

  std::size_t peak_live_elements = 0;  ///< most parameters gathered at once, padding left out

  std::size_t all_gather_sent_bytes = 0, reduce_scatter_sent_bytes = 0, all_reduce_sent_bytes = 0;
  std::size_t all_to_all_sent_bytes = 0;  ///< of quantized gradients
  std::size_t sent_bytes = 0;

  /// Moved between the places in a step.
  std::size_t to_device_bytes = 0, to_host_bytes = 0, nvme_read_bytes = 0, nvme_written_bytes = 0;

  friend constexpr bool operator==(const Plan&, const Plan&) = default;
};

namespace detail {

/// Adds what offloading takes; parts that are on the host are counted already.
template <class Strategy>
constexpr void plan_transfers(const TransferCounts& transfers, const std::vector<KeptFlat>& kept,
                              Plan& plan) {
  using Precision = typename Strategy::precision;
  constexpr std::size_t compute = sizeof(typename Precision::compute);
  constexpr std::size_t reduce = sizeof(typename Precision::reduce);
  plan.transfers_bytes = transfers.landing_elements * reduce +
                         (transfers.upload_elements + transfers.shadow_elements) * compute;
  plan.host_transfers_bytes =
      transfers.host_landing_elements * reduce + transfers.host_shadow_elements * compute +
      transfers.parameter_slot_bytes + transfers.chunk_slot_bytes + transfers.gradient_slot_bytes;
  plan.to_device_bytes = transfers.to_device_bytes;
  plan.to_host_bytes = transfers.to_host_bytes;
  if constexpr (optimizer_place<Strategy> != Place::device) {
    // The squares that the host adds up go up.
    plan.other_bytes += sizeof(ExactSum);
    plan.host_other_bytes += sizeof(ExactSum);
    plan.to_device_bytes += sizeof(ExactSum);
  }
  if constexpr (outcome_comes_down<Strategy>) {
    plan.host_other_bytes += sizeof(StepOutcome);
    plan.to_host_bytes += sizeof(StepOutcome);
  }
  if constexpr (is_on_disk<Strategy>) {
    plan.nvme_bytes = SwapLayout<Strategy>{kept}.size_bytes();
    plan.host_other_bytes += plan.nvme_bytes / swap_block_bytes * sizeof(std::uint32_t);
    plan.nvme_read_bytes = transfers.read_bytes;
    plan.nvme_written_bytes = transfers.written_bytes;
  }
  plan.host_resident_bytes =
      plan.host_parameters_bytes + plan.host_gradients_bytes + plan.host_optimizer_bytes;
  plan.host_peak_bytes =
      plan.host_resident_bytes + plan.host_transfers_bytes + plan.host_other_bytes;
}

}  // namespace detail

/// What `Trainer`, a `Sharded<...>`, will hold and send with `world` ranks and `micro_batches` a
/// step. A constant expression where the configuration is one: a job that would not fit does not
/// build.
///
///   static_assert(sx::plan<Trainer>(config, 8).device_peak_bytes < 80_GiB);
///
/// Of several machines, `node_ranks` neighbours are on each, and one more has those left over; 0:
/// all are on one. That matters to communicators whose ranks share a machine's memory; where groups
/// lie across machines unevenly, the plan is that of the rank that pays most.
///
/// Errors:  throws ConfigError as the trainer's constructor does.
/// Cost:    linear in the number of units, and of ranks; touches no memory of the model.
template <class Trainer>
constexpr Plan plan(const typename Trainer::Model::Config& config, std::size_t world,
                    std::size_t micro_batches = 1,
                    std::size_t node_ranks = 0) requires(!requires { Trainer::is_refused; }) {
  using Model = typename Trainer::Model;
  using Strategy = typename Trainer::Strategy;
  using Precision = typename Strategy::precision;
  constexpr bool is_shared = Strategy::communicator::gather_is_shared;

  const MeshShape mesh = mesh_shape<Strategy>(world);
  const detail::NodeShares shares = detail::node_shares(mesh, node_ranks);
  const Layout<Model> layout{config, mesh.shards, detail::grouping_of<Strategy, Model>()};
  const detail::StepCounts step = detail::count_step<Strategy>(layout, mesh, micro_batches);

  Plan plan;
  plan.world = world;
  plan.parameter_count = layout.parameter_count();
  const bool in_place = detail::gradients_in_place<Strategy>(micro_batches);
  constexpr bool host_updates = detail::optimizer_place<Strategy> == Place::host;
  constexpr std::size_t moments_bytes =
      Strategy::optimizer::moments * sizeof(typename Precision::optimizer);
  const auto all_kept = detail::kept_flats<Strategy>(layout, in_place);
  for (const detail::KeptFlat& kept : all_kept) {
    const std::size_t parameters = kept.parameters * sizeof(typename Precision::compute);
    if (kept.parameters_place == Place::device) plan.parameters_bytes += parameters;
    if (kept.parameters_place == Place::host) plan.host_parameters_bytes += parameters;
    if (kept.has_device_masters)
      plan.parameters_bytes += kept.device_places() * sizeof(typename Precision::storage);
    plan.gradients_bytes += kept.device_gradients * sizeof(typename Precision::gradient);
    plan.optimizer_bytes += kept.device_places() * moments_bytes;
    if (!host_updates) continue;
    if (kept.has_away_masters)
      plan.host_parameters_bytes += kept.away_places() * sizeof(typename Precision::storage);
    plan.host_gradients_bytes += kept.away_places() * sizeof(typename Precision::gradient);
    plan.host_optimizer_bytes += kept.away_places() * moments_bytes;
  }
  plan.parameters_bytes +=
      detail::buffer_elements<Model>(config) * sizeof(typename Precision::buffers);
  const std::size_t element = sizeof(typename Precision::compute);
  plan.gathered_bytes =
      ceil_div(step.gathered_elements * element, is_shared ? shares.shards : 1) +
      ceil_div(step.regathered_elements * element, is_shared ? shares.reshard : 1);
  plan.resharded_bytes = detail::parameter_wire_bytes<Strategy>(step.resharded_elements);
  plan.full_gradients_bytes =
      (step.gradients_elements + step.staging_elements + step.copies_staging_elements) *
      sizeof(typename Precision::reduce);
  // Blocks of codes, where there are any.
  plan.gathered_bytes += ceil_div(detail::parameter_wire_bytes<Strategy>(step.wire_elements),
                                  is_shared ? shares.shards : 1) +
                         ceil_div(detail::parameter_wire_bytes<Strategy>(step.rewire_elements),
                                  is_shared ? shares.reshard : 1);
  plan.full_gradients_bytes +=
      2 * detail::gradient_wire_bytes<Strategy>(step.gradient_wire_elements) +
      reduction_room_bytes<typename Strategy::communicator, typename Precision::reduce>(
          mesh.shards, step.room_elements, shares.shards) +
      reduction_room_bytes<typename Strategy::communicator, typename Precision::reduce>(
          mesh.copies, step.copies_room_elements, shares.copies);
  plan.activations_bytes =
      activation_bytes<Model, typename Precision::compute, typename Strategy::device,
                       typename Strategy::recompute>(config)
          .total();
  plan.other_bytes = (1 + world) * sizeof(StepSummary) + sizeof(StepOutcome);
  plan.peak_live_elements = step.peak_live_elements;

  plan.device_resident_bytes = plan.parameters_bytes + plan.gradients_bytes + plan.optimizer_bytes;
  if constexpr (detail::needs_host<Strategy>)
    detail::plan_transfers<Strategy>(step.transfers, all_kept, plan);
  plan.device_peak_bytes = plan.device_resident_bytes + plan.gathered_bytes + plan.resharded_bytes +
                           plan.full_gradients_bytes + plan.activations_bytes +
                           plan.transfers_bytes + plan.other_bytes;

  plan.all_gather_sent_bytes = step.all_gather_bytes + (world - 1) * sizeof(StepSummary);
  plan.reduce_scatter_sent_bytes = step.reduce_scatter_bytes;
  plan.all_reduce_sent_bytes = step.all_reduce_bytes;
  plan.all_to_all_sent_bytes = step.all_to_all_bytes;
  plan.sent_bytes = plan.all_gather_sent_bytes + plan.reduce_scatter_sent_bytes +
                    plan.all_reduce_sent_bytes + plan.all_to_all_sent_bytes;
  return plan;
}

/// Of a trainer that a rule refused: nothing, so that the rule's line is the only error.
template <class Trainer>
constexpr Plan plan(const typename Trainer::Model::Config&, std::size_t, std::size_t = 1,
                    std::size_t = 0) requires requires {
  Trainer::is_refused;
}
{ return {}; }

}  // namespace shardexpr
