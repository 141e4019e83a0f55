// SPDX-License-Identifier: Apache-2.0
// The closure at work: a copy of the trained parameters, and the units' own forward on them, with
// no trainer in the solver's loop.
#pragma once
#include <cstddef>
#include <utility>
#include <vector>

#include "closure.hpp"

/// Adds what the network answers to the fluxes of a solver with the given block.
class Learned {
 public:
  Learned(const Config& config, const Block& block)
      : config_{config},
        x_more_{block.field()},
        y_more_{x_more_},
        seen_(config.faces * stencil),
        h_(2 * config.faces * config.width),
        kept_(config.faces * config.width),
        answer_(2 * config.faces) {}

  Learned(const Learned&) = delete;  // the stream points to the device
  Learned& operator=(const Learned&) = delete;

  // [take]
  /// Takes the parameters of a trainer. Collective: each process keeps a part of them.
  template <class Trainer>
  void take(Trainer& trainer) {
    weights_.clear();
    const auto keep = [&](const sx::Tensor<const float>& w) {
      weights_.push_back({std::vector<float>(w.data, w.data + w.count()), w.shape});
    };
    keep(trainer.template gather<First>()->weight);
    for (std::size_t i = 0; i < config_.depth; ++i)
      keep(trainer.template gather<Hidden>(i)->weight);
    keep(trainer.template gather<Last>()->weight);
  }
  // [take end]

  void operator()(Solver& solver) {
    const Batch batch{&solver, nullptr, nullptr, 0};
    const sx::Context<sx::Cpu> context{device_, stream_};
    sx::Tensor<float> h = hidden(0), next = hidden(1);
    {
      sx::Forward<First, sx::Cpu, float> pass{context, config_, batch};
      pass.w.weight = weights_.front();
      pass.saved.seen = {seen_.data(), sx::shape(config_.faces, stencil)};
      pass.saved.h = kept();
      pass.out.h = h;
      First::forward(pass);
    }
    for (std::size_t i = 0; i < config_.depth; ++i) {
      sx::Forward<Hidden, sx::Cpu, float> pass{context, config_, batch};
      pass.w.weight = weights_[1 + i];
      pass.in.h = {h};
      pass.saved.h = kept();
      pass.out.h = next;
      Hidden::forward(pass);
      std::swap(h, next);
    }
    sx::Forward<Last, sx::Cpu, float> pass{context, config_, batch};
    pass.w.weight = weights_.back();
    pass.in.h = {h};
    pass.saved.answer = {answer_.data(), sx::shape(config_.faces)};
    pass.saved.slope = {answer_.data() + config_.faces, sx::shape(config_.faces)};
    Last::answer(pass);
    const Block& block = solver.block;
    for (std::size_t f = 0; f < batch.faces(); ++f) {
      const Face face{block, f};
      (face.is_below ? y_more_ : x_more_).data()[face.place] = answer_[f];
    }
    // A face that two blocks share is answered for by one of them: products of other sizes round
    // otherwise, and what leaves a cell is to enter the next.
    block.exchange({&x_more_, &y_more_});
    solver.x_flux += x_more_;
    solver.y_flux += y_more_;
  }

 private:
  struct Weight {
    std::vector<float> values;
    sx::Shape shape;
    operator sx::Tensor<const float>() const { return {values.data(), shape}; }
  };
  sx::Tensor<float> hidden(std::size_t i) {
    return {h_.data() + i * config_.faces * config_.width, sx::shape(config_.faces, config_.width)};
  }
  sx::Tensor<float> kept() { return {kept_.data(), sx::shape(config_.faces, config_.width)}; }

  Config config_;
  Field x_more_, y_more_;
  std::vector<Weight> weights_;
  std::vector<float> seen_, h_, kept_, answer_;
  sx::Cpu device_;
  sx::Cpu::Stream stream_{device_, "closure"};
};
