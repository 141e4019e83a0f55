// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/optim/adamw.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "gpt_passes.hpp"
#include <mpi.h>

namespace shardexpr::benchmarks {

/// How MPI is asked for a block's parameters: when they are needed, or while the block before is
/// computed.
enum class Gathers { blocking, ahead };

/// What one writes who shards one GPT over MPI and nothing else: each rank keeps its part of
/// parameters, gradients and moments; MPI gathers a block before it is computed, adds up its
/// gradients behind it, and the loop of AdamW goes over the part. Embedding and head, which share a
/// table, stay gathered for the step. No engine, no plan; the units' own passes.
class HandwrittenFullShard {
 public:
  HandwrittenFullShard(MPI_Comm comm, const GptConfig& config, std::uint64_t seed, Gathers gathers)
      : comm_{comm}, config_{config}, gathers_{gathers} {
    MPI_Comm_rank(comm, &rank_);
    MPI_Comm_size(comm, &size_);
    blocks_.resize(config.layers);
    const std::size_t outer =
        flat_count(parameters_of<gpt::Embedding>() + parameters_of<gpt::Head>());
    const std::size_t block = flat_count(parameters_of<gpt::Block>());
    outer_ = {array<float>(outer), array<float>(outer), outer / ranks(), 0};
    for (auto& full : block_) full = array<float>(block);
    block_gradients_ = array<float>(block);
    for (std::size_t i = 0; i < blocks_.size(); ++i)
      parts_.push_back(
          {nullptr, block_gradients_, block / ranks(), outer / ranks() + i * (block / ranks())});
    count_ = outer / ranks() + blocks_.size() * (block / ranks());
    for (float** flat : {&w_, &g_, &m_, &v_}) *flat = array<float>(count_);

    initialize(seed);
    bind();
  }

  /// Forward, backward and update; returns the mean loss.
  double step(const GptBatch& batch) {
    const double loss = forward(batch);
    backward(batch);
    std::array<double, 2> mine{loss, squares()}, sum{};
    MPI_Allreduce(mine.data(), sum.data(), 2, MPI_DOUBLE, MPI_SUM, comm_);
    gradient_norm_ = std::sqrt(sum[1]) / size_;
    update();
    return sum[0] / size_;
  }
  double gradient_norm() const { return gradient_norm_; }

 private:
  /// Parameters that are gathered at once.
  struct Flat {
    float *full, *gradients;
    std::size_t part;  // elements of each rank
    std::size_t at;    // where this rank's begin in w_, g_, m_, v_
  };
  template <class Unit>
  struct Weights {
    typename Unit::template Params<Tensor<const float>> w;
    typename Unit::template Params<Tensor<float>> dw;
  };
  template <class Unit>
  struct Activations {
    OutputOf<Unit, Tensor, float> out;
    SavedOf<Unit, Tensor, float> saved;
    ScratchOf<Unit, Tensor, float> scratch;
  };
  struct Run {
    std::size_t end;
    bool decays;
  };

  std::size_t ranks() const { return static_cast<std::size_t>(size_); }
  /// Parts begin at cache lines.
  std::size_t flat_count(std::size_t parameters) const {
    return round_up(parameters, ranks() * buffer_alignment_bytes / sizeof(float));
  }
  template <class Unit>
  std::size_t parameters_of() const {
    std::size_t count = 0;
    for (const Spec& spec : specs_of<Unit>(config_))
      if (!spec.is_tied()) count += spec.shape.count();
    return count;
  }

  // Setting up
  // --------------------------------------------------------------------------------------

  template <class T>
  T* array(std::size_t count) {
    if (count == 0) return nullptr;
    memory_.emplace_back(device_.allocate_zeroed(count * sizeof(T)));
    return static_cast<T*>(memory_.back().get());
  }
  template <class T>
  Tensor<T> tensor(const BufferSpec<T>& spec) {
    return {array<T>(spec.shape.count()), spec.shape};
  }
  template <class Aggregate, std::size_t N, class Place>
  static Aggregate views(const std::array<detail::AnyBuffer, N>& buffers, Place place) {
    std::array<detail::AnyTensor, N> views;
    for (std::size_t k = 0; k < N; ++k)
      views[k] = {
          reinterpret_cast<char*>(place(buffers[k].shape.count() * buffers[k].element_bytes)),
          buffers[k].shape};
    return detail::from_array<Aggregate>(views);
  }
  template <class Unit>
  void bind_activations(Activations<Unit>& unit) {
    const auto own = [&](std::size_t size_bytes) { return array<std::byte>(size_bytes); };
    unit.out =
        views<OutputOf<Unit, Tensor, float>>(detail::output_buffers<Unit, float>(config_), own);
    unit.saved =
        views<SavedOf<Unit, Tensor, float>>(detail::saved_buffers<Unit, float, Cpu>(config_), own);
    std::byte* next = scratch_;
    unit.scratch = views<ScratchOf<Unit, Tensor, float>>(
        detail::scratch_buffers<Unit, float, Cpu>(config_), [&](std::size_t size_bytes) {
          return std::exchange(next, next + round_up(size_bytes, buffer_alignment_bytes));
        });
  }
  /// Views of a unit's parameters in a flat, and of their gradients.
  template <class Unit>
  void bind_weights(Weights<Unit>& unit, float* w, float* dw) {
    constexpr std::size_t n = detail::member_count<Unit>;
    std::array<Tensor<const float>, n> ws;
    std::array<Tensor<float>, n> dws;
    const auto specs = specs_of<Unit>(config_);
    std::size_t at = 0;
    for (std::size_t k = 0; k < n; ++k) {
      if (specs[k].is_tied()) {  // the head's table
        ws[k] = embedding_w_.w.wte;
        dws[k] = embedding_w_.dw.wte;
        continue;
      }
      ws[k] = {w + at, specs[k].shape};
      dws[k] = {dw + at, specs[k].shape};
      at += specs[k].shape.count();
    }
    unit.w = detail::from_array<decltype(unit.w)>(ws);
    unit.dw = detail::from_array<decltype(unit.dw)>(dws);
  }
  void bind() {
    const std::size_t head = parameters_of<gpt::Embedding>();
    bind_weights(embedding_w_, outer_.full, outer_.gradients);
    bind_weights(head_w_, outer_.full + head, outer_.gradients + head);
    for (std::size_t k = 0; k < 2; ++k) bind_weights(block_w_[k], block_[k], block_gradients_);
    scratch_ = array<std::byte>(activation_bytes<Gpt, float, Cpu>(config_).scratch);
    bind_activations(embedding_);
    for (auto& block : blocks_) bind_activations(block);
    bind_activations(head_);
    for (auto& dx : dx_) dx = tensor(gpt::hidden<float>(config_).x);
    dloss_ = tensor(gpt::Head::output<float>(config_).loss);
    dloss_.data[0] = 1;
  }

  /// Fills a flat with a unit's first values, from `at` on, and notes what of this rank's part
  /// decays.
  template <class Unit>
  void initialize(std::uint64_t seed, std::size_t index, const Flat& flat, float* full,
                  std::size_t& at) {
    const std::size_t begin = static_cast<std::size_t>(rank_) * flat.part;
    for (const Spec& spec : specs_of<Unit>(config_)) {
      if (spec.is_tied()) continue;
      const InitialParameter<float> initial{full + at, seed,
                                            hash_of(parameter_name<Unit>(index, spec)), spec.init};
      for (std::size_t i = 0; i < spec.shape.count(); ++i) initial(i);
      at += spec.shape.count();
      const std::size_t end = std::clamp(at, begin, begin + flat.part) - begin;
      runs_.push_back({flat.at + end, spec.group == 0});
    }
  }
  void initialize(std::uint64_t seed) {
    const auto keep = [&](const Flat& flat, const float* full) {
      std::copy_n(full + static_cast<std::size_t>(rank_) * flat.part, flat.part, w_ + flat.at);
      runs_.push_back({flat.at + flat.part, false});  // what fills the flat up
    };
    std::size_t at = 0;
    initialize<gpt::Embedding>(seed, 0, outer_, outer_.full, at);
    initialize<gpt::Head>(seed, 0, outer_, outer_.full, at);
    keep(outer_, outer_.full);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      initialize<gpt::Block>(seed, i, parts_[i], block_[0], at = 0);
      keep(parts_[i], block_[0]);
    }
  }

  // A step
  // --------------------------------------------------------------------------------------

  void gather(const Flat& flat, float* full) {
    const int part = static_cast<int>(flat.part);
    if (gathers_ == Gathers::blocking)
      MPI_Allgather(w_ + flat.at, part, MPI_FLOAT, full, part, MPI_FLOAT, comm_);
    else
      MPI_Iallgather(w_ + flat.at, part, MPI_FLOAT, full, part, MPI_FLOAT, comm_, &gathering_);
  }
  void wait() { MPI_Wait(&gathering_, MPI_STATUS_IGNORE); }
  /// Blocks lie in two arrays, in turns.
  void gather_block(std::size_t i) { gather(parts_[i], block_[i % 2]); }
  void reduce(const Flat& flat) {
    MPI_Reduce_scatter_block(flat.gradients, g_ + flat.at, static_cast<int>(flat.part), MPI_FLOAT,
                             MPI_SUM, comm_);
  }
  void zero(const Flat& flat) {
    device_.fill_zero(stream_, std::span{flat.gradients, flat.part * ranks()});
  }

  double forward(const GptBatch& batch) {
    gather(outer_, outer_.full);
    wait();
    if (!blocks_.empty()) gather_block(0);
    run_forward(embedding_, embedding_w_, batch, {});
    Tensor<float> x = embedding_.out.x;
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      wait();
      if (i + 1 < blocks_.size()) gather_block(i + 1);
      run_forward(blocks_[i], block_w_[i % 2], batch, {{x}});
      x = blocks_[i].out.x;
    }
    run_forward(head_, head_w_, batch, {{x}});
    return static_cast<double>(head_.out.loss.data[0]);
  }

  void backward(const GptBatch& batch) {
    zero(outer_);
    Tensor<float> x = blocks_.empty() ? embedding_.out.x : blocks_.back().out.x;
    std::size_t turn = 0;
    run_backward(head_, head_w_, batch, {{x}}, {{dloss_}}, {dx_[turn]});
    // The last block is still there.
    for (std::size_t i = blocks_.size(); i-- > 0; turn ^= 1) {
      wait();
      if (i > 0) gather_block(i - 1);
      x = i == 0 ? embedding_.out.x : blocks_[i - 1].out.x;
      zero(parts_[i]);
      run_backward(blocks_[i], block_w_[i % 2], batch, {{x}}, {{dx_[turn]}}, {dx_[turn ^ 1]});
      reduce(parts_[i]);
    }
    run_backward(embedding_, embedding_w_, batch, {}, {{dx_[turn]}}, {});
    reduce(outer_);
  }

  template <class Unit>
  void run_forward(const Activations<Unit>& unit, const Weights<Unit>& weights,
                   const GptBatch& batch, const InputOf<Unit, ConstTensor, float>& in) {
    Forward<Unit, Cpu, float> pass{{device_, stream_}, config_, batch};
    pass.w = weights.w;
    pass.in = in;
    pass.out = unit.out;
    pass.saved = unit.saved;
    pass.scratch = unit.scratch;
    Unit::forward(pass);
  }
  template <class Unit>
  void run_backward(const Activations<Unit>& unit, const Weights<Unit>& weights,
                    const GptBatch& batch, const InputOf<Unit, ConstTensor, float>& in,
                    const OutputOf<Unit, ConstTensor, float>& dout,
                    const InputOf<Unit, Tensor, float>& din) {
    Backward<Unit, Cpu, float, float> pass{{device_, stream_}, config_, batch};
    pass.w = weights.w;
    pass.dw = weights.dw;
    pass.in = in;
    pass.dout = dout;
    pass.din = din;
    pass.saved = unit.saved;
    pass.scratch = unit.scratch;
    Unit::backward(pass);
  }

  /// Sums of squares side by side, so that the loop is vectorized.
  double squares() const {
    constexpr std::size_t lanes = 16;  // parts are multiples of a cache line
    std::array<double, lanes> sums{};
    for (std::size_t i = 0; i < count_; i += lanes)
      for (std::size_t k = 0; k < lanes; ++k)
        sums[k] += static_cast<double>(g_[i + k]) * static_cast<double>(g_[i + k]);
    double sum = 0;
    for (const double s : sums) sum += s;
    return sum;
  }
  void update() {
    const AdamW::Options o{};
    const float t = static_cast<float>(++steps_);
    const float unbias_m = 1 / (1 - std::pow(o.beta1, t));
    const float unbias_v = 1 / (1 - std::pow(o.beta2, t));
    const float mean = 1 / static_cast<float>(size_);
    float* __restrict w = w_;
    const float* __restrict gradients = g_;
    float* __restrict m = m_;
    float* __restrict v = v_;
    std::size_t i = 0;
    for (const Run& run : runs_) {
      const float decay = run.decays ? o.weight_decay : 0;
      for (; i < run.end; ++i) {
        const float g = gradients[i] * mean;
        m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
        v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
        const float ratio = m[i] * unbias_m / (std::sqrt(v[i] * unbias_v) + o.epsilon);
        w[i] -= o.learning_rate * (ratio + decay * w[i]);
      }
    }
  }

  struct Free {
    void operator()(void* memory) const { Cpu::deallocate(memory); }
  };

  MPI_Comm comm_;
  GptConfig config_;
  Gathers gathers_;
  int rank_ = 0, size_ = 1;
  MPI_Request gathering_ = MPI_REQUEST_NULL;
  Cpu device_;
  Cpu::Stream stream_;
  std::vector<std::unique_ptr<void, Free>> memory_;

  Flat outer_{};
  std::vector<Flat> parts_;  // of blocks
  std::array<float*, 2> block_{};
  float* block_gradients_ = nullptr;
  std::size_t count_ = 0;  // elements of this rank
  float *w_ = nullptr, *g_ = nullptr, *m_ = nullptr, *v_ = nullptr;
  std::vector<Run> runs_;
  std::size_t steps_ = 0;
  double gradient_norm_ = 0;

  std::byte* scratch_ = nullptr;
  Weights<gpt::Embedding> embedding_w_;
  std::array<Weights<gpt::Block>, 2> block_w_;
  Weights<gpt::Head> head_w_;
  Activations<gpt::Embedding> embedding_;
  std::vector<Activations<gpt::Block>> blocks_;
  Activations<gpt::Head> head_;
  std::array<Tensor<float>, 2> dx_;
  Tensor<float> dloss_;
};

}  // namespace shardexpr::benchmarks
