// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/buffer_state.hpp>
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/full_gradients.hpp>
#include <shardexpr/engine/gathered_parameters.hpp>
#include <shardexpr/engine/offloaded_update.hpp>
#include <shardexpr/engine/workspace.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/optim/optimizers.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

namespace shardexpr::detail {

/// The visitor of `Schedule` that trains: what a step does to groups and units.
template <class M, class S>
class Passes {
  using Core = detail::Core<M, S>;
  using Needs = typename Core::Needs;
  using Device = typename Core::Device;
  using Sharding = typename S::sharding;
  using Compute = typename S::precision::compute;
  using Gradient = typename S::precision::reduce;
  template <std::size_t St>
  using UnitAt = typename M::Units::template Unit<St>;

 public:
  template <class Unit>
  using Parameters = typename Unit::template Params<Tensor<const Compute>>;
  template <class Unit>
  using Gradients = typename Unit::template Params<Tensor<Gradient>>;

  Passes(Core& core, const typename M::Config& config, std::size_t micro_batches,
         std::uint64_t seed)
      : parameters{core},
        gradients{core, micro_batches},
        workspace{*core.device, config, core.layout},
        buffers{core, config, seed},
        update_{core},
        core_{&core},
        config_{&config},
        micro_batches_{micro_batches} {}

  const typename M::Batch* batch = nullptr;  // of the pass
  std::size_t micro = 0;                     // which micro-batch that is
  std::array<std::optional<typename S::optimizer::Update>, max_parameter_groups> updates;  // now
  std::optional<typename S::rounding::Rounding> rounding;  // of what they write
  const UpdateControl* control = nullptr;                  // of those updates, on the device
  const UpdateControl* host_control = nullptr;             // and on the host, which updates, too
  GatheredParameters<M, S> parameters;
  FullGradients<M, S> gradients;
  Workspace<M, Compute, Device, typename S::recompute> workspace;
  BufferState<M, S> buffers;

  void gather(std::size_t g) { parameters.gather(g); }
  void keep(std::size_t g) { parameters.keep(g); }
  void regather(std::size_t g) { parameters.regather(g); }
  void release(std::size_t g) { parameters.release(g); }
  void open_gradients(std::size_t g) { gradients.open(g); }
  void reduce(std::size_t g) {
    gradients.reduce(g, S::accumulation::reduce_each && micro > 0, micro + 1 == micro_batches_,
                     computed_);
  }
  void replicate(std::size_t g) { gradients.replicate(g); }
  void close_gradients(std::size_t g) { gradients.close(g); }

  template <std::size_t St>
  void forward(std::size_t u) {
    run_forward<UnitAt<St>>("forward", u, false);
  }
  template <std::size_t St>
  void rebuild(std::size_t u) {
    run_forward<UnitAt<St>>("rebuild", u, true);
  }
  template <std::size_t St>
  void backward(std::size_t u) {
    using U = UnitAt<St>;
    BackwardIn<U, Device, typename S::precision> pass{begin("backward", u), *config_, *batch};
    pass.w = bind_parameters<U>(u);
    pass.dw = bind_gradients<U>(u);
    pass.in = workspace.template inputs<U, ConstTensor>(u);
    pass.dout = workspace.template output_gradients<U, ConstTensor>(u);
    pass.din = workspace.template input_gradients<U, Tensor>(u);
    pass.saved = workspace.template saved<U, Tensor>(u);
    pass.scratch = workspace.template scratch<U, Tensor>(u);
    pass.buffers = buffers.template bind<U, Tensor<const typename S::precision::buffers>>(u);
    U::backward(pass);
    computed_ = core_->timeline.mark(compute_stream);  // what is released later need not be awaited
  }
  void update(std::size_t g) {
    if constexpr (is_offloaded<S>) return update_.update(g, *this);
    const Context<Device> on = core_->begin(compute_stream, {"update", g});
    core_->layout.for_each_trained_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      const auto all = core_->state.operands(f);
      for (std::size_t k = 0; k < updates.size(); ++k) {
        const auto run = flat.run(k, core_->state.updated_from(f), all.parameters.size());
        if (run.count != 0)
          apply_update(on, *updates[k], *rounding, control, all.part(run.first, run.count));
      }
    });
  }
  void publish(std::size_t g) {
    core_->timeline.order(comm_stream, core_->timeline.mark(compute_stream));
    if constexpr (optimizer_place<S> != Place::device)
      core_->timeline.order(comm_stream, core_->timeline.mark(up_stream));
    const Context<Device> on = core_->begin(comm_stream, {"publish", g});
    core_->layout.for_each_flat(g, [&](std::size_t f, const FlatLayout& flat) {
      if (is_published<S>(flat))
        core_->mesh.shard().all_gather(on,
                                       std::span<const Compute>{core_->state.updated_parameters(f)},
                                       core_->state.parameters(f));
    });
  }

  template <class U>
  Parameters<U> bind_parameters(std::size_t u) const {
    return bind<U, const Compute>(u, [&](std::size_t f) { return parameters.flat(f); });
  }
  template <class U>
  Gradients<U> bind_gradients(std::size_t u) const {
    return bind<U, Gradient>(u, [&](std::size_t f) { return gradients.flat(f).data(); });
  }

 private:
  template <class U>
  void run_forward(std::string_view what, std::size_t u, bool is_rebuild) {
    ForwardIn<U, Device, typename S::precision> pass{begin(what, u), *config_, *batch};
    pass.w = bind_parameters<U>(u);
    pass.in = workspace.template inputs<U, ConstTensor>(u);
    pass.out = workspace.template outputs<U, Tensor>(u);
    pass.saved = workspace.template saved<U, Tensor>(u);
    pass.scratch = workspace.template scratch<U, Tensor>(u);
    pass.buffers = buffers.template bind<U, Tensor<typename S::precision::buffers>>(u);
    pass.is_rebuild = is_rebuild;
    U::forward(pass);
  }
  /// The compute stream, behind the gathers of what unit u computes with.
  Context<Device> begin(std::string_view what, std::size_t u) {
    Needs needs;
    for (std::size_t g : core_->layout.unit(u).touches) parameters.await(g, needs);
    core_->timeline.order(compute_stream, needs);
    return core_->begin(compute_stream, {what, u});
  }

  template <class U, class T, class Base>
  auto bind(std::size_t u, Base base) const {
    std::array<Tensor<T>, member_count<U>> views;
    const auto& of_unit = core_->layout.unit(u).parameters;
    for (std::size_t k = 0; k < views.size(); ++k) {
      T* flat = base(of_unit[k].flat);
      if (flat != nullptr) flat += of_unit[k].offset;
      views[k] = {flat, of_unit[k].spec.shape};
    }
    return from_array<typename U::template Params<Tensor<T>>>(views);
  }

  struct Nothing {
    explicit Nothing(Core&) {}
  };

  std::conditional_t<is_offloaded<S>, OffloadedUpdate<M, S>, Nothing> update_;
  Core* core_;
  const typename M::Config* config_;
  std::size_t micro_batches_;
  typename Core::Mark computed_;  // the last backward
};

}  // namespace shardexpr::detail
