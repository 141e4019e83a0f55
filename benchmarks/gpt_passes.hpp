// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/nn/gpt.hpp>
#include <shardexpr/plan/activations.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
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

/// Forward and backward of one GPT on one core, or one GPU: flat arrays, the units' own code,
/// nothing else. Computes in T; gradients of parameters are G.
///
/// Its pages are those that the library asks for, huge ones: the comparison is of code.
template <class T, class G, class D = Cpu>
class GptPasses {
 public:
  GptPasses(const GptConfig& config, std::uint64_t seed)
      : config_{config}, stream_{device_, "passes"} {
    blocks_.resize(config.layers);
    count_ = parameters_of<gpt::Embedding>() + config.layers * parameters_of<gpt::Block>() +
             parameters_of<gpt::Head>();
    w_ = array<T>(count_);
    dw_ = array<G>(count_);
    std::size_t at = 0;
    bind_parameters(embedding_, 0, seed, at);
    for (std::size_t i = 0; i < blocks_.size(); ++i) bind_parameters(blocks_[i], i, seed, at);
    bind_parameters(head_, 0, seed, at);

    scratch_ = array<std::byte>(activation_bytes<Gpt, T, D>(config).scratch);
    bind_activations(embedding_);
    for (auto& block : blocks_) bind_activations(block);
    bind_activations(head_);
    for (auto& dx : dx_) dx = tensor(gpt::hidden<T>(config).x);
    dloss_ = tensor(gpt::Head::output<T>(config).loss);
    loss_ = 1;
    device_.copy(stream_, std::span<const Accumulate<T>>{&loss_, 1}, dloss_.span());
    device_.synchronize(stream_);
  }

  /// Forward and backward; gradients start at zero.
  /// Order:   enqueued on `context()`'s stream.
  void enqueue(const GptBatch& batch) {
    device_.fill_zero(stream_, std::span{dw_, count_});
    forward(embedding_, batch, {});
    Tensor<T> x = embedding_.out.x;
    for (auto& block : blocks_) {
      forward(block, batch, {{x}});
      x = block.out.x;
    }
    forward(head_, batch, {{x}});

    // The gradients of what flows between units lie in two arrays, used in turns.
    std::size_t turn = 0;
    backward(head_, batch, {{x}}, {{dloss_}}, {dx_[turn]});
    for (std::size_t i = blocks_.size(); i-- > 0; turn ^= 1) {
      x = i == 0 ? embedding_.out.x : blocks_[i - 1].out.x;
      backward(blocks_[i], batch, {{x}}, {{dx_[turn]}}, {dx_[turn ^ 1]});
    }
    backward(embedding_, batch, {}, {{dx_[turn]}}, {});
    device_.copy(stream_, std::span<const Accumulate<T>>{head_.out.loss.data, 1},
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
  /// Neighbouring parameters that decay alike: biases and norms do not.
  struct Run {
    std::size_t end;
    bool decays;
  };
  const std::vector<Run>& runs() const { return runs_; }

 private:
  template <class Unit>
  struct Part {
    typename Unit::template Params<Tensor<const T>> w;
    typename Unit::template Params<Tensor<G>> dw;
    OutputOf<Unit, Tensor, T> out;
    SavedOf<Unit, Tensor, T> saved;
    ScratchOf<Unit, Tensor, T> scratch;
  };

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
  /// Outputs and what is saved have arrays of their own, all units one place to scribble on.
  template <class Unit>
  void bind_activations(Part<Unit>& part) {
    const auto own = [&](std::size_t size_bytes) { return array<std::byte>(size_bytes); };
    part.out = views<OutputOf<Unit, Tensor, T>>(detail::output_buffers<Unit, T>(config_), own);
    part.saved = views<SavedOf<Unit, Tensor, T>>(detail::saved_buffers<Unit, T, D>(config_), own);
    std::byte* next = scratch_;
    part.scratch = views<ScratchOf<Unit, Tensor, T>>(
        detail::scratch_buffers<Unit, T, D>(config_), [&](std::size_t size_bytes) {
          return std::exchange(next, next + round_up(size_bytes, buffer_alignment_bytes));
        });
  }

  template <class Unit>
  std::size_t parameters_of() const {
    std::size_t count = 0;
    for (const Spec& spec : specs_of<Unit>(config_))
      if (!spec.is_tied()) count += spec.shape.count();
    return count;
  }
  template <class Unit>
  void bind_parameters(Part<Unit>& part, std::size_t index, std::uint64_t seed, std::size_t& at) {
    constexpr std::size_t n = detail::member_count<Unit>;
    std::array<Tensor<const T>, n> w;
    std::array<Tensor<G>, n> dw;
    const auto specs = specs_of<Unit>(config_);
    for (std::size_t k = 0; k < n; ++k) {
      if (specs[k].is_tied()) {  // the head's table
        w[k] = embedding_.w.wte;
        dw[k] = embedding_.dw.wte;
        continue;
      }
      const std::uint64_t name = hash_of(parameter_name<Unit>(index, specs[k]));
      context().for_each(specs[k].shape.count(), reads(),
                         writes(std::span{w_ + at, specs[k].shape.count()}),
                         InitialParameter<T>{w_ + at, seed, name, specs[k].init});
      w[k] = {w_ + at, specs[k].shape};
      dw[k] = {dw_ + at, specs[k].shape};
      at += specs[k].shape.count();
      const bool decays = specs[k].group == 0;
      if (runs_.empty() || runs_.back().decays != decays) runs_.push_back({at, decays});
      runs_.back().end = at;
    }
    part.w = detail::from_array<decltype(part.w)>(w);
    part.dw = detail::from_array<decltype(part.dw)>(dw);
  }

  template <class Unit>
  void forward(const Part<Unit>& part, const GptBatch& batch,
               const InputOf<Unit, ConstTensor, T>& in) {
    Forward<Unit, D, T> pass{{device_, stream_}, config_, batch};
    pass.w = part.w;
    pass.in = in;
    pass.out = part.out;
    pass.saved = part.saved;
    pass.scratch = part.scratch;
    Unit::forward(pass);
  }
  template <class Unit>
  void backward(const Part<Unit>& part, const GptBatch& batch,
                const InputOf<Unit, ConstTensor, T>& in, const OutputOf<Unit, ConstTensor, T>& dout,
                const InputOf<Unit, Tensor, T>& din) {
    Backward<Unit, D, T, G> pass{{device_, stream_}, config_, batch};
    pass.w = part.w;
    pass.dw = part.dw;
    pass.in = in;
    pass.dout = dout;
    pass.din = din;
    pass.saved = part.saved;
    pass.scratch = part.scratch;
    Unit::backward(pass);
  }

  struct Free {
    void operator()(void* memory) const { D::deallocate(memory); }
  };

  GptConfig config_;
  D device_;
  std::vector<std::unique_ptr<void, Free>> memory_;
  typename D::Stream stream_;  // ends before what its operations touch
  std::vector<Run> runs_;
  std::size_t count_ = 0;
  std::byte* scratch_ = nullptr;
  T* w_ = nullptr;
  G* dw_ = nullptr;
  Part<gpt::Embedding> embedding_;
  std::vector<Part<gpt::Block>> blocks_;
  Part<gpt::Head> head_;
  std::array<Tensor<T>, 2> dx_;
  Tensor<Accumulate<T>> dloss_;
  Accumulate<T> loss_ = 0;
};

}  // namespace shardexpr::benchmarks
