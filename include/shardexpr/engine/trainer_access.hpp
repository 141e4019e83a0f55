// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

namespace shardexpr::detail {

/// What checkpoints see of a trainer.
struct TrainerAccess {
  template <class Trainer>
  static auto& core(Trainer& trainer) {
    return trainer.core_;
  }
  template <class Trainer>
  static auto& scaler(Trainer& trainer) {
    return trainer.scaler_;
  }
  template <class Trainer>
  static auto& buffers(Trainer& trainer) {
    return trainer.passes_.buffers;
  }
  /// Between steps: no guard is alive, and no gradients wait.
  template <class Trainer>
  static void check_idle(Trainer& trainer, const char* verb) {
    trainer.loop_.check_idle(verb);
    trainer.loop_.check_no_gradients();
  }
  template <class Trainer>
  static void set_options(Trainer& trainer, const typename Trainer::Options& options) {
    trainer.options_ = Trainer::checked(options);
  }
  template <class Trainer>
  static void set_steps(Trainer& trainer, std::size_t steps) {
    trainer.steps_ = steps;
  }
};

}  // namespace shardexpr::detail
