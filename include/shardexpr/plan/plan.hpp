// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/buffers.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/activations.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
#include <shardexpr/plan/step_counts.hpp>
#include <shardexpr/plan/step_summary.hpp>

#include <cstddef>
#include <type_traits>

namespace shardexpr {

/// What one rank will hold and send. A test compares each number with what a run allocates and
/// sends, for every strategy.
/// Units:   bytes a rank; `sent` bytes a rank and step, as a ring would send them.
struct Plan {
  std::size_t world = 0;
  std::size_t parameter_count = 0;  ///< of the model, in elements

  /// Between steps; parameters with the units' buffers.
  std::size_t parameters_bytes = 0, gradients_bytes = 0, optimizer_bytes = 0;
  std::size_t gathered_bytes = 0;        ///< full parameters while units are gathered
  std::size_t resharded_bytes = 0;       ///< what ReshardTo keeps from forward to backward
  std::size_t full_gradients_bytes = 0;  ///< full gradients until they are reduced
  std::size_t activations_bytes = 0;
  std::size_t other_bytes = 0;

  std::size_t device_resident_bytes = 0;  ///< parameters, gradients, optimizer
  std::size_t device_peak_bytes = 0;      ///< all of it

  std::size_t peak_live_elements = 0;  ///< most parameters gathered at once, padding left out

  std::size_t all_gather_sent_bytes = 0, reduce_scatter_sent_bytes = 0, all_reduce_sent_bytes = 0;
  std::size_t sent_bytes = 0;

  friend constexpr bool operator==(const Plan&, const Plan&) = default;
};

namespace detail {

/// Elements that one rank keeps of a flat, by what the sharding splits.
template <class Sharding>
constexpr std::size_t kept_parameters(const FlatLayout& flat) {
  return Sharding::parameters && !flat.is_persistent ? flat.part : flat.padded;
}
/// `in_place`: full gradients lie there too. Else no more is kept than is updated.
template <class Sharding>
constexpr std::size_t kept_gradients(const FlatLayout& flat, bool in_place) {
  if (!flat.is_trainable) return 0;
  const bool part = Sharding::gradients || (Sharding::optimizer && !in_place);
  return part ? flat.part : flat.padded;
}
/// Of each moment, and of parameters in storage dtype where units compute in another.
template <class Sharding>
constexpr std::size_t kept_for_update(const FlatLayout& flat) {
  if (!flat.is_trainable) return 0;
  return Sharding::optimizer ? flat.part : flat.padded;
}
/// Units compute with a copy of the parameters, in a dtype of its own.
template <class Precision>
inline constexpr bool computes_with_copy =
    !std::is_same_v<typename Precision::storage, typename Precision::compute>;

}  // namespace detail

/// What `Trainer`, a `Sharded<...>`, will hold and send with `world` ranks and `micro_batches` a
/// step. A constant expression where the configuration is one: a job that would not fit does not
/// build.
///
///   static_assert(sx::plan<Trainer>(config, 8).device_peak_bytes < 80_GiB);
///
/// Errors:  throws ConfigError as the trainer's constructor does.
/// Cost:    linear in the number of units; touches no memory of the model.
template <class Trainer>
constexpr Plan plan(const typename Trainer::Model::Config& config, std::size_t world,
                    std::size_t micro_batches = 1) requires(!requires { Trainer::is_refused; }) {
  using Model = typename Trainer::Model;
  using Strategy = typename Trainer::Strategy;
  using Sharding = typename Strategy::sharding;
  using Precision = typename Strategy::precision;
  constexpr bool is_shared = Strategy::communicator::gather_is_shared;

  const MeshShape mesh = mesh_shape<Strategy>(world);
  const Layout<Model> layout{config, mesh.shards, detail::grouping_of<Strategy, Model>()};
  const detail::StepCounts step = detail::count_step<Strategy>(layout, mesh, micro_batches);

  Plan plan;
  plan.world = world;
  plan.parameter_count = layout.parameter_count();
  const bool in_place = detail::gradients_in_place<Strategy>(micro_batches);
  for (std::size_t f = 0; f < layout.flat_count(); ++f) {
    const FlatLayout& flat = layout.flat(f);
    const std::size_t updated = detail::kept_for_update<Sharding>(flat);
    plan.parameters_bytes +=
        detail::kept_parameters<Sharding>(flat) * sizeof(typename Precision::compute);
    if (detail::computes_with_copy<Precision>)
      plan.parameters_bytes += updated * sizeof(typename Precision::storage);
    plan.gradients_bytes +=
        detail::kept_gradients<Sharding>(flat, in_place) * sizeof(typename Precision::gradient);
    plan.optimizer_bytes +=
        updated * Strategy::optimizer::moments * sizeof(typename Precision::optimizer);
  }
  plan.parameters_bytes +=
      detail::buffer_elements<Model>(config) * sizeof(typename Precision::buffers);
  const std::size_t element = sizeof(typename Precision::compute);
  plan.gathered_bytes =
      step.gathered_elements * element / (is_shared ? mesh.shards : 1) +
      step.regathered_elements * element / (is_shared && mesh.reshard != 0 ? mesh.reshard : 1);
  plan.resharded_bytes = step.resharded_elements * element;
  plan.full_gradients_bytes =
      (step.gradients_elements + step.staging_elements + step.copies_staging_elements) *
      sizeof(typename Precision::reduce);
  plan.activations_bytes =
      activation_bytes<Model, typename Precision::compute, typename Strategy::recompute>(config)
          .total();
  plan.other_bytes = (1 + world) * sizeof(StepSummary) + sizeof(StepOutcome);
  plan.peak_live_elements = step.peak_live_elements;

  plan.device_resident_bytes = plan.parameters_bytes + plan.gradients_bytes + plan.optimizer_bytes;
  plan.device_peak_bytes = plan.device_resident_bytes + plan.gathered_bytes + plan.resharded_bytes +
                           plan.full_gradients_bytes + plan.activations_bytes + plan.other_bytes;

  plan.all_gather_sent_bytes = step.all_gather_bytes + (world - 1) * sizeof(StepSummary);
  plan.reduce_scatter_sent_bytes = step.reduce_scatter_bytes;
  plan.all_reduce_sent_bytes = step.all_reduce_bytes;
  plan.sent_bytes =
      plan.all_gather_sent_bytes + plan.reduce_scatter_sent_bytes + plan.all_reduce_sent_bytes;
  return plan;
}

/// Of a trainer that a rule refused: nothing, so that the rule's line is the only error.
template <class Trainer>
constexpr Plan plan(const typename Trainer::Model::Config&, std::size_t,
                    std::size_t = 1) requires requires {
  Trainer::is_refused;
}
{ return {}; }

}  // namespace shardexpr
