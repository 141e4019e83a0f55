// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/model/fields.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/activations.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <vector>

namespace shardexpr::detail {

/// Views of `buffers`, one behind the other from `at` on, which moves behind them. Knows no unit,
/// so that it is compiled once.
inline std::vector<AnyTensor> carve(std::span<const AnyBuffer> buffers, std::byte*& at) {
  std::vector<AnyTensor> views;
  views.reserve(buffers.size());
  for (const AnyBuffer& buffer : buffers) {
    views.push_back({reinterpret_cast<char*>(at), buffer.shape});
    at += round_up(buffer.shape.count() * buffer.element_bytes, buffer_alignment_bytes);
  }
  return views;
}

/// The activations of one rank: one allocation, carved once into what each unit puts out, saves and
/// scribbles on. A step only binds.
template <class Model, class T, class D, class Recompute = RecomputeNone>
class Workspace {
 public:
  Workspace(D& device, const typename Model::Config& config, const Layout<Model>& layout)
      : memory_{device.template allocate<std::byte>(
            activation_bytes<Model, T, D, Recompute>(config).total(), Purpose::activations)} {
    const ActivationBytes bytes = activation_bytes<Model, T, D, Recompute>(config);
    const std::size_t half = bytes.gradients / 2;
    std::byte* outputs = memory_.data();
    std::byte* saved = outputs + bytes.outputs;
    std::byte* const rebuilt = saved + bytes.saved;  // one place for all units that are rebuilt
    std::byte* gradients = rebuilt + bytes.rebuilt;
    std::byte* scratch = gradients + bytes.gradients;
    Layout<Model>::for_each_stage([&]<std::size_t S>() {
      using Unit = typename Model::Units::template Unit<S>;
      for (std::size_t i = 0; i < layout.count(S); ++i) {
        const std::size_t u = units_.size();
        UnitViews& views = units_.emplace_back();
        const auto outputs_of = output_buffers<Unit, T>(config);
        views.outputs = carve(outputs_of, outputs);
        std::byte* at = rebuilt;
        views.saved = carve(saved_buffers<Unit, T, D>(config),
                            Recompute::template rebuilds<Unit> ? at : saved);
        at = gradients + (u % 2) * half;  // unit u reads one half, writes the other
        views.output_gradients = carve(outputs_of, at);
        at = scratch;
        views.scratch = carve(scratch_buffers<Unit, T, D>(config), at);
      }
    });
  }

  // The buffers of unit u under the unit's names. `Of` is Tensor or ConstTensor.
  template <class U, template <class> class Of>
  auto outputs(std::size_t u) const {
    return bind<OutputOf<U, Of, T>>(units_[u].outputs);
  }
  /// What the unit before put out; of the first unit, nothing.
  template <class U, template <class> class Of>
  auto inputs(std::size_t u) const {
    return bind<InputOf<U, Of, T>>(u == 0 ? none_ : units_[u - 1].outputs);
  }
  template <class U, template <class> class Of>
  auto output_gradients(std::size_t u) const {
    return bind<OutputOf<U, Of, T>>(units_[u].output_gradients);
  }
  template <class U, template <class> class Of>
  auto input_gradients(std::size_t u) const {
    return bind<InputOf<U, Of, T>>(u == 0 ? none_ : units_[u - 1].output_gradients);
  }
  template <class U, template <class> class Of>
  auto saved(std::size_t u) const {
    return bind<SavedOf<U, Of, T>>(units_[u].saved);
  }
  template <class U, template <class> class Of>
  auto scratch(std::size_t u) const {
    return bind<ScratchOf<U, Of, T>>(units_[u].scratch);
  }

  /// The last unit's output is one scalar: the loss. Its gradient starts backward.
  template <class Loss>
  Loss* loss() const {
    return reinterpret_cast<Loss*>(units_.back().outputs[0].data);
  }
  template <class Loss>
  Loss* loss_gradient() const {
    return reinterpret_cast<Loss*>(units_.back().output_gradients[0].data);
  }

 private:
  struct UnitViews {
    std::vector<AnyTensor> outputs, output_gradients, saved, scratch;
  };

  // Every field of the aggregate is a Tensor of something, and all of those are laid out alike.
  template <class Aggregate>
  static Aggregate bind(const std::vector<AnyTensor>& views) {
    constexpr std::size_t n = chars_in<Aggregate> / sizeof(AnyTensor);
    if constexpr (n == 0) {
      return {};
    } else {
      std::array<AnyTensor, n> array;
      std::copy_n(views.begin(), n, array.begin());
      return from_array<Aggregate>(array);
    }
  }

  typename D::template Buffer<std::byte> memory_;
  std::vector<UnitViews> units_;
  std::vector<AnyTensor> none_;
};

}  // namespace shardexpr::detail
