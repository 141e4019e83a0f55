// SPDX-License-Identifier: Apache-2.0
#pragma once
// Parts of the judge of DeepSpeed's JSON.
#include <cstddef>
#include <optional>
#include <string>

#include "judge.hpp"

namespace from_config::detail {

struct DeepSpeed {
  Keys& keys;
  const Settings& settings;
  Judgement& to;
  std::optional<std::size_t> ranks;  ///< as settings say, or batch sizes
  std::size_t stage = 0;

  void judge_stage();
  void judge_precision();
  void judge_communication();
  void judge_zero();
  void judge_offload();
  void judge_optimizer();
  void judge_scheduler();
  void judge_batches();
  void judge_clipping();
  void judge_rest();

  void say(const std::string& key, Verdict verdict, const std::string& text) const {
    keys.say(key, verdict, text);
  }
  /// The value of a key of stage 3, in elements; below it is ignored there.
  std::optional<std::size_t> threshold(const std::string& name, const std::string& alias);
  void warn(const std::string& text) const { to.warn(text); }
};

}  // namespace from_config::detail
