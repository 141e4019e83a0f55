// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/engine/check.hpp>
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/full_gradients.hpp>
#include <shardexpr/engine/gathered_parameters.hpp>
#include <shardexpr/engine/guards.hpp>
#include <shardexpr/engine/step_result.hpp>
#include <shardexpr/engine/workspace.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/optim/adamw.hpp>
#include <shardexpr/optim/sgd.hpp>
#include <shardexpr/plan/plan.hpp>
#include <shardexpr/plan/schedule.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <vector>

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
  using Sharding = typename S::sharding;
  using Comm = typename S::communicator;
  using Update = typename S::optimizer::Update;
  using Core = detail::Core<M, S>;
  using Needs = typename Core::Needs;

 public:
  using Model = M;
  using Strategy = S;
  using Config = typename M::Config;
  using Batch = typename M::Batch;
  using Device = typename S::device;
  using Compute = typename S::precision::compute;
  using Gradient = typename S::precision::reduce;
  /// Full parameters and full gradients of a unit, by the unit's names.
  template <class Unit>
  using Parameters = typename Unit::template Params<Tensor<const Compute>>;
  template <class Unit>
  using Gradients = typename Unit::template Params<Tensor<Gradient>>;

  struct Options {
    typename S::optimizer::Options optimizer{};
    std::uint64_t seed = 1;         ///< of the initial parameters
    std::size_t micro_batches = 1;  ///< of a step; their gradients are averaged
  };

  /// Makes this rank's part of the model; no rank holds the whole unless the strategy says so.
  sharded(Device& device, Comm& comm, const Config& config, const Options& options = {})
      : config_{config},
        options_{options},
        core_{device, comm, config, options.micro_batches},
        schedule_{core_.layout},
        workspace_{device, config_, core_.layout},
        parameters_{core_},
        gradients_{core_, options.micro_batches},
        summaries_{device.template allocate<StepSummary>(1 + comm.size(), Purpose::other)},
        holders_(core_.layout.group_count()),
        reductions_(core_.layout.unit_count()) {
    for_each_unit(
        [&]<class Unit>(std::size_t u) { core_.state.template initialize<Unit>(u, options.seed); });
  }
  sharded(const sharded&) = delete;  // members point into it
  sharded& operator=(const sharded&) = delete;
  ~sharded() { core_.timeline.drain(); }

  /// One optimizer step: forward and backward of each of this rank's micro-batches, then the
  /// update. The loss is the mean over ranks and micro-batches, and so is the gradient.
  ///
  /// Shapes:  as many batches as `Options::micro_batches` says.
  /// Errors:  ConfigError for another number, while a guard is alive, or while gradients that
  ///          `open_gradients` opened wait for `apply`.
  [[nodiscard]] StepResult step(std::span<const Batch> batches) {
    check_idle("step");
    check_no_gradients();
    if (batches.size() != options_.micro_batches)
      throw ConfigError("step was given " + std::to_string(batches.size()) +
                        " micro-batches, Options::micro_batches says " +
                        std::to_string(options_.micro_batches));
    const Drain drain{core_.timeline};
    for (micro_ = 0; micro_ < batches.size(); ++micro_) {
      batch_ = &batches[micro_];
      schedule_.forward(*this);
      add_loss();
      seed_backward();
      schedule_.backward(*this, micro_ + 1 == batches.size());
    }
    return finish_step(options_.micro_batches);
  }
  [[nodiscard]] StepResult step(const Batch& batch) { return step(std::span{&batch, 1}); }

  /// The mean loss over the ranks' batches; parameters stay as they are.
  [[nodiscard]] double evaluate(const Batch& batch) {
    check_idle("evaluate");
    const Drain drain{core_.timeline};
    batch_ = &batch;
    micro_ = 0;
    schedule_.evaluate(*this);
    add_loss();
    return exchange_summary().loss;
  }

  /// Shows every rank all parameters: `visit(name, Tensor<const Compute>)`, in the order of the
  /// units, a tied one once. A view is valid during its call alone.
  ///
  /// Errors:  ConfigError while a guard is alive. What `visit` throws passes through; if every rank
  ///          throws there, the trainer can go on.
  /// Cost:    each group is gathered once; nothing is allocated.
  template <class Visit>
  void summon(Visit visit) {
    check_idle("summon");
    const Drain drain{core_.timeline};
    GroupsHeld held{*this};
    for_each_unit([&]<class Unit>(std::size_t u) {
      held.enter(u);
      show<Unit, const Compute>(u, visit);
      held.leave(u, [](std::size_t) {});
    });
  }
  /// Lets one rank change parameters: `visit(name, Tensor<Compute>)` is called on that rank alone,
  /// in the order of the units, and what it leaves there becomes every rank's. Moments of the
  /// optimizer stay as they are.
  ///
  /// Errors:  ConfigError if there is no such rank, or while a guard is alive. What `visit` throws
  ///          passes through in its rank; the others then wait for what does not come, and the
  ///          communicator ends them.
  /// Cost:    a broadcast of the model, and memory for its largest flat while it runs.
  template <class Visit>
  void summon(WriteFrom from, Visit visit) {
    check_idle("summon");
    Comm& world = core_.mesh.world();
    if (from.rank >= world.size())
      throw ConfigError("summon: WriteFrom{" + std::to_string(from.rank) + "} in a world of " +
                        std::to_string(world.size()) + " ranks: the last is " +
                        std::to_string(world.size() - 1));
    const Drain drain{core_.timeline};
    GroupsHeld held{*this};
    for_each_unit([&]<class Unit>(std::size_t u) {
      held.enter(u);
      if (world.rank() == from.rank) show<Unit, Compute>(u, visit);
      held.leave(u, [&](std::size_t g) { write_back(g, from.rank); });
    });
  }

  // A loop of one's own -------------------------------------------------------------------------

  /// The full parameters of the i-th `Unit`, until the guard's scope is left: the way to them for
  /// whoever keeps their own control flow.
  ///
  ///   auto w = trainer.gather<Block>(3);   // w->weight
  ///
  /// Order:   collective; leaving the scope is not.
  /// Errors:  ConfigError if there is no such unit, or if more is held than the strategy plans for:
  ///          the memory is that of a step. The trainer can go on.
  /// Cost:    a gather, none if the unit is held already or the sharding keeps parameters whole;
  ///          nothing is allocated.
  template <class Unit>
  [[nodiscard]] Gathered<sharded, Unit> gather(std::size_t i = 0) {
    return {*this, unit_of<Unit>("gather", i)};
  }
  /// The full gradients of the i-th `Unit`: zero when a group's first unit opens them, then what
  /// was added. `reduce` ends a unit's turn, in backward order.
  ///
  /// With several micro-batches each unit is reduced in each, and the reductions add up; with
  /// ReduceAtEnd only in the last, and `open_gradients` gives the same memory until then. Gradients
  /// are to be of the mean over micro-batches: start backward from 1 / micro_batches.
  ///
  /// Order:   on every rank alike; `reduce` is collective.
  /// Errors:  ConfigError if there is no such unit, if it was reduced as often as a step does, or
  /// if
  ///          more is open than the strategy plans for.
  template <class Unit>
  [[nodiscard]] OpenGradients<sharded, Unit> open_gradients(std::size_t i = 0) {
    return {*this, unit_of<Unit>("open_gradients", i)};
  }
  /// Updates all parameters with the gradients that were reduced. `loss` is this rank's, the mean
  /// over its micro-batches; the result holds the mean over the ranks.
  ///
  /// Errors:  ConfigError if a unit that has something to train was not reduced since the last
  ///          update, which it names, or while a guard is alive.
  [[nodiscard]] StepResult apply(double loss) {
    check_idle("apply");
    const std::string missing = names_of([&](std::size_t u) {
      return !core_.layout.unit(u).trains.empty() && reductions_[u] < reductions_a_step();
    });
    if (!missing.empty())
      throw ConfigError("apply: gradients were not opened and reduced " +
                        (reductions_a_step() == 1
                             ? std::string{}
                             : std::to_string(reductions_a_step()) + " times ") +
                        "since the last update, of " + missing);
    std::fill(reductions_.begin(), reductions_.end(), std::size_t{0});
    const Drain drain{core_.timeline};
    const Context<Device> on = context();
    const std::span<StepSummary> mine = summaries_.span().first(1);
    on.run(reads(), writes(mine), [=] { mine[0] = {ExactSum{}, loss}; });
    return finish_step(1);
  }
  /// Forgets all gradients that were opened or reduced since the last update, instead of `apply`:
  /// to leave out a step whose loss is not finite, say.
  /// Order:   on every rank alike.
  void drop_gradients() {
    for (std::size_t g = 0; g < core_.layout.group_count(); ++g)
      if (gradients_.is_open(g)) gradients_.discard(g);
    core_.timeline.synchronize();  // what was reduced may still be averaged over the copies
    std::fill(reductions_.begin(), reductions_.end(), std::size_t{0});
  }
  /// Where the work of such a loop is enqueued.
  Context<Device> context() { return core_.timeline.context(detail::compute_stream); }

  const Layout<M>& layout() const { return core_.layout; }
  const MeshShape& mesh() const { return core_.mesh.shape(); }
  const Config& config() const { return config_; }
  const Options& options() const { return options_; }
  /// Takes effect in the next step; the same on every rank.
  void set_learning_rate(float rate) { options_.optimizer.learning_rate = rate; }
  /// Optimizer steps taken.
  std::size_t steps() const { return steps_; }
  /// What this rank sent since it was made, through every communicator of its mesh.
  Traffic traffic() const { return core_.mesh.traffic(); }

 private:
  friend class Schedule<S, M>;
  template <class, class>
  friend class Gathered;
  template <class, class>
  friend class OpenGradients;
  template <std::size_t St>
  using UnitAt = typename M::Units::template Unit<St>;
  using Saved = detail::Workspace<M, Compute, Device, typename S::recompute>;

  /// When an exception leaves a verb, nothing may run on that points to what the caller owns.
  struct Drain {
    typename Core::Timeline& timeline;
    int exceptions = std::uncaught_exceptions();
    explicit Drain(typename Core::Timeline& t) : timeline{t} {}
    Drain(const Drain&) = delete;
    Drain& operator=(const Drain&) = delete;
    ~Drain() {
      if (std::uncaught_exceptions() > exceptions) timeline.drain();
    }
  };

  template <class Visit>
  void for_each_unit(Visit visit) {
    Layout<M>::for_each_stage([&]<std::size_t St>() {
      for (std::size_t i = 0; i < core_.layout.count(St); ++i)
        visit.template operator()<UnitAt<St>>(core_.layout.first_unit(St) + i);
    });
  }

  // What the schedule asks for ----------------------------------------------------------------

  void gather(std::size_t g) { parameters_.gather(g); }
  void keep(std::size_t g) { parameters_.keep(g); }
  void regather(std::size_t g) { parameters_.regather(g); }
  void release(std::size_t g) { parameters_.release(g); }
  void open_gradients(std::size_t g) { gradients_.open(g); }
  void reduce(std::size_t g) { gradients_.reduce(g, S::accumulation::reduce_each && micro_ > 0); }
  void replicate(std::size_t g) { gradients_.replicate(g); }
  void close_gradients(std::size_t g) { gradients_.close(g); }

  template <std::size_t St>
  void forward(std::size_t u) {
    run_forward<UnitAt<St>>("forward", u);
  }
  template <std::size_t St>
  void rebuild(std::size_t u) {
    run_forward<UnitAt<St>>("rebuild", u);
  }
  template <class U>
  void run_forward(std::string_view what, std::size_t u) {
    Forward<U, Device, Compute> pass{begin(what, u), config_, *batch_};
    pass.w = bind_parameters<U>(u);
    pass.in = workspace_.template inputs<U, ConstTensor>(u);
    pass.out = workspace_.template outputs<U, Tensor>(u);
    pass.saved = workspace_.template saved<U, Tensor>(u);
    pass.scratch = workspace_.template scratch<U, Tensor>(u);
    U::forward(pass);
  }
  template <std::size_t St>
  void backward(std::size_t u) {
    using U = UnitAt<St>;
    Backward<U, Device, Compute, Gradient> pass{begin("backward", u), config_, *batch_};
    pass.w = bind_parameters<U>(u);
    pass.dw = bind_gradients<U>(u);
    pass.in = workspace_.template inputs<U, ConstTensor>(u);
    pass.dout = workspace_.template output_gradients<U, ConstTensor>(u);
    pass.din = workspace_.template input_gradients<U, Tensor>(u);
    pass.saved = workspace_.template saved<U, Tensor>(u);
    pass.scratch = workspace_.template scratch<U, Tensor>(u);
    U::backward(pass);
  }
  /// The compute stream, behind the gathers of what unit u computes with.
  Context<Device> begin(std::string_view what, std::size_t u) {
    Needs needs;
    for (std::size_t g : core_.layout.unit(u).touches) parameters_.await(g, needs);
    core_.timeline.order(detail::compute_stream, needs);
    const Context<Device> on = context();
    on.device.annotate(on.stream, {what, u});
    return on;
  }

  void update(std::size_t g) {
    const Context<Device> on = context();
    on.device.annotate(on.stream, {"update", g});
    core_.layout.for_each_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      if (flat.is_trainable)
        apply_update(on, *update_, core_.state.updated_parameters(f),
                     std::span<const Gradient>{core_.state.updated_gradients(f)},
                     core_.state.moments(f));
    });
  }
  void publish(std::size_t g) {
    core_.timeline.order(detail::comm_stream, core_.timeline.mark(detail::compute_stream));
    const Context<Device> on = core_.timeline.context(detail::comm_stream);
    on.device.annotate(on.stream, {"publish", g});
    core_.layout.for_each_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      if (flat.is_trainable && (!Sharding::parameters || flat.is_persistent))
        core_.mesh.shard().all_gather(on,
                                      std::span<const Compute>{core_.state.updated_parameters(f)},
                                      core_.state.parameters(f));
    });
  }

  template <class U>
  Parameters<U> bind_parameters(std::size_t u) const {
    return bind<U, const Compute>(u, [&](std::size_t f) { return parameters_.flat(f); });
  }
  template <class U>
  Gradients<U> bind_gradients(std::size_t u) const {
    return bind<U, Gradient>(u, [&](std::size_t f) { return gradients_.flat(f).data(); });
  }
  template <class U, class T, class Base>
  auto bind(std::size_t u, Base base) const {
    std::array<Tensor<T>, detail::member_count<U>> views;
    const auto& parameters = core_.layout.unit(u).parameters;
    for (std::size_t k = 0; k < views.size(); ++k) {
      T* flat = base(parameters[k].flat);
      if (flat != nullptr) flat += parameters[k].offset;
      views[k] = {flat, parameters[k].spec.shape};
    }
    return detail::from_array<typename U::template Params<Tensor<T>>>(views);
  }

  // Guards --------------------------------------------------------------------------------------

  void check_idle(const char* verb) const {
    if (guards_ != 0)
      throw ConfigError(std::string{verb} +
                        ": a guard of gather() is alive; leave its scope first");
  }
  void check_no_gradients() const {
    bool any = std::any_of(reductions_.begin(), reductions_.end(), [](auto n) { return n != 0; });
    for (std::size_t g = 0; g < core_.layout.group_count(); ++g) any = any || gradients_.is_open(g);
    if (any)
      throw ConfigError(
          "step: gradients of open_gradients() wait for apply(); call that first, or "
          "drop_gradients()");
  }
  template <class Unit>
  std::size_t unit_of(const char* verb, std::size_t i) const {
    static_assert(detail::holds_all<M>(detail::list<Unit>{}),
                  "the model holds no such unit: name one that stands in its Units");
    std::size_t u = no_unit, count = 0;
    Layout<M>::for_each_stage([&]<std::size_t St>() {
      if constexpr (std::is_same_v<UnitAt<St>, Unit>) {
        if (i >= count && i < count + core_.layout.count(St))
          u = core_.layout.first_unit(St) + (i - count);
        count += core_.layout.count(St);
      }
    });
    if (u == no_unit)
      throw ConfigError(std::string{verb} + ": there is no " + type_name<Unit>() + " number " +
                        std::to_string(i) + ", the model has " + std::to_string(count) +
                        ", counted from 0");
    return u;
  }
  /// `Mixer 0, Mixer 1, Decoder`: the units that `wanted(u)` says, as their user knows them.
  template <class Wanted>
  std::string names_of(Wanted wanted) const {
    std::string names;
    Layout<M>::for_each_stage([&]<std::size_t St>() {
      for (std::size_t i = 0; i < core_.layout.count(St); ++i) {
        if (!wanted(core_.layout.first_unit(St) + i)) continue;
        if (!names.empty()) names += ", ";
        names += type_name<UnitAt<St>>();
        if (core_.layout.count(St) > 1) names += " " + std::to_string(i);
      }
    });
    return names;
  }
  std::string name_of(std::size_t u) const {
    return names_of([&](std::size_t v) { return v == u; });
  }
  std::string names_in_group(std::size_t g) const {
    return names_of([&](std::size_t v) { return core_.layout.unit(v).group == g; });
  }
  template <class Unit>
  Parameters<Unit> enter(std::size_t u) {
    const auto& touches = core_.layout.unit(u).touches;
    std::size_t entered = 0;
    try {
      for (; entered < touches.size(); ++entered) enter_group(touches[entered]);
    } catch (...) {
      while (entered-- > 0) leave_group(touches[entered]);
      throw;
    }
    ++guards_;
    return bind_parameters<Unit>(u);
  }
  void leave(std::size_t u) noexcept {
    for (std::size_t g : core_.layout.unit(u).touches) leave_group(g);
    --guards_;
  }
  /// Gathers a group unless somebody holds it; the host may then read it.
  void enter_group(std::size_t g) {
    if constexpr (Sharding::parameters)
      if (core_.layout.group(g).gathered != 0 && holders_[g] == 0) {
        if (!parameters_.fits(g))
          throw ConfigError("gather: " + names_in_group(g) + " needs " +
                            std::to_string(core_.layout.group(g).gathered) +
                            " elements in one piece, " +
                            std::to_string(parameters_.free_elements()) +
                            " are free in all: leave the scope of another guard first");
        const Drain drain{core_.timeline};
        parameters_.gather(g);
        core_.timeline.synchronize(detail::comm_stream);
      }
    ++holders_[g];
  }
  void leave_group(std::size_t g) {
    if (--holders_[g] != 0) return;
    if constexpr (Sharding::parameters)
      if (core_.layout.group(g).gathered != 0) {
        Needs needs;
        parameters_.await(g, needs);
        core_.timeline.order(detail::compute_stream, needs);
        parameters_.release(g);
      }
  }
  /// The groups of units that are visited in order: each is entered with its first unit and left
  /// with its last, or when an exception passes.
  class GroupsHeld {
   public:
    explicit GroupsHeld(sharded& trainer) : trainer_{&trainer} {}
    GroupsHeld(const GroupsHeld&) = delete;
    GroupsHeld& operator=(const GroupsHeld&) = delete;
    ~GroupsHeld() {
      for (std::size_t g = 0; g < layout().group_count(); ++g)
        if (trainer_->holders_[g] != 0) trainer_->leave_group(g);  // nobody else holds any
    }
    void enter(std::size_t u) {
      const std::size_t g = layout().unit(u).group;
      if (trainer_->holders_[g] == 0) trainer_->enter_group(g);
    }
    template <class Last>
    void leave(std::size_t u, Last last) {
      const std::size_t g = layout().unit(u).group;
      for (std::size_t v = u + 1; v < layout().unit_count(); ++v)
        if (layout().unit(v).group == g) return;
      last(g);
      trainer_->leave_group(g);
    }

   private:
    const Layout<M>& layout() const { return trainer_->core_.layout; }
    sharded* trainer_;
  };

  /// How often a unit is reduced from one update to the next.
  std::size_t reductions_a_step() const {
    return S::accumulation::reduce_each ? options_.micro_batches : 1;
  }
  template <class Unit>
  Gradients<Unit> open(std::size_t u) {
    if (reductions_[u] == reductions_a_step())
      throw ConfigError("open_gradients: those of " + name_of(u) +
                        " are reduced already; call apply() or drop_gradients() first");
    for (std::size_t g : core_.layout.unit(u).trains)
      if (!gradients_.is_open(g)) {
        if (!gradients_.fits(g))
          throw ConfigError("open_gradients: those of " + names_in_group(g) +
                            " do not fit beside what is open: reduce another unit first");
        gradients_.open(g);
      }
    return bind_gradients<Unit>(u);
  }
  void reduce_after(std::size_t u) {
    const auto& trains = core_.layout.unit(u).trains;
    for (std::size_t g : trains) {
      if (!gradients_.is_open(g))
        throw ConfigError("reduce: the gradients of " + name_of(u) + " are not open any more");
      if (core_.layout.group(g).last_trained != u) continue;
      const std::string missing = names_of([&](std::size_t v) {
        const auto& also = core_.layout.unit(v).trains;
        return v != u && reductions_[v] <= reductions_[u] &&
               std::find(also.begin(), also.end(), g) != also.end();
      });
      if (!missing.empty())
        throw ConfigError("reduce: gradients of " + name_of(u) + " wait for " + missing +
                          ", which add to them: reduce in backward order");
    }
    const Drain drain{core_.timeline};
    const std::size_t before = reductions_[u]++;
    for (std::size_t g : trains)
      if (core_.layout.group(g).last_trained == u) {
        gradients_.reduce(g, before != 0);
        if constexpr (Core::stream_count > detail::copies_stream)
          if (reductions_[u] == reductions_a_step()) gradients_.replicate(g);
        gradients_.close(g);
      }
  }

  template <class Unit, class T, class Visit>
  void show(std::size_t u, Visit& visit) {
    for (const ParameterLayout& parameter : core_.layout.unit(u).parameters)
      if (!parameter.is_tied)
        visit(parameter_name<Unit>(core_.layout.unit(u).index, parameter.spec),
              Tensor<T>{parameters_.flat(parameter.flat) + parameter.offset, parameter.spec.shape});
  }
  /// Every rank takes what `root` has in the full parameters of a gathered group.
  void write_back(std::size_t g, std::size_t root) {
    core_.layout.for_each_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      // Of its own: the gathered parameters may be memory that several ranks share.
      auto copy = core_.device->template allocate<Compute>(flat.padded, Purpose::other);
      const std::span<const Compute> full{parameters_.flat(f), flat.padded};
      const Context<Device> on = core_.timeline.context(detail::comm_stream);
      on.device.annotate(on.stream, {"write back", g});
      if (core_.mesh.world().rank() == root) on.device.copy(on.stream, full, copy.span());
      core_.mesh.world().broadcast(on, copy.span(), root);
      const std::span<Compute> kept = core_.state.parameters(f);
      on.device.copy(on.stream,
                     kept.size() == flat.padded
                         ? std::span<const Compute>{copy.span()}
                         : core_.state.part_of(std::span<const Compute>{copy.span()}, f),
                     kept);
      core_.timeline.synchronize(detail::comm_stream);
    });
  }

  // Loss, norm, update --------------------------------------------------------------------------

  using Loss = Accumulate<Compute>;

  void add_loss() {
    const Loss* loss = workspace_.template loss<Loss>();
    const std::span<StepSummary> mine = summaries_.span().first(1);
    const Context<Device> on = context();
    if (micro_ == 0)
      on.run(reads(std::span{loss, 1}), writes(mine), [=] {
        mine[0] = {ExactSum{}, static_cast<double>(*loss)};
      });
    else
      on.run(reads(std::span{loss, 1}, mine), writes(mine),
             [=] { mine[0].loss += static_cast<double>(*loss); });
  }
  void seed_backward() {
    Loss* seed = workspace_.template loss_gradient<Loss>();
    const Loss value = Loss{1} / static_cast<Loss>(options_.micro_batches);
    context().run(reads(), writes(std::span{seed, 1}), [=] { *seed = value; });
  }

  /// `losses`: how many were added up.
  StepResult finish_step(std::size_t losses) {
    add_squares();
    const StepSummary total = exchange_summary();
    update_.emplace(options_.optimizer, ++steps_);
    schedule_.update(*this);
    core_.timeline.synchronize();
    return {total.loss / static_cast<double>(losses), std::sqrt(total.gradient_squares.value())};
  }
  void add_squares() {
    Needs needs;
    for (std::size_t g = 0; g < core_.layout.group_count(); ++g) gradients_.await(g, needs);
    core_.timeline.order(detail::compute_stream, needs);
    const Context<Device> on = context();
    on.device.annotate(on.stream, {"norm"});
    for (std::size_t f = 0; f < core_.layout.flat_count(); ++f)
      if (core_.layout.flat(f).is_trainable)
        on.device.sum_squares(
            on.stream, std::span<const Gradient>{core_.state.part_of(core_.state.gradients(f), f)},
            &summaries_.data()->gradient_squares);
  }
  /// Every rank learns the sum of all: the losses added in rank order, the squares exactly.
  StepSummary exchange_summary() {
    const std::span<StepSummary> mine = summaries_.span().first(1),
                                 all = summaries_.span().subspan(1);
    core_.timeline.order(detail::comm_stream, core_.timeline.mark(detail::compute_stream));
    const Context<Device> on = core_.timeline.context(detail::comm_stream);
    on.device.annotate(on.stream, {"summary"});
    core_.mesh.world().all_gather(on, std::as_bytes(std::span<const StepSummary>{mine}),
                                  std::as_writable_bytes(all));
    core_.timeline.synchronize(detail::comm_stream);
    StepSummary total;
    for (std::size_t r = 0; r < all.size(); ++r) {
      if (r < core_.mesh.shape().shards)  // the other copies' squares are the same
        total.gradient_squares.add(all[r].gradient_squares);
      total.loss += all[r].loss;
    }
    total.loss /= static_cast<double>(all.size());
    return total;
  }

  Config config_;
  Options options_;
  Core core_;
  Schedule<S, M> schedule_;
  Saved workspace_;
  detail::GatheredParameters<M, S> parameters_;
  detail::FullGradients<M, S> gradients_;
  typename Device::template Buffer<StepSummary> summaries_;  // this rank's, then every rank's
  const Batch* batch_ = nullptr;                             // during a pass
  std::size_t micro_ = 0;                                    // which micro-batch that is
  std::optional<Update> update_;
  std::size_t steps_ = 0;
  // Of a loop of one's own:
  std::vector<std::size_t> holders_;     // guards, by group
  std::vector<std::size_t> reductions_;  // since the last update, by unit
  std::size_t guards_ = 0;
};

}  // namespace shardexpr
