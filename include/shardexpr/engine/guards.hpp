// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <utility>

namespace shardexpr {

/// The full parameters of one unit, while this object lives: `guard->weight` is a
/// `Tensor<const Compute>`. Made by `trainer.gather<Unit>(i)`; moves, never copies.
///
/// Order:   collective; the host may read at once. What the guard's user enqueues must go on
///          `trainer.context()`, so that the memory is given away after it.
template <class Trainer, class Unit>
class Gathered {
 public:
  using Parameters = typename Trainer::template Parameters<Unit>;

  Gathered(Trainer& trainer, std::size_t u)
      : trainer_{&trainer}, u_{u}, parameters_{trainer.enter(u, Unit{})} {}
  Gathered(Gathered&& other) noexcept
      : trainer_{std::exchange(other.trainer_, nullptr)},
        u_{other.u_},
        parameters_{other.parameters_} {}
  Gathered& operator=(Gathered&&) = delete;
  ~Gathered() {
    if (trainer_ != nullptr) trainer_->leave(u_);
  }

  const Parameters& operator*() const { return parameters_; }
  const Parameters* operator->() const { return &parameters_; }

 private:
  Trainer* trainer_;
  std::size_t u_;
  Parameters parameters_;
};

/// The full gradients of one unit, to be added to: `guard->weight` is a `Tensor<Gradient>`, empty
/// where the parameter is frozen. Made by `trainer.open_gradients<Unit>(i)`; moves, never copies.
template <class Trainer, class Unit>
class OpenGradients {
 public:
  using Gradients = typename Trainer::template Gradients<Unit>;

  OpenGradients(Trainer& trainer, std::size_t u)
      : trainer_{&trainer}, u_{u}, gradients_{trainer.open(u, Unit{})} {}
  OpenGradients(OpenGradients&& other) noexcept
      : trainer_{std::exchange(other.trainer_, nullptr)},
        u_{other.u_},
        gradients_{other.gradients_} {}
  OpenGradients& operator=(OpenGradients&&) = delete;

  const Gradients& operator*() const { return gradients_; }
  const Gradients* operator->() const { return &gradients_; }

  /// The unit adds no more. Gradients are reduced with the last unit, in backward order, that adds
  /// to them: those of a tied parameter, or of a group of several units, wait for it.
  /// Order:   collective.
  void reduce() { std::exchange(trainer_, nullptr)->reduce_after(u_); }

 private:
  Trainer* trainer_;  // null once reduced
  std::size_t u_;
  Gradients gradients_;
};

/// Whose values `summon` writes back.
struct WriteFrom {
  std::size_t rank = 0;
};

}  // namespace shardexpr
