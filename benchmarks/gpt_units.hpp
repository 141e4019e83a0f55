// SPDX-License-Identifier: Apache-2.0
#pragma once
// The units of a GPT without an engine: where their arrays lie, and their passes on these.
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/nn/gpt.hpp>
#include <shardexpr/plan/activations.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace shardexpr::benchmarks {

/// Element i becomes the i-th initial value of a parameter.
template <class T>
struct InitialParameter {
  T* to;
  std::uint64_t seed, name_hash;
  Init init;

  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    to[i] = static_cast<T>(initial_value(seed, name_hash, i, init));
  }
};

/// Neighbouring parameters that decay alike: biases and norms do not.
struct DecayRun {
  std::size_t end;
  bool decays;
};

/// Arrays of a device, which start at zero and end together.
template <class D>
class Arrays {
 public:
  explicit Arrays(D& device) : device_{device} {}
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;

  template <class Element>
  Element* array(std::size_t count) {
    if (count == 0) return nullptr;
    memory_.emplace_back(device_.allocate_zeroed(count * sizeof(Element)));
    return static_cast<Element*>(memory_.back().get());
  }
  template <class Element>
  Tensor<Element> tensor(const BufferSpec<Element>& spec) {
    return {array<Element>(spec.shape.count()), spec.shape};
  }

 private:
  struct Free {
    void operator()(void* memory) const { D::deallocate(memory); }
  };
  D& device_;
  std::vector<std::unique_ptr<void, Free>> memory_;
};

/// What a unit's passes read and write; gradients of parameters are G.
template <class Unit, class T, class G>
struct UnitViews {
  typename Unit::template Params<Tensor<const T>> w;
  typename Unit::template Params<Tensor<G>> dw;
  OutputOf<Unit, Tensor, T> out;
  SavedOf<Unit, Tensor, T> saved;
  ScratchOf<Unit, Tensor, T> scratch;
};

template <class Unit>
std::size_t parameter_count_of(const GptConfig& config) {
  std::size_t count = 0;
  for (const Spec& spec : specs_of<Unit>(config))
    if (!spec.is_tied()) count += spec.shape.count();
  return count;
}

/// All units of one GPT.
template <class T, class G>
struct GptUnits {
  UnitViews<gpt::Embedding, T, G> embedding;
  std::vector<UnitViews<gpt::Block, T, G>> blocks;
  UnitViews<gpt::Head, T, G> head;
  std::array<Tensor<T>, 2> dx;  // gradients of what flows between units, used in turns
  Tensor<Accumulate<T>> dloss;

  /// A unit's parameters lie one behind the other from `w` on, their gradients from `dw` on. The
  /// embedding comes before the head, which shares a table with it.
  template <class Unit>
  void bind_parameters(UnitViews<Unit, T, G>& unit, const GptConfig& config, T* w, G* dw) const {
    constexpr std::size_t n = detail::member_count<Unit>;
    std::array<Tensor<const T>, n> ws;
    std::array<Tensor<G>, n> dws;
    const auto specs = specs_of<Unit>(config);
    std::size_t at = 0;
    for (std::size_t k = 0; k < n; ++k) {
      if (specs[k].is_tied()) {  // the head's table
        ws[k] = embedding.w.wte;
        dws[k] = embedding.dw.wte;
        continue;
      }
      ws[k] = {w + at, specs[k].shape};
      dws[k] = {dw + at, specs[k].shape};
      at += specs[k].shape.count();
    }
    unit.w = detail::from_array<decltype(unit.w)>(ws);
    unit.dw = detail::from_array<decltype(unit.dw)>(dws);
  }

  /// Outputs and what is saved have arrays of their own, all units one place to scribble on.
  template <class D>
  void bind_activations(Arrays<D>& arrays, const GptConfig& config) {
    std::byte* const scratch =
        arrays.template array<std::byte>(activation_bytes<Gpt, T, D>(config).scratch);
    bind_activations(arrays, config, scratch, embedding);
    for (auto& block : blocks) bind_activations(arrays, config, scratch, block);
    bind_activations(arrays, config, scratch, head);
    for (auto& of_turn : dx) of_turn = arrays.tensor(gpt::hidden<T>(config).x);
    dloss = arrays.tensor(gpt::Head::output<T>(config).loss);
  }

 private:
  /// Views of an aggregate's fields, each where `place(bytes)` says.
  template <class Aggregate, std::size_t N, class Place>
  static Aggregate views(const std::array<detail::AnyBuffer, N>& buffers, Place place) {
    std::array<detail::AnyTensor, N> views;
    for (std::size_t k = 0; k < N; ++k)
      views[k] = {
          reinterpret_cast<char*>(place(buffers[k].shape.count() * buffers[k].element_bytes)),
          buffers[k].shape};
    return detail::from_array<Aggregate>(views);
  }
  template <class Unit, class D>
  static void bind_activations(Arrays<D>& arrays, const GptConfig& config, std::byte* scratch,
                               UnitViews<Unit, T, G>& unit) {
    const auto own = [&](std::size_t size_bytes) {
      return arrays.template array<std::byte>(size_bytes);
    };
    unit.out = views<OutputOf<Unit, Tensor, T>>(detail::output_buffers<Unit, T>(config), own);
    unit.saved = views<SavedOf<Unit, Tensor, T>>(detail::saved_buffers<Unit, T, D>(config), own);
    unit.scratch = views<ScratchOf<Unit, Tensor, T>>(
        detail::scratch_buffers<Unit, T, D>(config), [&](std::size_t size_bytes) {
          return std::exchange(scratch, scratch + round_up(size_bytes, buffer_alignment_bytes));
        });
  }
};

/// The units' own code on one micro-batch, enqueued on a stream.
template <class D>
struct UnitPasses {
  Context<D> context;
  const GptConfig& config;
  const GptBatch& batch;

  template <class Unit, class T, class G>
  void forward(const UnitViews<Unit, T, G>& unit, const InputOf<Unit, ConstTensor, T>& in) const {
    Forward<Unit, D, T> pass{context, config, batch};
    pass.w = unit.w;
    pass.in = in;
    pass.out = unit.out;
    pass.saved = unit.saved;
    pass.scratch = unit.scratch;
    Unit::forward(pass);
  }
  template <class Unit, class T, class G>
  void backward(const UnitViews<Unit, T, G>& unit, const InputOf<Unit, ConstTensor, T>& in,
                const OutputOf<Unit, ConstTensor, T>& dout,
                const InputOf<Unit, Tensor, T>& din) const {
    Backward<Unit, D, T, G> pass{context, config, batch};
    pass.w = unit.w;
    pass.dw = unit.dw;
    pass.in = in;
    pass.dout = dout;
    pass.din = din;
    pass.saved = unit.saved;
    pass.scratch = unit.scratch;
    Unit::backward(pass);
  }
};

}  // namespace shardexpr::benchmarks
