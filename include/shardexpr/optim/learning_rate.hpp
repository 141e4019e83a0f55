// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/option_check.hpp>

#include <cmath>
#include <cstddef>
#include <numbers>
#include <string>

namespace shardexpr {

/// What the learning rate is multiplied by in each step, as a function of the step alone: nothing
/// is kept from step to step.
///
/// Steps count from 1. With w warm-up steps and n steps in all, the factor of step s is
///
///   s / w                                              for s <= w: 1/w, 2/w, ... 1
///   least + (1 - least) (1 + cos(pi q)) / 2            for w < s <= n, cosine
///   least + (1 - least) (1 - q)                        for w < s <= n, linear
///   least                                              for s > n
///
/// with q = (s - w) / (n - w), so that step n is the first whose factor is `least`. `constant` and
/// `warmup` stay at 1. Hugging Face's schedulers give step s what this gives step s - 1: their
/// first step has a factor of 0.
class LearningRateSchedule {
 public:
  /// Constant.
  LearningRateSchedule() = default;
  /// The factor 1 throughout.
  static LearningRateSchedule constant() { return {}; }
  /// `steps` 0: constant.
  static LearningRateSchedule warmup(std::size_t steps) {
    LearningRateSchedule schedule;
    schedule.warmup_ = steps;
    return schedule;
  }
  /// Errors:  both throw ConfigError for a total of 0, less than the warm-up's, `least` not in
  ///          [0, 1].
  static LearningRateSchedule warmup_cosine(std::size_t warmup_steps, std::size_t total_steps,
                                            double least = 0) {
    return {"warmup_cosine", Fall::cosine, warmup_steps, total_steps, least};
  }
  /// As `warmup_cosine`, but straight from 1 down.
  static LearningRateSchedule warmup_linear(std::size_t warmup_steps, std::size_t total_steps,
                                            double least = 0) {
    return {"warmup_linear", Fall::linear, warmup_steps, total_steps, least};
  }

  double factor(std::size_t step) const {
    if (step <= warmup_) return static_cast<double>(step) / static_cast<double>(warmup_);
    if (fall_ == Fall::none) return 1;
    if (step >= total_) return least_;
    const double q = static_cast<double>(step - warmup_) / static_cast<double>(total_ - warmup_);
    const double left = fall_ == Fall::cosine ? (1 + std::cos(std::numbers::pi * q)) / 2 : 1 - q;
    return least_ + (1 - least_) * left;
  }

 private:
  enum class Fall { none, cosine, linear };

  LearningRateSchedule(const char* name, Fall fall, std::size_t warmup, std::size_t total,
                       double least)
      : fall_{fall}, warmup_{warmup}, total_{total}, least_{least} {
    const OptionCheck check{"LearningRateSchedule::" + std::string{name}};
    check.require(total > 0, "total_steps", 0, "at least 1");
    check.require(warmup <= total, "warmup_steps", static_cast<double>(warmup),
                  ("at most total_steps, " + std::to_string(total)).c_str());
    check.at_most_one("least", least);
  }

  Fall fall_ = Fall::none;
  std::size_t warmup_ = 0, total_ = 0;
  double least_ = 0;
};

}  // namespace shardexpr
