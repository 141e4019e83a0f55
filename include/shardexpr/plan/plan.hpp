// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/exact_sum.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/activations.hpp>
#include <shardexpr/plan/arena_map.hpp>
#include <shardexpr/plan/schedule.hpp>

#include <cstddef>
#include <vector>

namespace shardexpr {

/// What ranks tell each other once a step, beside parameters and gradients.
struct StepSummary {
  ExactSum gradient_squares;  ///< of the gradients this rank answers for
  double loss = 0;            ///< this rank's
};

/// What one rank will hold and send. A test compares each number with what a run allocates and
/// sends, for every strategy.
/// Units:   bytes a rank; `sent` bytes a rank and step, as a ring would send them.
struct Plan {
  std::size_t world = 0;
  std::size_t parameter_count = 0;  ///< of the model, in elements

  std::size_t parameters_bytes = 0, gradients_bytes = 0, optimizer_bytes = 0;  ///< between steps
  std::size_t gathered_bytes = 0;        ///< full parameters while units are gathered
  std::size_t full_gradients_bytes = 0;  ///< full gradients until they are reduced
  std::size_t activations_bytes = 0;
  std::size_t other_bytes = 0;

  std::size_t device_resident_bytes = 0;  ///< parameters, gradients, optimizer
  std::size_t device_peak_bytes = 0;      ///< all of it

  std::size_t all_gather_sent_bytes = 0, reduce_scatter_sent_bytes = 0, all_reduce_sent_bytes = 0;
  std::size_t sent_bytes = 0;

  friend constexpr bool operator==(const Plan&, const Plan&) = default;
};

namespace detail {

/// A visitor of `Schedule` that counts: arenas by the same first fit as the run's, bytes by ring.
template <class Strategy, class Model>
class PlanVisitor {
  using Sharding = typename Strategy::sharding;
  using Precision = typename Strategy::precision;

 public:
  constexpr explicit PlanVisitor(const Layout<Model>& layout)
      : layout_{&layout},
        gathered_at_(layout.unit_count(), 0),
        gradients_at_(layout.unit_count(), 0) {}

  constexpr void gather(std::size_t u) {
    gathered_at_[u] = gathered.allocate(layout_->unit(u).padded);
    all_gather += hops() * layout_->unit(u).part * sizeof(typename Precision::compute);
  }
  constexpr void release(std::size_t u) {
    gathered.release(gathered_at_[u], layout_->unit(u).padded);
  }
  constexpr void open_gradients(std::size_t u) {
    if (Sharding::gradients) gradients_at_[u] = gradients.allocate(layout_->unit(u).padded);
  }
  constexpr void reduce(std::size_t u) {
    const std::size_t bytes = hops() * layout_->unit(u).part * sizeof(typename Precision::reduce);
    if (Sharding::optimizer)
      reduce_scatter += bytes;
    else
      all_reduce += 2 * bytes;
    if (Sharding::gradients) gradients.release(gradients_at_[u], layout_->unit(u).padded);
  }
  constexpr void update(std::size_t) {}
  constexpr void publish(std::size_t u) {
    all_gather += hops() * layout_->unit(u).part * sizeof(typename Precision::compute);
  }
  template <std::size_t S>
  constexpr void forward(std::size_t) {}
  template <std::size_t S>
  constexpr void backward(std::size_t) {}

  ArenaMap gathered, gradients;  // elements
  std::size_t all_gather = 0, reduce_scatter = 0, all_reduce = 0;

 private:
  constexpr std::size_t hops() const { return layout_->world() - 1; }

  const Layout<Model>* layout_;
  std::vector<std::size_t> gathered_at_, gradients_at_;
};

/// What one step needs and sends, on one rank.
struct StepCounts {
  std::size_t gathered_elements = 0, gradients_elements = 0;  // of the arenas
  std::size_t all_gather_bytes = 0, reduce_scatter_bytes = 0, all_reduce_bytes = 0;  // sent
};

/// Walks one step and counts.
template <class Strategy, class Model>
constexpr StepCounts count_step(const Layout<Model>& layout) {
  Schedule<Strategy, Model> schedule{layout};
  PlanVisitor<Strategy, Model> visitor{layout};
  schedule.forward(visitor);
  schedule.backward(visitor);
  schedule.update(visitor);
  return {visitor.gathered.high_water(), visitor.gradients.high_water(), visitor.all_gather,
          visitor.reduce_scatter, visitor.all_reduce};
}

}  // namespace detail

/// What `Trainer`, a `Sharded<...>`, will hold and send with `world` ranks. A constant expression
/// where the configuration is one: a job that would not fit does not build.
///
///   static_assert(sx::plan<Trainer>(config, 8).device_peak_bytes < 80_GiB);
///
/// Errors:  throws ConfigError as `Layout` does.
/// Cost:    linear in the number of units; touches no memory of the model.
template <class Trainer>
constexpr Plan plan(const typename Trainer::Model::Config& config,
                    std::size_t world) requires(!requires { Trainer::is_refused; }) {
  using Model = typename Trainer::Model;
  using Strategy = typename Trainer::Strategy;
  using Sharding = typename Strategy::sharding;
  using Precision = typename Strategy::precision;

  const Layout<Model> layout{config, world};
  const detail::StepCounts step = detail::count_step<Strategy>(layout);
  const auto held = [&](bool sharded) {
    return sharded ? layout.shard_elements() : layout.full_elements();
  };

  Plan plan;
  plan.world = world;
  plan.parameter_count = layout.parameter_count();
  plan.parameters_bytes = held(Sharding::parameters) * sizeof(typename Precision::storage);
  plan.gradients_bytes = held(Sharding::gradients) * sizeof(typename Precision::reduce);
  plan.optimizer_bytes = held(Sharding::optimizer) * Strategy::optimizer::moments *
                         sizeof(typename Precision::optimizer);
  plan.gathered_bytes = step.gathered_elements * sizeof(typename Precision::compute);
  if (Strategy::communicator::gather_is_shared) plan.gathered_bytes /= world;
  plan.full_gradients_bytes = step.gradients_elements * sizeof(typename Precision::reduce);
  plan.activations_bytes = activation_bytes<Model, typename Precision::compute>(config).total();
  plan.other_bytes = (1 + world) * sizeof(StepSummary);

  plan.device_resident_bytes = plan.parameters_bytes + plan.gradients_bytes + plan.optimizer_bytes;
  plan.device_peak_bytes = plan.device_resident_bytes + plan.gathered_bytes +
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
constexpr Plan plan(const typename Trainer::Model::Config&, std::size_t) requires requires {
  Trainer::is_refused;
}
{ return {}; }

}  // namespace shardexpr
