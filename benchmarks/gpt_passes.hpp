// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/nn/gpt.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace shardexpr::benchmarks {

/// Forward and backward of one GPT on one core: flat arrays, the units' own code, nothing else.
/// Computes in T; gradients of parameters are G.
///
/// Its pages are those that the library asks for, huge ones: the comparison is of code.
template <class T, class G>
class GptPasses {
 public:
  GptPasses(const GptConfig& config, std::uint64_t seed) : config_{config} {
    blocks_.resize(config.layers);
    count_ = parameters_of<gpt::Embedding>() + config.layers * parameters_of<gpt::Block>() +
             parameters_of<gpt::Head>();
    w_ = array<T>(count_);
    dw_ = array<G>(count_);
    std::size_t at = 0;
    bind_parameters(embedding_, 0, seed, at);
    for (std::size_t i = 0; i < blocks_.size(); ++i) bind_parameters(blocks_[i], i, seed, at);
    bind_parameters(head_, 0, seed, at);

    const auto hidden = gpt::hidden<T>(config);
    embedding_.out = {tensor(hidden.x)};
    const auto b = gpt::Block::scratch<T, Cpu>(config);
    const ScratchOf<gpt::Block, Tensor, T> scratch{
        tensor(b.narrow),
        tensor(b.wide),
        {tensor(b.attention.scores), tensor(b.attention.rounded),
         tensor(b.attention.key_gradients)},
        {}};
    for (auto& block : blocks_) {
      const auto s = gpt::Block::saved<T>(config);
      block.out = {tensor(hidden.x)};
      block.saved = {tensor(s.mean_1), tensor(s.rstd_1),   tensor(s.qkv),
                     tensor(s.lse),    tensor(s.attended), tensor(s.middle),
                     tensor(s.mean_2), tensor(s.rstd_2),   tensor(s.fc)};
      block.scratch = scratch;
    }
    const auto s = gpt::Head::saved<T, Cpu>(config);
    head_.out = {tensor(gpt::Head::output<T>(config).loss)};
    head_.saved = {tensor(s.mean), tensor(s.rstd), tensor(s.error), {}};
    head_.scratch = {{scratch.narrow.data, gpt::Head::scratch<T, Cpu>(config).norm.shape}, {}};
    for (auto& dx : dx_) dx = tensor(hidden.x);
    dloss_ = tensor(gpt::Head::output<T>(config).loss);
    dloss_[0] = 1;
  }

  /// Forward and backward; gradients start at zero. Returns the loss.
  double run(const GptBatch& batch) {
    std::memset(static_cast<void*>(dw_), 0, count_ * sizeof(G));
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
    return static_cast<double>(head_.out.loss[0]);
  }

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
    memory_.emplace_back(Cpu::allocate_zeroed(count * sizeof(Element)));
    return static_cast<Element*>(memory_.back().get());
  }
  template <class Element>
  Tensor<Element> tensor(const BufferSpec<Element>& spec) {
    return {array<Element>(spec.shape.count()), spec.shape};
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
      for (std::size_t i = 0; i < specs[k].shape.count(); ++i)
        w_[at + i] = static_cast<T>(initial_value(seed, name, i, specs[k].init));
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
    Forward<Unit, Cpu, T> pass{{device_, stream_}, config_, batch};
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
    Backward<Unit, Cpu, T, G> pass{{device_, stream_}, config_, batch};
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
    void operator()(void* memory) const { std::free(memory); }
  };

  GptConfig config_;
  Cpu device_;  // the units' signature asks for one; it allocates nothing here
  Cpu::Stream stream_;
  std::vector<std::unique_ptr<void, Free>> memory_;
  std::vector<Run> runs_;
  std::size_t count_ = 0;
  T* w_ = nullptr;
  G* dw_ = nullptr;
  Part<gpt::Embedding> embedding_;
  std::vector<Part<gpt::Block>> blocks_;
  Part<gpt::Head> head_;
  std::array<Tensor<T>, 2> dx_;
  Tensor<Accumulate<T>> dloss_;
};

}  // namespace shardexpr::benchmarks
