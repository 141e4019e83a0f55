// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/cpu.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "gpt_units.hpp"

namespace shardexpr::benchmarks {

/// Forward and backward of one GPT on one core, or one GPU: flat arrays, the units' own code,
/// nothing else. Computes in T; gradients of parameters are G.
///
/// Its pages are those that the library asks for, huge ones: the comparison is of code.
template <class T, class G, class D = Cpu>
class GptPasses {
 public:
  GptPasses(const GptConfig& config, std::uint64_t seed)
      : config_{config}, arrays_{device_}, stream_{device_, "passes"} {
    units_.blocks.resize(config.layers);
    count_ = parameter_count_of<gpt::Embedding>(config) +
             config.layers * parameter_count_of<gpt::Block>(config) +
             parameter_count_of<gpt::Head>(config);
    w_ = arrays_.template array<T>(count_);
    dw_ = arrays_.template array<G>(count_);
    std::size_t at = 0;
    bind_parameters(units_.embedding, 0, seed, at);
    for (std::size_t i = 0; i < config.layers; ++i) bind_parameters(units_.blocks[i], i, seed, at);
    bind_parameters(units_.head, 0, seed, at);

    units_.bind_activations(arrays_, config);
    loss_ = 1;
    device_.copy(stream_, std::span<const Accumulate<T>>{&loss_, 1}, units_.dloss.span());
    device_.synchronize(stream_);
  }

  /// Forward and backward; gradients start at zero.
  /// Order:   enqueued on `context()`'s stream.
  void enqueue(const GptBatch& batch) {
    const auto& [embedding, blocks, head, dx, dloss] = units_;
    const UnitPasses<D> on{context(), config_, batch};
    device_.fill_zero(stream_, std::span{dw_, count_});
    on.forward(embedding, {});
    Tensor<T> x = embedding.out.x;
    for (const auto& block : blocks) {
      on.forward(block, {{x}});
      x = block.out.x;
    }
    on.forward(head, {{x}});

    std::size_t turn = 0;
    on.backward(head, {{x}}, {{dloss}}, {dx[turn]});
    for (std::size_t i = blocks.size(); i-- > 0; turn ^= 1) {
      x = i == 0 ? embedding.out.x : blocks[i - 1].out.x;
      on.backward(blocks[i], {{x}}, {{dx[turn]}}, {dx[turn ^ 1]});
    }
    on.backward(embedding, {}, {{dx[turn]}}, {});
    device_.copy(stream_, std::span<const Accumulate<T>>{head.out.loss.data, 1},
                 std::span{&loss_, 1});
  }
  /// Waits for all that was enqueued; returns the loss.
  double finish() {
    device_.synchronize(stream_);
    return static_cast<double>(loss_);
  }
  double run(const GptBatch& batch) {
    enqueue(batch);
    return finish();
  }

  D& device() { return device_; }
  Context<D> context() { return {device_, stream_}; }

  std::size_t parameter_count() const { return count_; }
  T* parameters() const { return w_; }
  const G* gradients() const { return dw_; }
  const std::vector<DecayRun>& runs() const { return runs_; }

 private:
  template <class Unit>
  void bind_parameters(UnitViews<Unit, T, G>& unit, std::size_t index, std::uint64_t seed,
                       std::size_t& at) {
    units_.bind_parameters(unit, config_, w_ + at, dw_ + at);
    for (const Spec& spec : specs_of<Unit>(config_)) {
      if (spec.is_tied()) continue;
      const std::uint64_t name = hash_of(parameter_name<Unit>(index, spec));
      context().for_each(spec.shape.count(), reads(),
                         writes(std::span{w_ + at, spec.shape.count()}),
                         InitialParameter<T>{w_ + at, seed, name, spec.init});
      at += spec.shape.count();
      const bool decays = spec.group == 0;
      if (runs_.empty() || runs_.back().decays != decays) runs_.push_back({at, decays});
      runs_.back().end = at;
    }
  }

  GptConfig config_;
  D device_;
  Arrays<D> arrays_;
  typename D::Stream stream_;  // ends before what its operations touch
  std::vector<DecayRun> runs_;
  std::size_t count_ = 0;
  T* w_ = nullptr;
  G* dw_ = nullptr;
  GptUnits<T, G> units_;
  Accumulate<T> loss_ = 0;
};

}  // namespace shardexpr::benchmarks
