// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/optim/adamw.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "gpt_units.hpp"
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
    units_.blocks.resize(config.layers);
    const std::size_t outer = flat_count(parameter_count_of<gpt::Embedding>(config) +
                                         parameter_count_of<gpt::Head>(config));
    const std::size_t block = flat_count(parameter_count_of<gpt::Block>(config));
    outer_ = {floats(outer), floats(outer), outer / ranks(), 0};
    for (auto& full : block_) full = floats(block);
    block_gradients_ = floats(block);
    for (std::size_t i = 0; i < config.layers; ++i)
      parts_.push_back(
          {nullptr, block_gradients_, block / ranks(), outer / ranks() + i * (block / ranks())});
    count_ = outer / ranks() + config.layers * (block / ranks());
    for (float** flat : {&w_, &g_, &m_, &v_}) *flat = floats(count_);

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

  std::size_t ranks() const { return static_cast<std::size_t>(size_); }
  /// Parts begin at cache lines.
  std::size_t flat_count(std::size_t parameters) const {
    return round_up(parameters, ranks() * buffer_alignment_bytes / sizeof(float));
  }
  float* floats(std::size_t count) { return arrays_.array<float>(count); }

  // Setting up
  // --------------------------------------------------------------------------------------

  void bind() {
    const auto bind = [&](auto& unit, float* w, float* dw) {
      units_.bind_parameters(unit, config_, w, dw);
    };
    const std::size_t head = parameter_count_of<gpt::Embedding>(config_);
    bind(units_.embedding, outer_.full, outer_.gradients);
    bind(units_.head, outer_.full + head, outer_.gradients + head);
    for (std::size_t i = 0; i < parts_.size(); ++i)
      bind(units_.blocks[i], block_[i % 2], block_gradients_);
    units_.bind_activations(arrays_, config_);
    units_.dloss.data[0] = 1;
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
    for (std::size_t i = 0; i < parts_.size(); ++i) {
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
    const auto& [embedding, blocks, head, dx, dloss] = units_;
    const UnitPasses<Cpu> on{{device_, stream_}, config_, batch};
    gather(outer_, outer_.full);
    wait();
    if (!blocks.empty()) gather_block(0);
    on.forward(embedding, {});
    Tensor<float> x = embedding.out.x;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      wait();
      if (i + 1 < blocks.size()) gather_block(i + 1);
      on.forward(blocks[i], {{x}});
      x = blocks[i].out.x;
    }
    on.forward(head, {{x}});
    return static_cast<double>(head.out.loss.data[0]);
  }

  void backward(const GptBatch& batch) {
    const auto& [embedding, blocks, head, dx, dloss] = units_;
    const UnitPasses<Cpu> on{{device_, stream_}, config_, batch};
    zero(outer_);
    Tensor<float> x = blocks.empty() ? embedding.out.x : blocks.back().out.x;
    std::size_t turn = 0;
    on.backward(head, {{x}}, {{dloss}}, {dx[turn]});
    // The last block is still there.
    for (std::size_t i = blocks.size(); i-- > 0; turn ^= 1) {
      wait();
      if (i > 0) gather_block(i - 1);
      x = i == 0 ? embedding.out.x : blocks[i - 1].out.x;
      zero(parts_[i]);
      on.backward(blocks[i], {{x}}, {{dx[turn]}}, {dx[turn ^ 1]});
      reduce(parts_[i]);
    }
    on.backward(embedding, {}, {{dx[turn]}}, {});
    reduce(outer_);
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
    for (const DecayRun& run : runs_) {
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

  MPI_Comm comm_;
  GptConfig config_;
  Gathers gathers_;
  int rank_ = 0, size_ = 1;
  MPI_Request gathering_ = MPI_REQUEST_NULL;
  Cpu device_;
  Cpu::Stream stream_;
  Arrays<Cpu> arrays_{device_};

  Flat outer_{};
  std::vector<Flat> parts_;  // of blocks
  std::array<float*, 2> block_{};
  float* block_gradients_ = nullptr;
  std::size_t count_ = 0;  // elements of this rank
  float *w_ = nullptr, *g_ = nullptr, *m_ = nullptr, *v_ = nullptr;
  std::vector<DecayRun> runs_;
  std::size_t steps_ = 0;
  double gradient_norm_ = 0;

  GptUnits<float, float> units_;
};

}  // namespace shardexpr::benchmarks
