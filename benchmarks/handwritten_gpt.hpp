// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/nn/gpt.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

namespace shardexpr::benchmarks {

/// What one writes who trains one GPT on one core and nothing else: flat arrays, the units' own
/// forward and backward, AdamW as a loop. No engine, no plan, no communicator, no gradient norm.
///
/// Its pages are those that the library asks for, huge ones: the comparison is of code.
class HandwrittenGpt {
 public:
  HandwrittenGpt(const GptConfig& config, std::uint64_t seed) : config_{config} {
    blocks_.resize(config.layers);
    count_ = parameters_of<gpt::Embedding>() + config.layers * parameters_of<gpt::Block>() +
             parameters_of<gpt::Head>();
    w_ = array<float>(count_);
    dw_ = array<float>(count_);
    m_ = array<float>(count_);
    v_ = array<float>(count_);
    std::size_t at = 0;
    bind_parameters(embedding_, 0, seed, at);
    for (std::size_t i = 0; i < blocks_.size(); ++i) bind_parameters(blocks_[i], i, seed, at);
    bind_parameters(head_, 0, seed, at);

    embedding_.out = {tensor(gpt::hidden<float>(config).x)};
    const auto block_scratch = gpt::Block::scratch<float>(config);
    const decltype(blocks_[0].scratch) scratch{
        tensor(block_scratch.narrow),
        tensor(block_scratch.wide),
        {tensor(block_scratch.attention.scores), {}, {}}};  // the rest is for 16 bits
    for (auto& block : blocks_) {
      const auto s = gpt::Block::saved<float>(config);
      block.out = {tensor(gpt::hidden<float>(config).x)};
      block.saved = {tensor(s.mean_1), tensor(s.rstd_1),   tensor(s.qkv),
                     tensor(s.lse),    tensor(s.attended), tensor(s.middle),
                     tensor(s.mean_2), tensor(s.rstd_2),   tensor(s.fc)};
      block.scratch = scratch;
    }
    const auto s = gpt::Head::saved<float>(config);
    head_.out = {tensor(gpt::Head::output<float>(config).loss)};
    head_.saved = {tensor(s.mean), tensor(s.rstd), tensor(s.error)};
    head_.scratch = {{scratch.narrow.data, gpt::Head::scratch<float>(config).norm.shape}};
    for (auto& dx : dx_) dx = tensor(gpt::hidden<float>(config).x);
    dloss_ = tensor(gpt::Head::output<float>(config).loss);
    dloss_[0] = 1;
  }

  /// Forward, backward and update; returns the loss.
  double step(const GptBatch& batch) {
    std::memset(dw_, 0, count_ * sizeof(float));
    forward(embedding_, batch, {});
    Tensor<float> x = embedding_.out.x;
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
    update();
    return head_.out.loss[0];
  }

 private:
  template <class Unit>
  struct Part {
    typename Unit::template Params<Tensor<const float>> w;
    typename Unit::template Params<Tensor<float>> dw;
    OutputOf<Unit, Tensor, float> out;
    SavedOf<Unit, Tensor, float> saved;
    ScratchOf<Unit, Tensor, float> scratch;
  };

  template <class T>
  T* array(std::size_t count) {
    memory_.emplace_back(Cpu::allocate_zeroed(count * sizeof(T)));
    return static_cast<T*>(memory_.back().get());
  }
  Tensor<float> tensor(const BufferSpec<float>& spec) {
    return {array<float>(spec.shape.count()), spec.shape};
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
    std::array<Tensor<const float>, n> w;
    std::array<Tensor<float>, n> dw;
    const auto specs = specs_of<Unit>(config_);
    for (std::size_t k = 0; k < n; ++k) {
      if (specs[k].is_tied()) {  // the head's table
        w[k] = embedding_.w.wte;
        dw[k] = embedding_.dw.wte;
        continue;
      }
      const std::uint64_t name = hash_of(parameter_name<Unit>(index, specs[k]));
      for (std::size_t i = 0; i < specs[k].shape.count(); ++i)
        w_[at + i] = initial_value(seed, name, i, specs[k].init);
      w[k] = {w_ + at, specs[k].shape};
      dw[k] = {dw_ + at, specs[k].shape};
      at += specs[k].shape.count();
      const bool decays = specs[k].group == 0;  // biases and norms do not
      if (runs_.empty() || runs_.back().decays != decays) runs_.push_back({at, decays});
      runs_.back().end = at;
    }
    part.w = detail::from_array<decltype(part.w)>(w);
    part.dw = detail::from_array<decltype(part.dw)>(dw);
  }

  template <class Unit>
  void forward(const Part<Unit>& part, const GptBatch& batch,
               const InputOf<Unit, ConstTensor, float>& in) {
    Forward<Unit, Cpu, float> pass{{device_, stream_}, config_, batch};
    pass.w = part.w;
    pass.in = in;
    pass.out = part.out;
    pass.saved = part.saved;
    pass.scratch = part.scratch;
    Unit::forward(pass);
  }
  template <class Unit>
  void backward(const Part<Unit>& part, const GptBatch& batch,
                const InputOf<Unit, ConstTensor, float>& in,
                const OutputOf<Unit, ConstTensor, float>& dout,
                const InputOf<Unit, Tensor, float>& din) {
    Backward<Unit, Cpu, float> pass{{device_, stream_}, config_, batch};
    pass.w = part.w;
    pass.dw = part.dw;
    pass.in = in;
    pass.dout = dout;
    pass.din = din;
    pass.saved = part.saved;
    pass.scratch = part.scratch;
    Unit::backward(pass);
  }

  void update() {
    const AdamW::Options o{};
    const float t = static_cast<float>(++steps_);
    const float unbias_m = 1 / (1 - std::pow(o.beta1, t));
    const float unbias_v = 1 / (1 - std::pow(o.beta2, t));
    float* __restrict w = w_;
    const float* __restrict g = dw_;
    float* __restrict m = m_;
    float* __restrict v = v_;
    std::size_t i = 0;
    for (const Run& run : runs_) {
      const float decay = run.decays ? o.weight_decay : 0;
      for (; i < run.end; ++i) {
        m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
        v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
        const float ratio = m[i] * unbias_m / (std::sqrt(v[i] * unbias_v) + o.epsilon);
        w[i] -= o.learning_rate * (ratio + decay * w[i]);
      }
    }
  }

  struct Run {  // neighbours that decay alike
    std::size_t end;
    bool decays;
  };
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  GptConfig config_;
  Cpu device_;  // the units' signature asks for one; it allocates nothing here
  Cpu::Stream stream_;
  std::vector<std::unique_ptr<void, Free>> memory_;
  std::vector<Run> runs_;
  std::size_t count_ = 0, steps_ = 0;
  float *w_ = nullptr, *dw_ = nullptr, *m_ = nullptr, *v_ = nullptr;
  Part<gpt::Embedding> embedding_;
  std::vector<Part<gpt::Block>> blocks_;
  Part<gpt::Head> head_;
  std::array<Tensor<float>, 2> dx_;
  Tensor<float> dloss_;
};

}  // namespace shardexpr::benchmarks
