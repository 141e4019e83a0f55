// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>

#include <cstddef>
#include <utility>

namespace shardexpr {

namespace detail {
template <class M, class S>
class OwnLoop;  // engine/own_loop.hpp
template <class Trainer>
using LoopOf = OwnLoop<typename Trainer::Model, typename Trainer::Strategy>;
}  // namespace detail

/// The full parameters of one unit, while this object lives: `guard->weight` is a
/// `Tensor<const Compute>`. Made by `trainer.gather<Unit>(i)`; moves, never copies, and must not
/// outlive its trainer. Several may hold one unit; the last gives the memory back.
///
/// Order:   making it is collective, destroying it is not; the host may read at once. What is
///          enqueued on it must go on `trainer.context()`, so that the memory is given away after
///          it.
template <class Trainer, class Unit>
class Gathered {
 public:
  using Parameters = typename Trainer::template Parameters<Unit>;

  Gathered(Gathered&& other) noexcept
      : loop_{std::exchange(other.loop_, nullptr)},
        u_{other.u_},
        parameters_{std::exchange(other.parameters_, {})} {}
  Gathered& operator=(Gathered&&) = delete;
  ~Gathered() {
    if (loop_ != nullptr) loop_->leave(u_);
  }

  /// The views, by the unit's names.
  const Parameters& operator*() const { return parameters_; }
  /// The views, by the unit's names.
  const Parameters* operator->() const { return &parameters_; }

 private:
  friend detail::LoopOf<Trainer>;
  Gathered(detail::LoopOf<Trainer>& loop, std::size_t u)
      : loop_{&loop}, u_{u}, parameters_{loop.template enter<Unit>(u)} {}

  detail::LoopOf<Trainer>* loop_;  // null once moved away
  std::size_t u_;
  Parameters parameters_;
};

/// The full gradients of one unit, to be added to: `guard->weight` is a `Tensor<Gradient>`, its
/// `data` null where the parameter is frozen. Made by `trainer.open_gradients<Unit>(i)`; moves,
/// never copies, and must not outlive its trainer.
///
/// Order:   what is enqueued on it must go on `trainer.context()`. To destroy it without `reduce`
///          leaves the gradients open, with what was added: the next guard of the unit goes on from
///          there.
template <class Trainer, class Unit>
class OpenGradients {
 public:
  using Gradients = typename Trainer::template Gradients<Unit>;

  OpenGradients(OpenGradients&& other) noexcept
      : loop_{std::exchange(other.loop_, nullptr)},
        u_{other.u_},
        gradients_{std::exchange(other.gradients_, {})} {}
  OpenGradients& operator=(OpenGradients&&) = delete;
  ~OpenGradients() = default;

  /// The views, by the unit's names.
  const Gradients& operator*() const { return gradients_; }
  /// The views, by the unit's names.
  const Gradients* operator->() const { return &gradients_; }

  /// The unit adds no more; the guard's views are empty from here on. Gradients are reduced with
  /// the last unit, in backward order, that adds to them: those of a tied parameter, or of a group
  /// of several units, wait for it.
  ///
  /// Order:   collective.
  /// Errors:  ConfigError if this guard was reduced before or moved away, if others that add to the
  ///          same gradients were not reduced (it names them), or if `drop_gradients` took them.
  void reduce() {
    if (loop_ == nullptr)
      throw ConfigError("reduce: this guard was reduced before, or moved away: open another");
    loop_->reduce_after(u_);
    loop_ = nullptr;
    gradients_ = {};
  }

 private:
  friend detail::LoopOf<Trainer>;
  OpenGradients(detail::LoopOf<Trainer>& loop, std::size_t u)
      : loop_{&loop}, u_{u}, gradients_{loop.template open<Unit>(u)} {}

  detail::LoopOf<Trainer>* loop_;  // null once reduced or moved away
  std::size_t u_;
  Gradients gradients_;
};

/// Whose values `summon` writes back.
struct WriteFrom {
  std::size_t rank = 0;
};

}  // namespace shardexpr
