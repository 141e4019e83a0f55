// SPDX-License-Identifier: Apache-2.0
#pragma once
// Parts of the judge of Accelerate's YAML.
#include <cstddef>
#include <optional>
#include <string>

#include "judge.hpp"

namespace from_config::detail {

struct Accelerate {
  Keys& keys;
  Settings settings;  // ranks are the file's, where it says them
  Judgement& to;
  std::string mixed = "no";
  std::size_t machines = 1;

  void judge_launch();
  void judge_type();
  void judge_ddp();
  void judge_fsdp();
  void judge_sharding(std::size_t version);
  void judge_wrap(std::size_t version);
  void judge_fsdp_precision();
  void judge_loading(std::size_t version);
  void judge_deepspeed_block();
  void judge_deepspeed_file(const std::string& path);
  void judge_rest();

  void say(const std::string& key, Verdict verdict, const std::string& text) const {
    keys.say(key, verdict, text);
  }
  void warn(const std::string& text) const { to.warn(text); }
};

}  // namespace from_config::detail
