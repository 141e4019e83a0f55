// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/engine/check.hpp>
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/guards.hpp>
#include <shardexpr/engine/not_finite.hpp>
#include <shardexpr/engine/own_loop.hpp>
#include <shardexpr/engine/passes.hpp>
#include <shardexpr/engine/step_result.hpp>
#include <shardexpr/engine/summary.hpp>
#include <shardexpr/engine/summoned_group.hpp>
#include <shardexpr/engine/swap_state.hpp>
#include <shardexpr/engine/trainer_access.hpp>
#include <shardexpr/engine/wrong_call.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/optim/learning_rate.hpp>
#include <shardexpr/optim/parameter_groups.hpp>
#include <shardexpr/plan/plan.hpp>
#include <shardexpr/plan/schedule.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace shardexpr {

/// Trains `M` by strategy `S`; one object a rank. Users write `Sharded<Model, Policies...>`, which
/// is this in normal form. What a rank holds and sends is told beforehand by `plan`.
///
/// Order:   construction and every verb are collective: all ranks call them, in the same order.
///          When a verb returns, its work is done.
/// Errors:  ConfigError for a configuration that cannot be laid out; CommError if a rank left. The
///          trainer is then of no further use.
/// Cost:    all memory is allocated by the constructor, and a step allocates nothing; the
///          matrix library of a unit may: Eigen without OpenBLAS packs into memory of its own.
template <class M, class S>
class sharded {
  using Comm = typename S::communicator;
  using Core = detail::Core<M, S>;
  using Loop = detail::OwnLoop<M, S>;
  using Summoned = detail::SummonedGroup<M, S>;

 public:
  using Model = M;
  using Strategy = S;
  using Config = typename M::Config;
  using Batch = typename M::Batch;
  using Device = typename S::device;
  using Storage = typename S::precision::storage;
  using Compute = typename S::precision::compute;
  using Gradient = typename S::precision::reduce;  ///< of full gradients
  /// Full parameters and full gradients of a unit, by the unit's names.
  template <class Unit>
  using Parameters = typename detail::Passes<M, S>::template Parameters<Unit>;
  template <class Unit>
  using Gradients = typename detail::Passes<M, S>::template Gradients<Unit>;

  /// What is given at run time.
  struct Options {
    typename S::optimizer::Options optimizer{};
    typename S::clipping::Options clipping{};
    typename S::loss_scale::Options loss_scale{};
    std::uint64_t seed = 1;         ///< of the initial parameters and of RoundStochastic
    std::size_t micro_batches = 1;  ///< of a step; their gradients are averaged
    /// Of the parameters that are described `in_group`.
    std::array<GroupOptions, max_parameter_groups> groups = standard_groups;
    LearningRateSchedule schedule{};  ///< constant
    /// Where state on NVMe lies, for strategies that have such; `NvmeOptions` then.
    [[no_unique_address]] detail::SwapOptions<S> nvme{};
  };

  /// Refuses options that a policy refuses, as the constructor does, before anything is made.
  /// Errors:  ConfigError, one line that names policy, option, value and range.
  static void check(const Options& options) {
    detail::check_options<typename S::optimizer>(options.optimizer);
    detail::check_options<typename S::clipping>(options.clipping);
    detail::check_options<typename S::loss_scale>(options.loss_scale);
    detail::check_groups<typename S::optimizer::Options>(options.groups);
    if constexpr (detail::is_on_disk<S>)
      if (options.nvme.directory.empty())
        throw ConfigError(
            "Options::nvme.directory is empty: the strategy keeps state on NVMe; name a directory "
            "on that disk");
  }

  /// Makes this rank's part of the model; no rank holds the whole unless the strategy says so.
  ///
  /// Errors:  ConfigError for options that the optimizer refuses, and where the plan needs more
  ///          memory than a device tells that it has, before anything is allocated; for factors of
  ///          a group that nothing which is trained belongs to.
  sharded(Device& device, Comm& comm, const Config& config, const Options& options = {})
      : config_{config},
        options_{checked(options)},
        core_{device, comm, config, options.micro_batches, options.nvme},
        schedule_{core_.layout},
        passes_{core_, config_, options.micro_batches, options.seed},
        summary_{core_, comm.size()},
        loop_{core_, passes_, options.micro_batches},
        scaler_{options.loss_scale} {
    detail::check_groups_are_trained(options.groups, core_.layout);
    detail::initialize_memory(core_, options.seed);
    if constexpr (detail::is_on_disk<S>) detail::initialize_swap(core_, options.seed);
  }
  sharded(const sharded&) = delete;  // members point into it
  sharded& operator=(const sharded&) = delete;
  ~sharded() { core_.timeline.drain(); }

  /// One optimizer step: forward and backward of each of this rank's micro-batches, then the
  /// update. The loss is the mean over ranks and micro-batches, and so is the gradient.
  ///
  /// Shapes:  as many batches as `Options::micro_batches` says.
  /// Errors:  ConfigError for another number, while a guard is alive, or while gradients that
  ///          `open_gradients` opened wait for `apply`. NotFiniteError, with the parameter's name,
  ///          on every rank alike, if gradients are not finite and no loss scale says to skip such
  ///          a step; nothing is updated then and the trainer can go on.
  [[nodiscard]] StepResult step(std::span<const Batch> batches) {
    loop_.check_idle("step");
    loop_.check_no_gradients();
    detail::check_batches(batches.size(), options_.micro_batches);
    const detail::Drain drain{core_.timeline};
    // The mean over micro-batches, scaled.
    using Loss = typename detail::Summary<M, S>::Loss;
    const Loss seed = static_cast<Loss>(loss_scale()) / static_cast<Loss>(batches.size());
    for (std::size_t m = 0; m < batches.size(); ++m) {
      passes_.batch = &batches[m];
      passes_.micro = m;
      schedule_.forward(passes_);
      summary_.add_loss(passes_.workspace, m);
      summary_.seed_backward(passes_.workspace, seed);
      schedule_.backward(passes_, m + 1 == batches.size());
    }
    return finish_step(static_cast<double>(options_.micro_batches));
  }
  /// A step of one micro-batch.
  [[nodiscard]] StepResult step(const Batch& batch) { return step(std::span{&batch, 1}); }

  /// The mean loss over the ranks' batches; parameters stay as they are.
  [[nodiscard]] double evaluate(const Batch& batch) {
    loop_.check_idle("evaluate");
    const detail::Drain drain{core_.timeline};
    passes_.batch = &batch;
    schedule_.evaluate(passes_);
    summary_.add_loss(passes_.workspace, 0);
    summary_.conclude(1, 1, options_.clipping);
    core_.timeline.synchronize();
    return summary_.outcome().loss;
  }

  /// Shows every rank all parameters in memory of the host: `visit(name, Tensor<const Storage>)`,
  /// in the order of the units, a tied one once. A view is valid during its call alone.
  ///
  /// Errors:  ConfigError while a guard is alive. What `visit` throws passes through; if every rank
  ///          throws there, the trainer can go on.
  /// Cost:    each group is gathered once; nothing is allocated, but where units compute in another
  ///          dtype, with quantized weights, or where the host cannot reach the device, memory for
  ///          the largest group while it runs.
  template <class Visit>
  void summon(Visit visit) {
    loop_.check_idle("summon");
    const detail::Drain drain{core_.timeline};
    // Where units compute with something else than what is kept.
    if constexpr (detail::computes_with_copy<typename S::precision> ||
                  S::weight_compression::bits != 0 || !detail::shares_memory<S>) {
      summon_apart<const Storage>(/*shows=*/true, visit, [](auto&) {});
    } else {
      typename Loop::GroupsHeld held{loop_};
      for_each_unit([&]<class Unit>(std::size_t u) {
        held.enter(u);
        show<Unit, const Storage>(
            u, [&](std::size_t f) { return passes_.parameters.flat(f); }, visit);
        held.leave(u);
      });
    }
  }
  /// Lets one rank change parameters: `visit(name, Tensor<Storage>)` is called on that rank alone,
  /// in the order of the units, and what it leaves there becomes every rank's. Moments of the
  /// optimizer stay as they are.
  ///
  /// Errors:  ConfigError if there is no such rank, or while a guard is alive. What `visit` throws
  ///          passes through in its rank; the others then wait for what does not come, and the
  ///          communicator ends them.
  /// Cost:    a gather and a broadcast of the model; memory for its largest group while it runs.
  template <class Visit>
  void summon(WriteFrom from, Visit visit) {
    loop_.check_idle("summon");
    Comm& world = core_.mesh.world();
    detail::check_writer(from.rank, world.size());
    const detail::Drain drain{core_.timeline};
    summon_apart<Storage>(world.rank() == from.rank, visit,
                          [&](Summoned& group) { group.spread(from.rank); });
  }

  /// Shows this rank's buffers in memory of the host: `visit(name, Tensor<B>)`, in the order of the
  /// units, B the precision's `buffers`. They are the rank's own and may be changed. A view is
  /// valid during its call alone.
  ///
  /// Order:   not collective.
  template <class Visit>
  void for_each_buffer(Visit visit) {
    for_each_unit([&]<class Unit>(std::size_t u) {
      passes_.buffers.template show<Unit>(core_, config_, u, visit);
    });
  }

  // A loop of one's own -------------------------------------------------------------------------

  /// The full parameters of the i-th `Unit`, until the guard's scope is left: the way to them for
  /// whoever keeps their own control flow.
  ///
  ///   auto w = trainer.gather<Block>(3);   // w->weight
  ///
  /// With quantized weights they are rounded, as units compute with them.
  ///
  /// Order:   collective; leaving the scope is not.
  /// Errors:  ConfigError if there is no such unit, or if more is held than the strategy plans for:
  ///          the memory is that of a step. The trainer can go on.
  /// Cost:    a gather, none if the unit is held already or the sharding keeps parameters whole;
  ///          nothing is allocated.
  template <class Unit>
  [[nodiscard]] Gathered<sharded, Unit> gather(std::size_t i = 0) {
    return loop_.template gather<sharded, Unit>(i);
  }
  /// The full gradients of the i-th `Unit`: zero when a group's first unit opens them, then what
  /// was added. `reduce` ends a unit's turn, in backward order.
  ///
  /// With several micro-batches each unit is reduced in each, and the reductions add up; with
  /// ReduceAtEnd only in the last, and `open_gradients` gives the same memory until then. Gradients
  /// are to be of the mean over micro-batches: start backward from
  /// loss_scale() / micro_batches.
  ///
  /// Order:   on every rank alike; `reduce` is collective.
  /// Errors:  ConfigError if there is no such unit, if it was reduced as often as a step does, or
  ///          if more is open than the strategy plans for.
  template <class Unit>
  [[nodiscard]] OpenGradients<sharded, Unit> open_gradients(std::size_t i = 0) {
    return loop_.template open_gradients<sharded, Unit>(i);
  }
  /// The buffers of the i-th `Unit`, this rank's own, for passes of one's own.
  /// Errors:  ConfigError if there is no such unit.
  template <class Unit>
  auto buffers(std::size_t i = 0) {
    return passes_.buffers.template bind<Unit, Tensor<typename S::precision::buffers>>(
        loop_.template unit_of<Unit>("buffers", i));
  }
  /// Updates all parameters with the gradients that were reduced. `loss` is this rank's, the mean
  /// over its micro-batches; the result holds the mean over the ranks.
  ///
  /// Errors:  ConfigError if a unit that has something to train was not reduced since the last
  ///          update, which it names, or while a guard is alive. NotFiniteError as `step`.
  [[nodiscard]] StepResult apply(double loss) {
    loop_.check_idle("apply");
    loop_.end_step();
    const detail::Drain drain{core_.timeline};
    summary_.set_loss(loss);
    return finish_step(1);
  }
  /// Forgets all gradients that were opened or reduced since the last update, instead of `apply`:
  /// to leave out a step whose loss is not finite, say.
  /// Order:   on every rank alike.
  void drop_gradients() { loop_.drop_gradients(); }
  /// Where the work of such a loop is enqueued.
  Context<Device> context() { return core_.timeline.context(detail::compute_stream); }

  /// Where every parameter lies in the shards.
  const Layout<M>& layout() const { return core_.layout; }
  /// How the ranks are arranged.
  const MeshShape& mesh() const { return core_.mesh.shape(); }
  /// What it was made with.
  const Config& config() const { return config_; }
  /// What it was made with; `set_learning_rate` changes the optimizer's.
  const Options& options() const { return options_; }
  /// The rate of the next step: the optimizer's, times the schedule's factor, times the group's.
  /// Errors:  ConfigError if there is no such group.
  float learning_rate(std::size_t group = 0) const {
    detail::check_group_exists(group);
    return static_cast<float>(options_of_group(group, steps_ + 1).learning_rate);
  }
  /// What schedule and groups scale. Takes effect in the next step; the same on every rank.
  /// Errors:  ConfigError for a rate that the optimizer refuses; the old one stays.
  void set_learning_rate(float rate) {
    Options changed = options_;
    changed.optimizer.learning_rate = rate;
    options_ = checked(changed);
  }
  /// Optimizer steps taken.
  std::size_t steps() const { return steps_; }
  /// By what the next step multiplies its loss; 1 without a loss scale.
  float loss_scale() const { return scaler_.scale(); }
  /// What this rank sent since it was made, through every communicator of its mesh.
  Traffic traffic() const { return core_.mesh.traffic(); }
  /// What this rank moved between device, host and disk since it was made.
  TransferBytes transfers() const {
    TransferBytes moved = core_.moved;
    if constexpr (detail::is_on_disk<S>) {
      moved.nvme_read_bytes = core_.swap.file().bytes_read();
      moved.nvme_written_bytes = core_.swap.file().bytes_written();
    }
    return moved;
  }
  /// Bytes of this rank's file; 0 without one.
  std::size_t nvme_bytes() const {
    if constexpr (detail::is_on_disk<S>)
      return core_.swap.layout().size_bytes();
    else
      return 0;
  }

 private:
  friend struct detail::TrainerAccess;
  template <std::size_t St>
  using UnitAt = typename M::Units::template Unit<St>;

  template <class Visit>
  void for_each_unit(Visit visit) {
    Layout<M>::for_each_stage([&]<std::size_t St>() {
      for (std::size_t i = 0; i < core_.layout.count(St); ++i)
        visit.template operator()<UnitAt<St>>(core_.layout.first_unit(St) + i);
    });
  }

  template <class Unit, class T, class Flat, class Visit>
  void show(std::size_t u, Flat flat, Visit& visit) {
    for (const ParameterLayout& parameter : core_.layout.unit(u).parameters)
      if (!parameter.is_tied)
        visit(parameter_name<Unit>(core_.layout.unit(u).index, parameter.spec),
              Tensor<T>{flat(parameter.flat) + parameter.offset, parameter.spec.shape});
  }
  /// Shows the parameters in memory of their own, group by group; `last` is called with each group
  /// before it goes.
  template <class T, class Visit, class Last>
  void summon_apart(bool shows, Visit& visit, Last last) {
    std::vector<std::optional<Summoned>> groups(core_.layout.group_count());
    for_each_unit([&]<class Unit>(std::size_t u) {
      const std::size_t g = core_.layout.unit(u).group;
      if (!groups[g]) groups[g].emplace(core_, g, shows);
      if (shows)
        show<Unit, T>(
            u, [&](std::size_t f) { return groups[g]->shown(f).data(); }, visit);
      if (!core_.layout.ends_group(u)) return;
      last(*groups[g]);
      groups[g].reset();
    });
  }

  static const Options& checked(const Options& options) {
    check(options);
    return options;
  }

  typename S::optimizer::Options options_of_group(std::size_t k, std::size_t step) const {
    return detail::options_of_group(options_.optimizer, options_.groups[k],
                                    options_.schedule.factor(step));
  }

  /// `losses`: how many were added up. The host waits at the end alone: what is decided on the way
  /// is decided on the device.
  StepResult finish_step(double losses) {
    const float scale = loss_scale();
    if constexpr (detail::is_on_disk<S>) core_.swap.file().check();
    summary_.add_squares(passes_.gradients);
    summary_.conclude(losses, scale, options_.clipping);
    for (std::size_t k = 0; k < options_.groups.size(); ++k)
      passes_.updates[k].emplace(options_of_group(k, steps_ + 1), steps_ + 1);
    passes_.rounding.emplace(options_.seed, steps_ + 1);
    passes_.control = summary_.await_control();
    passes_.host_control = summary_.await_control_on_host();
    schedule_.update(passes_);
    core_.timeline.synchronize();
    const StepOutcome& outcome = summary_.outcome();
    const bool is_skipped = outcome.control.skips != 0;
    if (is_skipped && !S::loss_scale::skips)
      detail::refuse_gradients(steps_ + 1, detail::parameter_not_finite(core_));
    if (!is_skipped) ++steps_;
    scaler_.update(!is_skipped);
    return {outcome.loss, outcome.norm, is_skipped, scale};
  }

  Config config_;
  Options options_;
  Core core_;
  Schedule<S, M> schedule_;
  detail::Passes<M, S> passes_;
  detail::Summary<M, S> summary_;
  Loop loop_;
  typename S::loss_scale::Scaler scaler_;
  std::size_t steps_ = 0;
};

}  // namespace shardexpr
