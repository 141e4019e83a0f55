// SPDX-License-Identifier: Apache-2.0
#include "judge.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

namespace from_config {
namespace {

/// A value as a table shows it, in a few words.
std::string shown_value(const Node& node) {
  switch (node.kind) {
    case Node::Kind::null:
      return "null";
    case Node::Kind::boolean:
      return node.boolean ? "true" : "false";
    case Node::Kind::number:
      return node.text;
    case Node::Kind::text: {
      const std::string text = shown(node.text);
      return text.size() > 62 ? shown(node.text.substr(0, 40)) + "..." : text;
    }
    case Node::Kind::map:
      return "{}";
    case Node::Kind::list:
      break;
  }
  std::string all;
  for (const Node& each : node.list) {
    all += (all.empty() ? "" : ", ") +
           (each.is_map() && !each.keys.empty() ? std::string{"{...}"} : shown_value(each));
    if (all.size() > 40) return "[" + all + ", ...]";
  }
  return "[" + all + "]";
}

const char* kind_name(const Node& node) {
  static constexpr std::array names{"null",   "a truth value", "a number",
                                    "a text", "a list",        "a map"};
  return names[static_cast<std::size_t>(node.kind)];
}

}  // namespace

void Judgement::rule(const std::string& text) {
  if (std::find(rules.begin(), rules.end(), text) == rules.end()) rules.push_back(text);
}

Keys::Keys(const Document& document) : document_{document} { flatten(document.root, ""); }

void Keys::flatten(const Node& map, const std::string& above) {
  for (std::size_t i = 0; i < map.keys.size(); ++i) {
    const std::string key = join(above, map.keys[i]);
    const Node& value = map.values[i];
    if (value.is_map() && !value.keys.empty()) {
      flatten(value, key);
      continue;
    }
    index_.emplace(key, leaves_.size());
    leaves_.push_back({key, &value, map.key_lines[i], {}, {}});
  }
}

const Keys::Leaf* Keys::find(std::string_view key) const {
  const auto at = index_.find(key);
  return at == index_.end() ? nullptr : &leaves_[at->second];
}
Keys::Leaf* Keys::find(std::string_view key) {
  return const_cast<Leaf*>(std::as_const(*this).find(key));
}

bool Keys::has_below(std::string_view above) const {
  const std::string prefix = std::string{above} + ".";
  const auto at = index_.lower_bound(prefix);
  return at != index_.end() && at->first.starts_with(prefix);
}
const Node* Keys::node(std::string_view key) const {
  const Leaf* const leaf = find(key);
  return leaf == nullptr ? nullptr : leaf->node;
}
bool Keys::is_auto(std::string_view key) const {
  const Node* const at = node(key);
  return at != nullptr && at->kind == Node::Kind::text && at->text == "auto";
}
bool Keys::is_null(std::string_view key) const {
  const Node* const at = node(key);
  return at != nullptr && at->kind == Node::Kind::null;
}

void Keys::refuse_at(std::string_view key, const std::string& what) const {
  const Leaf* const leaf = find(key);
  refuse(document_.name, leaf == nullptr ? 1 : leaf->line, key, what);
}

std::optional<bool> Keys::flag(std::string_view key) const {
  const Node* const at = node(key);
  if (at == nullptr || is_null(key) || is_auto(key)) return {};
  if (at->kind != Node::Kind::boolean)
    refuse_at(key,
              shown_value(*at) + " is " + kind_name(*at) + "; give true or false, without quotes");
  return at->boolean;
}

std::optional<double> Keys::any_number(std::string_view key) const {
  const Node* const at = node(key);
  if (at == nullptr || is_null(key) || is_auto(key)) return {};
  if (at->kind != Node::Kind::number)
    refuse_at(key, shown_value(*at) + " is " + kind_name(*at) + "; give a number" +
                       (at->kind == Node::Kind::text
                            ? ", without quotes; in YAML one with an exponent as 1.0e+8"
                            : ""));
  return at->number;
}
std::optional<double> Keys::number(std::string_view key) const {
  const auto value = any_number(key);
  if (value && *value < 0) refuse_at(key, node(key)->text + " is negative; give at least 0");
  return value;
}
std::optional<std::size_t> Keys::count(std::string_view key) const {
  const auto value = number(key);
  if (!value) return {};
  // Up to here a double holds every whole number.
  if (*value > 0x1p53) refuse_at(key, node(key)->text + " is too large; give at most 2^53");
  if (*value != std::floor(*value))
    refuse_at(key, node(key)->text + " is a fraction; give a whole number");
  return static_cast<std::size_t>(*value);
}
std::optional<std::string> Keys::word(std::string_view key) const {
  const Node* const at = node(key);
  if (at == nullptr || is_null(key)) return {};
  if (at->kind != Node::Kind::text)
    refuse_at(key, shown_value(*at) + " is " + kind_name(*at) + "; give a text" +
                       (at->kind == Node::Kind::boolean ? ", in quotes" : ""));
  return at->text;
}
std::optional<std::size_t> Keys::choice(std::string_view key,
                                        std::initializer_list<const char*> words) const {
  const auto given = word(key);
  if (!given) return {};
  std::string all;
  std::size_t i = 0;
  for (const char* word : words) {
    if (*given == word) return i;
    ++i;
    all += std::string{all.empty() ? "" : ", "} + word;
  }
  refuse_at(key, shown(*given) + " is none of " + all);
}

void Keys::say(std::string_view key, Verdict verdict, const std::string& text) {
  Leaf* const leaf = find(key);
  if (leaf == nullptr || leaf->verdict) return;
  leaf->verdict = verdict;
  leaf->text = text;
}
void Keys::say_below(std::string_view above, Verdict verdict, const std::string& text) {
  say(above, verdict, text);
  const std::string prefix = std::string{above} + ".";
  for (Leaf& leaf : leaves_)
    if (leaf.key.starts_with(prefix)) say(leaf.key, verdict, text);
}
bool Keys::is_judged(std::string_view key) const {
  const Leaf* const leaf = find(key);
  return leaf != nullptr && leaf->verdict.has_value();
}
void Keys::overrule(std::string_view key, Verdict verdict, const std::string& text) {
  Leaf* const leaf = find(key);
  if (leaf == nullptr) return;
  leaf->verdict = verdict;
  leaf->text = text;
}

void Keys::finish(Judgement& to, const std::function<std::string(const std::string&)>& reason) {
  for (Leaf& leaf : leaves_) {
    if (!leaf.verdict && leaf.node->kind == Node::Kind::null) {
      leaf.verdict = Verdict::standard;
      leaf.text = "null: as if left out";
    } else if (!leaf.verdict && leaf.node->is_map()) {
      leaf.verdict = Verdict::standard;
      leaf.text = "empty: as if left out";
    } else if (!leaf.verdict) {
      leaf.verdict = Verdict::unsupported;
      leaf.text = reason(leaf.key);
    }
    const std::string key = shown(leaf.key);
    to.rows.push_back({document_.name, leaf.line, key.substr(1, key.size() - 2),
                       shown_value(*leaf.node), *leaf.verdict, leaf.text});
  }
}

Judgement judge_bytes(const std::string& name, std::string_view bytes, bool is_json,
                      const Settings& settings) {
  const Document document = is_json ? read_json(name, bytes) : read_yaml(name, bytes);
  if (is_json && document.root.find("distributed_type") == nullptr &&
      document.root.find("compute_environment") == nullptr)
    return judge_deepspeed(document, settings);
  return judge_accelerate(document, settings);
}

Judgement judge_file(const std::string& path, const Settings& settings) {
  const bool is_json = path.ends_with(".json") || path.ends_with(".hjson");
  if (!is_json && !path.ends_with(".yaml") && !path.ends_with(".yml"))
    refuse(path, 1, "",
           "ends in none of .yaml, .yml and .json; name Accelerate's YAML or "
           "DeepSpeed's JSON so");
  return judge_bytes(path, read_bytes(path), is_json, settings);
}

namespace detail {

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

void take_fp16(Judgement& to) {
  to.strategy.precision.compute = to.strategy.precision.reduce = Dtype::fp16;
  to.strategy.loss_scale = LossScale::dynamic;
  to.values.initial_scale = 65536;
  to.values.growth_interval = 1000;
  to.values.hysteresis = 2;
  to.values.least_scale = 1;
}

void settle_accumulation(Judgement& to, bool reduces_each) {
  to.strategy.reduces_at_end = to.values.micro_batches > 1 && !reduces_each;
}

}  // namespace detail
}  // namespace from_config
