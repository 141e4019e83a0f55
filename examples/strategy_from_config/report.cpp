// SPDX-License-Identifier: Apache-2.0
// The table of verdicts, and the generated header.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>

#include "write.hpp"

namespace from_config {
namespace {

/// Columns of a text in a terminal: UTF-8 counts by characters.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}
std::string padded(const std::string& text, std::size_t columns) {
  return text + std::string(columns - std::min(columns, width(text)), ' ') + "  ";
}

/// A text as a literal of C++.
std::string literal(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += std::string{'\\', c};
    } else if (byte < 0x20 || byte >= 0x7f || c == '?') {
      char octal[8];
      std::snprintf(octal, sizeof octal, "\\%03o", byte);
      out += octal;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string as_float(double value) {
  std::string text = detail::short_number(value);
  if (text.find_first_of(".e") == text.npos) text += ".0";
  return text + "f";
}

}  // namespace

std::string report(const Judgement& judged) {
  std::string text = judged.is_supported() ? "" : "not all of it is carried over; the nearest:\n";
  text += "Sharded<Model, " + pack_of(judged.strategy) + ">\n";
  const bool is_one = std::all_of(judged.rows.begin(), judged.rows.end(), [&](const Row& row) {
    return row.file == judged.rows.front().file;
  });
  const auto place = [&](const Row& row) {
    return (is_one ? "" : row.file + ":") + std::to_string(row.line);
  };
  std::size_t places = 4, keys = 3, values = 5;
  for (const Row& row : judged.rows) {
    places = std::max(places, width(place(row)));
    keys = std::max(keys, width(row.key));
    values = std::max(values, width(row.value));
  }
  const auto line = [&](const std::string& at, const std::string& key, const std::string& value,
                        const std::string& verdict, const std::string& what) {
    text += padded(at, places) + padded(key, std::min<std::size_t>(keys, 60)) +
            padded(value, std::min<std::size_t>(values, 40)) + padded(verdict, 18) + what + "\n";
  };
  if (!judged.rows.empty()) {
    text += "\n";
    line("line", "key", "value", "verdict", "");
    text.erase(text.find_last_not_of(" \n") + 1);
    text += "\n";
  }
  for (const Row& row : judged.rows)
    line(place(row), row.key, row.value, verdict_names[static_cast<std::size_t>(row.verdict)],
         row.text);
  const auto list = [&](const char* title, const std::vector<std::string>& lines) {
    if (!lines.empty()) text += std::string{"\n"} + title + "\n";
    for (const std::string& each : lines) text += "  " + each + "\n";
  };
  list("warnings", judged.warnings);
  list("rules", judged.rules);
  return text;
}

std::string write_header(const std::string& name, const std::string& file, const Description& d,
                         const Values& v) {
  std::string set;
  const auto put = [&](const char* option, const std::string& value) {
    set += std::string{"    options."} + option + " = " + value + ";\n";
  };
  const auto put_float = [&](const char* option, const std::optional<double>& value) {
    if (value) put(option, as_float(*value));
  };
  put_float("optimizer.learning_rate", v.learning_rate);
  put_float("optimizer.weight_decay", v.weight_decay);
  const bool is_adam = d.optimizer == Optimizer::adamw || d.optimizer == Optimizer::adam;
  if (is_adam || d.optimizer == Optimizer::lion) {
    put_float("optimizer.beta1", v.beta1);
    put_float("optimizer.beta2", v.beta2);
  }
  if (is_adam || d.optimizer == Optimizer::adagrad) put_float("optimizer.epsilon", v.epsilon);
  if (d.optimizer == Optimizer::adagrad)
    put_float("optimizer.learning_rate_decay", v.learning_rate_decay);
  if (d.optimizer == Optimizer::sgd_momentum) {
    put_float("optimizer.momentum", v.momentum);
    put_float("optimizer.dampening", v.dampening);
    if (v.nesterov) put("optimizer.nesterov", *v.nesterov ? "true" : "false");
  }
  if (d.clipping == Clipping::norm) put_float("clipping.max_norm", v.clip);
  if (d.clipping == Clipping::value) put_float("clipping.max_value", v.clip);
  if (d.loss_scale == LossScale::fixed) put_float("loss_scale.scale", v.scale);
  if (d.loss_scale == LossScale::dynamic) {
    put_float("loss_scale.initial_scale", v.initial_scale);
    if (v.growth_interval) put("loss_scale.growth_interval", std::to_string(*v.growth_interval));
    if (v.hysteresis) put("loss_scale.hysteresis", std::to_string(*v.hysteresis));
    put_float("loss_scale.least_scale", v.least_scale);
  }
  put("micro_batches", std::to_string(v.micro_batches));
  const std::string schedule = "shardexpr::LearningRateSchedule::";
  const std::string steps = std::to_string(v.warmup_steps);
  const std::string fall =
      steps + ", " + std::to_string(v.total_steps) + ", " + detail::short_number(v.least_rate);
  if (v.schedule == Schedule::warmup) put("schedule", schedule + "warmup(" + steps + ")");
  if (v.schedule == Schedule::linear) put("schedule", schedule + "warmup_linear(" + fall + ")");
  if (v.schedule == Schedule::cosine) put("schedule", schedule + "warmup_cosine(" + fall + ")");

  const auto count = [](const std::optional<std::size_t>& value) {
    return std::to_string(value.value_or(0));
  };
  const std::string pack = pack_of(d);
  std::string text =
      "// Made by strategy_from_config; the file it was made from is what to change.\n"
      "#pragma once\n"
      "#include <shardexpr/shardexpr.hpp>\n"
      "\n"
      "#include <cstddef>\n"
      "\n"
      "namespace shardexpr_files_" +
      name +
      " {\n"
      "using namespace shardexpr;  // policies are written without their scope\n"
      "template <class Model>\n"
      "using Trainer = Sharded<Model, " +
      pack +
      ">;\n"
      "}  // namespace shardexpr_files_" +
      name +
      "\n"
      "\n"
      "struct " +
      name +
      " {\n"
      "  template <class Model>\n"
      "  using Trainer = shardexpr_files_" +
      name +
      "::Trainer<Model>;\n"
      "\n"
      "  static constexpr const char* file = " +
      literal(file) +
      ";\n"
      "  static constexpr const char* policies = " +
      literal(pack) +
      ";\n"
      "  // 0: the file does not say it.\n"
      "  static constexpr std::size_t ranks = " +
      count(v.ranks) + ", micro_batches = " + std::to_string(v.micro_batches) +
      ", micro_batch_size = " + count(v.micro_batch_size) +
      ";\n"
      "  /// Streams of their own for computing and communicating: Cpu{Execution::asynchronous}.\n"
      "  static constexpr bool overlaps = " +
      (v.overlaps ? "true" : "false") +
      ";\n"
      "  /// A checkpoint's form, full, sharded or local; empty: the file does not say it.\n"
      "  static constexpr const char* checkpoint = " +
      literal(v.checkpoint) +
      ";\n"
      "  /// The folder for state on a disk; empty: there is none, or the file does not say it.\n"
      "  static constexpr const char* nvme_directory = " +
      literal(v.nvme_directory) +
      ";\n"
      "\n"
      "  /// Sets what the file says, leaves the rest of a trainer's options.\n"
      "  template <class Options>\n"
      "  static void set(Options& options) {\n" +
      set +
      "  }\n"
      "};\n";
  return text;
}

}  // namespace from_config
