// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/full_gradients.hpp>
#include <shardexpr/engine/single_work.hpp>
#include <shardexpr/engine/workspace.hpp>
#include <shardexpr/plan/step_summary.hpp>

#include <cstddef>
#include <span>

namespace shardexpr::detail {

/// Loss and norm of a step: what ranks tell each other beside parameters and gradients.
template <class M, class S>
class Summary {
  using Core = detail::Core<M, S>;
  using Needs = typename Core::Needs;
  using Device = typename Core::Device;
  using Compute = typename S::precision::compute;
  using Gradient = typename S::precision::gradient;
  using Saved = Workspace<M, Compute, Device, typename S::recompute>;
  using Clipping = typename S::clipping;
  static constexpr bool host_decides = optimizer_place<S> != Place::device;
  static constexpr bool comes_down = outcome_comes_down<S>;

 public:
  using Loss = Accumulate<Compute>;

  Summary(Core& core, std::size_t world)
      : core_{&core},
        summaries_{core.device->template allocate<StepSummary>(1 + world, Purpose::other)},
        outcome_{core.device->template allocate<StepOutcome>(1, Purpose::other)},
        host_outcome_{
            core.host().template allocate<StepOutcome>(comes_down ? 1 : 0, Purpose::other)} {}

  /// Begins with a loss that somebody else computed.
  void set_loss(double loss) {
    const Context<Device> on = core_->timeline.context(compute_stream);
    const std::span<StepSummary> mine = summaries_.span().first(1);
    on.run(reads(), writes(mine), BeginSummary{mine.data(), loss});
  }
  /// Adds this rank's loss of a micro-batch; the first begins anew.
  void add_loss(const Saved& workspace, std::size_t micro) {
    const Loss* loss = workspace.template loss<Loss>();
    const std::span<StepSummary> mine = summaries_.span().first(1);
    const Context<Device> on = core_->timeline.context(compute_stream);
    const AddLoss<Loss> add{mine.data(), loss, micro == 0};
    if (micro == 0)
      on.run(reads(std::span{loss, 1}), writes(mine), add);
    else
      on.run(reads(std::span{loss, 1}, mine), writes(mine), add);
  }
  /// What backward begins with: the gradient of what is minimized by the loss.
  void seed_backward(const Saved& workspace, Loss value) {
    Loss* seed = workspace.template loss_gradient<Loss>();
    core_->timeline.context(compute_stream)
        .run(reads(), writes(std::span{seed, 1}), SetValue<Loss>{seed, value});
  }

  /// Adds the squares of the reduced gradients that this rank answers for.
  void add_squares(FullGradients<M, S>& gradients) {
    Needs needs;
    core_->layout.for_each_trained_flat([&](std::size_t f, const FlatLayout& flat) {
      if (!core_->state.answered_gradients(f).empty()) gradients.await(flat.group, needs);
    });
    core_->timeline.order(compute_stream, needs);
    const Context<Device> on = core_->begin(compute_stream, {"norm"});
    core_->layout.for_each_trained_flat([&](std::size_t f, const FlatLayout&) {
      const std::span<const Gradient> values = core_->state.answered_gradients(f);
      if (!values.empty())
        on.device.sum_squares(on.stream, values, &summaries_.data()->gradient_squares);
    });
    if constexpr (host_decides)
      gradients.offloaded().send_squares({&summaries_.data()->gradient_squares, 1});
  }
  /// Every rank learns the mean loss, the norm and what they mean for the update. `losses`: how
  /// many each rank added up; `scale`: by what their gradients are too large.
  void conclude(double losses, float scale, const typename Clipping::Options& clipping) {
    const std::span<StepSummary> mine = summaries_.span().first(1),
                                 all = summaries_.span().subspan(1);
    core_->timeline.order(comm_stream, core_->timeline.mark(compute_stream));
    const Context<Device> on = core_->begin(comm_stream, {"summary"});
    core_->mesh.world().all_gather(on, std::as_bytes(std::span<const StepSummary>{mine}),
                                   std::as_writable_bytes(all));
    on.run(reads(all), writes(outcome_.span()),
           Conclude<Clipping>{outcome_.data(), all.data(), all.size(), core_->mesh.shape().shards,
                              losses, scale, clipping, Clipping::limit(clipping)});
    concluded_ = core_->timeline.mark(comm_stream);
    if constexpr (host_decides) {
      core_->timeline.order(down_stream, concluded_);
      core_->copy_down({"summary"}, std::span<const StepOutcome>{outcome_.span()},
                       host_outcome_.span());
    } else if constexpr (comes_down) {
      on.device.copy(on.stream, std::span<const StepOutcome>{outcome_.span()},
                     host_outcome_.span());
      core_->moved.to_host_bytes += sizeof(StepOutcome);
    }
  }
  /// The update reads this on the compute stream, which goes on when it is there.
  const UpdateControl* await_control() {
    if constexpr (device_updates<S>) core_->timeline.order(compute_stream, concluded_);
    return &outcome_.data()->control;
  }
  /// The same for what the host updates.
  const UpdateControl* await_control_on_host() {
    if constexpr (!host_decides) return nullptr;
    core_->timeline.order(host_stream, core_->timeline.mark(down_stream));
    return &host_outcome_.data()->control;
  }
  /// What the host knows once all streams are synchronized.
  const StepOutcome& outcome() const {
    if constexpr (comes_down)
      return *host_outcome_.data();
    else
      return *outcome_.data();
  }

 private:
  Core* core_;
  typename Device::template Buffer<StepSummary> summaries_;  // this rank's, then every rank's
  typename Device::template Buffer<StepOutcome> outcome_;
  typename Core::Host::template Buffer<StepOutcome> host_outcome_;
  typename Core::Mark concluded_;
};

}  // namespace shardexpr::detail
