// SPDX-License-Identifier: Apache-2.0
// DeepSpeed's blocks optimizer and scheduler.
#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>

#include "deepspeed.hpp"

namespace from_config::detail {
namespace {
using enum Verdict;
}  // namespace

void DeepSpeed::judge_optimizer() {
  Description& d = to.strategy;
  Values& v = to.values;
  if (!keys.has("optimizer.type")) {
    if (keys.has_below("optimizer"))
      keys.say_below("optimizer", ignored, "without a type there is no optimizer");
    to.rule(
        "no optimizer is named: AdamW, the default of a strategy; the program may name another");
    return;
  }
  const std::string written = keys.word("optimizer.type").value_or("");
  std::string type = written;
  std::transform(type.begin(), type.end(), type.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const std::string params = "optimizer.params.";
  const bool is_adam = type == "adam" || type == "adamw";
  const auto number = [&](const char* name, auto& to_value, const char* text) {
    const std::string key = params + name;
    if (const auto given = keys.number(key)) to_value = *given;
    say(key, value, keys.is_auto(key) ? "auto: the program's" : text);
  };
  if (is_adam || type == "lion") {
    if (is_adam) {
      // DeepSpeed's Adam is AdamW unless it is told not to be.
      const bool decouples = type == "adamw" || keys.flag(params + "adam_w_mode").value_or(true);
      d.optimizer = decouples ? Optimizer::adamw : Optimizer::adam;
      if (type == "adamw" && !keys.flag(params + "adam_w_mode").value_or(true)) {
        say(params + "adam_w_mode", ignored, "DeepSpeed's AdamW is AdamW");
        warn("optimizer.params.adam_w_mode: without effect, the type is AdamW");
      }
      say(params + "adam_w_mode", taken,
          decouples ? "AdamW: decay is apart from the gradient" : "Adam: decay is in the gradient");
      say("optimizer.type", taken,
          decouples ? (type == "adam" ? "AdamW: so DeepSpeed's Adam is, unless adam_w_mode is false"
                                      : "AdamW")
                    : "Adam");
      v.beta1 = 0.9, v.beta2 = 0.999, v.epsilon = 1e-8, v.weight_decay = 0;
      // torch's own AdamW decays by default.
      if (decouples && keys.flag(params + "torch_adam").value_or(false)) v.weight_decay = 0.01;
      const bool corrects = keys.flag(params + "bias_correction").value_or(true);
      say(params + "bias_correction", corrects ? standard : unsupported,
          corrects ? "moments are corrected" : "moments are always corrected");
      const bool is_maximal = keys.flag(params + "amsgrad").value_or(false);
      say(params + "amsgrad", is_maximal ? unsupported : standard,
          is_maximal ? "there is no AMSGrad" : "off");
      for (const char* name : {"torch_adam", "fused", "foreach", "set_grad_none", "freeze_step"})
        say(params + name, standard, "another implementation of the same update");
      number("eps", v.epsilon, "optimizer.epsilon");
    } else {
      d.optimizer = Optimizer::lion;
      say("optimizer.type", taken, "Lion");
      v.beta1 = 0.9, v.beta2 = 0.99, v.weight_decay = 0;
    }
    const std::string key = params + "betas";
    if (const Node* const betas = keys.node(key); betas != nullptr && !keys.is_auto(key)) {
      const auto is_beta = [](const Node& node) {
        return node.kind == Node::Kind::number && node.number >= 0 && node.number < 1;
      };
      if (betas->list.size() != 2 || !std::all_of(betas->list.begin(), betas->list.end(), is_beta))
        keys.refuse_at(key, "not two numbers in [0, 1); give [0.9, 0.999]");
      v.beta1 = betas->list[0].number;
      v.beta2 = betas->list[1].number;
      say(key, value, "optimizer.beta1 and beta2");
    }
    say(key, value, "auto: the program's");
  } else if (type == "sgd") {
    const auto momentum = keys.number(params + "momentum");
    const bool is_running = momentum && *momentum > 0;
    d.optimizer = is_running ? Optimizer::sgd_momentum : Optimizer::sgd;
    say("optimizer.type", taken, is_running ? "SgdMomentum" : "Sgd");
    v.weight_decay = 0;
    if (is_running) {
      if (*momentum >= 1) keys.refuse_at(params + "momentum", "1 or more; give less");
      v.momentum = *momentum;
      say(params + "momentum", value, "optimizer.momentum");
      number("dampening", v.dampening, "optimizer.dampening");
      v.nesterov = keys.flag(params + "nesterov").value_or(false);
      say(params + "nesterov", value, "optimizer.nesterov");
    }
    say(params + "momentum", standard, "0: Sgd");
    // Without momentum they act on nothing; torch refuses nesterov then.
    for (const char* name : {"dampening", "nesterov"})
      say(params + name, ignored, "there is no momentum");
  } else if (type == "adagrad") {
    d.optimizer = Optimizer::adagrad;
    say("optimizer.type", taken, "Adagrad");
    v.weight_decay = 0;
    number("eps", v.epsilon, "optimizer.epsilon");
    number("lr_decay", v.learning_rate_decay, "optimizer.learning_rate_decay");
  } else {
    keys.say_below("optimizer", unsupported,
                   "there is no optimizer " + shown(written) +
                       "; a policy of your own can be one (examples/own_optimizer)");
    return;
  }
  if (type == "sgd" && stage >= 1 && !keys.flag("zero_allow_untested_optimizer").value_or(false))
    warn(
        "optimizer.type: DeepSpeed refuses SGD with ZeRO unless zero_allow_untested_optimizer is "
        "true; it works here");
  if (d.optimizer_state.kind == PlaceOf::Kind::partly && !is_adam)
    warn(
        "zero_optimization.offload_optimizer.ratio: DeepSpeed refuses it with another optimizer "
        "than Adam; it works here");
  number("lr", v.learning_rate, "optimizer.learning_rate");
  number("weight_decay", v.weight_decay, "optimizer.weight_decay");
  say("optimizer.legacy_fusion", aside, "another implementation of the same update");
  // No moments: nothing to keep in a dtype of its own (SX121).
  if (d.optimizer == Optimizer::sgd) d.precision.optimizer = d.precision.storage;
  for (const char* name : {"beta1", "beta2"})
    if (keys.has(params + name))
      say(params + name, unsupported, "give betas, which DeepSpeed reads");
}

void DeepSpeed::judge_scheduler() {
  Values& v = to.values;
  const std::string params = "scheduler.params.";
  if (!keys.has("scheduler.type")) {
    keys.say_below("scheduler", ignored, "without a type there is no schedule");
    return;
  }
  const std::string type = keys.word("scheduler.type").value_or("");
  const bool is_warmup = type == "WarmupLR", is_linear = type == "WarmupDecayLR",
             is_cosine = type == "WarmupCosineLR";
  if (!is_warmup && !is_linear && !is_cosine) {
    keys.say_below("scheduler", unsupported,
                   "there is no schedule " + shown(type) + "; set_learning_rate gives any");
    return;
  }
  say("scheduler.type", value,
      is_warmup   ? "schedule: LearningRateSchedule::warmup"
      : is_linear ? "schedule: LearningRateSchedule::warmup_linear"
                  : "schedule: LearningRateSchedule::warmup_cosine");
  v.warmup_steps = keys.count(params + "warmup_num_steps").value_or(1000);
  v.total_steps = keys.count(params + "total_num_steps").value_or(0);
  v.schedule = Schedule::warmup;
  if (!is_warmup && v.total_steps != 0) {
    if (v.total_steps < v.warmup_steps)
      keys.refuse_at(params + "total_num_steps", "fewer than warmup_num_steps; give more");
    v.schedule = is_linear ? Schedule::linear : Schedule::cosine;
  }
  if (keys.is_auto(params + "warmup_num_steps")) {
    v.warmup_steps = 0;
    v.schedule = Schedule::constant;
    to.rule("\"auto\" of a schedule's steps is the program's: the header leaves the rate constant");
  }
  const auto peak = keys.number(params + "warmup_max_lr");
  if (peak) v.learning_rate = *peak;
  const auto first = keys.number(params + "warmup_min_lr");
  if (first && *first > 0) warn("scheduler.params.warmup_min_lr: the rate rises from 0 here");
  if (const auto ratio = keys.number(params + "cos_min_ratio")) {
    if (*ratio > 1) keys.refuse_at(params + "cos_min_ratio", "above 1; give a fraction");
    v.least_rate = *ratio;
  }
  const auto shape = keys.choice(params + "warmup_type", {"log", "linear"});
  if (shape.value_or(0) == 0 && (is_warmup || is_linear))
    warn(
        "scheduler.params.warmup_type: DeepSpeed's rate rises with the logarithm of the step "
        "unless this is linear; here it rises in a line");
  for (const char* name : {"warmup_num_steps", "total_num_steps", "warmup_max_lr", "warmup_min_lr",
                           "warmup_type", "cos_min_ratio", "warmup_min_ratio"}) {
    const std::string key = params + name;
    say(key, value, keys.is_auto(key) ? "auto: the program's" : "of the schedule");
  }
  (void)keys.any_number(params + "last_batch_iteration");
  say(params + "last_batch_iteration", aside, "where a run goes on: the checkpoint says it");
}

}  // namespace from_config::detail
