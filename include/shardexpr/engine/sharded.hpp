// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/engine/check.hpp>
#include <shardexpr/engine/gather_storage.hpp>
#include <shardexpr/engine/state.hpp>
#include <shardexpr/engine/step_result.hpp>
#include <shardexpr/engine/workspace.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/optim/adamw.hpp>
#include <shardexpr/optim/sgd.hpp>
#include <shardexpr/plan/plan.hpp>
#include <shardexpr/plan/schedule.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace shardexpr {

/// Trains `M` by strategy `S`; one object a rank. Users write `Sharded<Model, Policies...>`, which
/// is this in normal form. What a rank holds and sends is told beforehand by `plan`.
///
/// Order:   construction and every verb are collective: all ranks call them, in the same order.
/// Errors:  ConfigError for a configuration that cannot be laid out; CommError if a rank left. The
///          trainer is then of no further use.
/// Cost:    all memory is allocated by the constructor, and a step allocates nothing; the
///          matrix library of a unit may: Eigen without OpenBLAS packs into memory of its own.
template <class M, class S>
class sharded {
  using Sharding = typename S::sharding;
  using DeviceType = typename S::device;
  using Comm = typename S::communicator;
  using Update = typename S::optimizer::Update;
  using Compute = typename S::precision::compute;
  using Gradient = typename S::precision::reduce;

 public:
  using Model = M;
  using Strategy = S;
  using Config = typename M::Config;
  using Batch = typename M::Batch;

  struct Options {
    typename S::optimizer::Options optimizer{};
    std::uint64_t seed = 1;  ///< of the initial parameters
  };

  /// Makes this rank's part of the model; no rank holds the whole unless the strategy says so.
  sharded(DeviceType& device, Comm& comm, const Config& config, const Options& options = {})
      : context_{device, stream_},
        comm_{&comm},
        config_{config},
        options_{options},
        layout_{config, comm.size()},
        schedule_{layout_},
        counts_{detail::count_step<S>(layout_)},
        state_{device, layout_, comm.rank()},
        workspace_{device, config_, layout_},
        gathered_{device, comm, counts_.gathered_elements},
        full_gradients_{device.template allocate<Gradient>(counts_.gradients_elements,
                                                           Purpose::full_gradients)},
        gathered_map_{layout_.unit_count()},
        gradients_map_{layout_.unit_count()},
        gathered_at_(layout_.unit_count()),
        gradients_at_(layout_.unit_count()),
        summaries_{device.template allocate<StepSummary>(1 + comm.size(), Purpose::other)} {
    Layout<M>::for_each_stage([&]<std::size_t St>() {
      for (std::size_t i = 0; i < layout_.count(St); ++i)
        state_.template initialize<Unit<St>>(layout_.first_unit(St) + i, options.seed);
    });
  }
  sharded(const sharded&) = delete;  // members point into it
  sharded& operator=(const sharded&) = delete;

  /// One optimizer step: forward, backward and update on this rank's micro-batch.
  [[nodiscard]] StepResult step(const Batch& batch) {
    batch_ = &batch;
    schedule_.forward(*this);
    seed_backward();
    schedule_.backward(*this);
    const StepSummary total = exchange_summary(true);
    update_.emplace(options_.optimizer, ++steps_);
    schedule_.update(*this);
    context_.device.synchronize(stream_);
    return {total.loss, std::sqrt(total.gradient_squares.value())};
  }

  /// The mean loss over the ranks' batches; parameters stay as they are.
  [[nodiscard]] double evaluate(const Batch& batch) {
    batch_ = &batch;
    schedule_.forward(*this);
    schedule_.release_all(*this);
    return exchange_summary(false).loss;
  }

  /// Shows every rank all parameters: `visit(name, Tensor<const Compute>)`, in the order of the
  /// layout. A view is valid during its call alone.
  template <class Visit>
  void summon(Visit visit) {
    Layout<M>::for_each_stage([&]<std::size_t St>() {
      for (std::size_t i = 0; i < layout_.count(St); ++i) {
        const std::size_t u = layout_.first_unit(St) + i;
        if constexpr (Sharding::parameters) gather(u);
        context_.device.synchronize(stream_);
        for (const ParameterLayout& parameter : layout_.unit(u).parameters)
          if (!parameter.is_tied)
            visit(
                parameter_name<Unit<St>>(i, parameter.spec),
                Tensor<const Compute>{full_parameters(u) + parameter.offset, parameter.spec.shape});
        if constexpr (Sharding::parameters) release(u);
      }
    });
  }

  const Layout<M>& layout() const { return layout_; }
  const Options& options() const { return options_; }
  /// Takes effect in the next step; the same on every rank.
  void set_learning_rate(float rate) { options_.optimizer.learning_rate = rate; }
  /// Optimizer steps taken.
  std::size_t steps() const { return steps_; }

 private:
  friend class Schedule<S, M>;
  template <std::size_t St>
  using Unit = typename M::Units::template Unit<St>;

  // What the schedule asks for ----------------------------------------------------------------

  void gather(std::size_t u) {
    const UnitLayout& unit = layout_.unit(u);
    gathered_at_[u] = gathered_map_.allocate(unit.padded);
    comm_->gather(context_, std::span<const Compute>{state_.parameters(u)},
                  std::span{gathered_.data() + gathered_at_[u], unit.padded});
  }
  void release(std::size_t u) { gathered_map_.release(gathered_at_[u], layout_.unit(u).padded); }

  void open_gradients(std::size_t u) {
    if constexpr (Sharding::gradients)
      gradients_at_[u] = gradients_map_.allocate(layout_.unit(u).padded);
    context_.device.fill_zero(stream_, full_gradients(u));
  }
  void reduce(std::size_t u) {
    if constexpr (Sharding::optimizer)
      comm_->reduce_scatter(context_, std::span<const Gradient>{full_gradients(u)},
                            state_.updated_gradients(u), Reduction::mean);
    else
      comm_->all_reduce(context_, full_gradients(u), Reduction::mean);
    if constexpr (Sharding::gradients)
      gradients_map_.release(gradients_at_[u], layout_.unit(u).padded);
  }

  template <std::size_t St>
  void forward(std::size_t u) {
    using U = Unit<St>;
    Forward<U, DeviceType, Compute> pass{context_, config_, *batch_};
    pass.w =
        bind_parameters<U, const Compute>(u, [&](std::size_t t) { return full_parameters(t); });
    pass.in = workspace_.template inputs<U, ConstTensor>(u);
    pass.out = workspace_.template outputs<U, Tensor>(u);
    pass.saved = workspace_.template saved<U, Tensor>(u);
    pass.scratch = workspace_.template scratch<U, Tensor>(u);
    U::forward(pass);
  }
  template <std::size_t St>
  void backward(std::size_t u) {
    using U = Unit<St>;
    Backward<U, DeviceType, Compute, Gradient> pass{context_, config_, *batch_};
    pass.w =
        bind_parameters<U, const Compute>(u, [&](std::size_t t) { return full_parameters(t); });
    pass.dw =
        bind_parameters<U, Gradient>(u, [&](std::size_t t) { return full_gradients(t).data(); });
    pass.in = workspace_.template inputs<U, ConstTensor>(u);
    pass.dout = workspace_.template output_gradients<U, ConstTensor>(u);
    pass.din = workspace_.template input_gradients<U, Tensor>(u);
    pass.saved = workspace_.template saved<U, Tensor>(u);
    pass.scratch = workspace_.template scratch<U, Tensor>(u);
    U::backward(pass);
  }

  void update(std::size_t u) {
    apply_update(context_, *update_, state_.updated_parameters(u),
                 std::span<const Gradient>{state_.updated_gradients(u)}, state_.moments(u));
  }
  void publish(std::size_t u) {
    comm_->all_gather(context_, std::span<const Compute>{state_.updated_parameters(u)},
                      state_.parameters(u));
  }

  // Where things lie --------------------------------------------------------------------------

  const Compute* full_parameters(std::size_t u) const {
    if constexpr (Sharding::parameters)
      return gathered_.data() + gathered_at_[u];
    else
      return state_.parameters(u).data();
  }
  std::span<Gradient> full_gradients(std::size_t u) const {
    if constexpr (Sharding::gradients)
      return {full_gradients_.data() + gradients_at_[u], layout_.unit(u).padded};
    else
      return state_.gradients(u);
  }
  template <class U, class T, class Base>
  auto bind_parameters(std::size_t u, Base base) const {
    std::array<Tensor<T>, detail::member_count<U>> views;
    const auto& parameters = layout_.unit(u).parameters;
    for (std::size_t k = 0; k < views.size(); ++k)
      views[k] = {base(parameters[k].unit) + parameters[k].offset, parameters[k].spec.shape};
    return detail::from_array<typename U::template Params<Tensor<T>>>(views);
  }

  // Loss and norm -----------------------------------------------------------------------------

  using Loss = Accumulate<Compute>;

  void seed_backward() {
    Loss* seed = workspace_.template loss_gradient<Loss>();
    context_.run(reads(), writes(std::span{seed, 1}), [=] { *seed = 1; });
  }

  /// Every rank learns the sum of all: the losses added in rank order, the squares exactly.
  StepSummary exchange_summary(bool with_gradients) {
    const std::span<StepSummary> mine = summaries_.span().first(1),
                                 all = summaries_.span().subspan(1);
    const Loss* loss = workspace_.template loss<Loss>();
    context_.run(reads(std::span{loss, 1}), writes(mine), [=] {
      mine[0] = {ExactSum{}, static_cast<double>(*loss)};
    });
    if (with_gradients)
      for (std::size_t u = 0; u < layout_.unit_count(); ++u)
        context_.device.sum_squares(
            stream_, std::span<const Gradient>{state_.part_of(state_.gradients(u), u)},
            &mine[0].gradient_squares);
    comm_->all_gather(context_, std::as_bytes(std::span<const StepSummary>{mine}),
                      std::as_writable_bytes(all));
    context_.device.synchronize(stream_);
    StepSummary total;
    for (const StepSummary& summary : all) {
      total.gradient_squares.add(summary.gradient_squares);
      total.loss += summary.loss;
    }
    total.loss /= static_cast<double>(all.size());
    return total;
  }

  typename DeviceType::Stream stream_;
  Context<DeviceType> context_;
  Comm* comm_;
  Config config_;
  Options options_;
  Layout<M> layout_;
  Schedule<S, M> schedule_;
  detail::StepCounts counts_;  // how large the arenas below must be
  detail::State<S, M, DeviceType> state_;
  detail::Workspace<M, Compute, DeviceType> workspace_;
  detail::GatherStorage<S> gathered_;
  typename DeviceType::template Buffer<Gradient> full_gradients_;
  ArenaMap gathered_map_, gradients_map_;                // of the two buffers above, in elements
  std::vector<std::size_t> gathered_at_, gradients_at_;  // by unit, while gathered or open
  typename DeviceType::template Buffer<StepSummary> summaries_;  // this rank's, then every rank's
  const Batch* batch_ = nullptr;                                 // during a step
  std::optional<Update> update_;
  std::size_t steps_ = 0;
};

}  // namespace shardexpr
