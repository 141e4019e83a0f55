// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the keys of a file mean here: one verdict for each.
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "description.hpp"
#include "document.hpp"

namespace from_config {

enum class Verdict {
  taken,        ///< a policy of the strategy says it
  standard,     ///< what is done anyway
  value,        ///< given at run time
  aside,        ///< not about sharding
  ignored,      ///< without effect in the framework itself
  unsupported,  ///< not carried over; the text is the reason
};
inline constexpr const char* verdict_names[] = {"taken",          "equivalent",
                                                "run-time value", "not about sharding",
                                                "ignored there",  "NOT SUPPORTED"};

/// The verdict on one key.
struct Row {
  std::string file;
  std::size_t line;
  std::string key, value;
  Verdict verdict;
  std::string text;
};

enum class Schedule { constant, warmup, cosine, linear };

/// What a trainer is given at run time. What is not set was not said.
struct Values {
  std::optional<double> learning_rate, beta1, beta2, epsilon, weight_decay, momentum, dampening,
      learning_rate_decay, clip, scale, initial_scale, least_scale;
  std::optional<bool> nesterov;
  std::optional<std::size_t> growth_interval, hysteresis, ranks, micro_batch_size;
  std::size_t micro_batches = 1;
  Schedule schedule = Schedule::constant;
  std::size_t warmup_steps = 0, total_steps = 0;
  double least_rate = 0;  ///< of the schedule, a fraction of the rate
  std::string nvme_directory;
  std::string checkpoint;  ///< full, sharded, local; empty: not said
  bool overlaps = false;   ///< streams of their own for computing and communicating
};

/// What a file does not say and rules need.
struct Settings {
  std::optional<std::size_t> ranks, micro_batches, hidden_size;
  Dtype loaded = Dtype::fp32;                ///< in which a model's parameters are loaded
  std::string mixed_precision;               ///< no, bf16 or fp16, for "auto"; empty: not said
  std::string block = "gpt::Block";          ///< the unit that is repeated: a transformer's layer
  std::map<std::string, std::string> units;  ///< a layer's class name to the unit's type
  std::string root;                          ///< where relative paths in files begin; empty: here
};

/// A file judged.
struct Judgement {
  Description strategy;
  Values values;
  std::vector<Row> rows;              ///< each leaf of the file, in its order
  std::vector<std::string> warnings;  ///< what the framework would ignore, change or refuse
  std::vector<std::string> rules;     ///< by which what the file leaves open was decided

  bool is_supported() const {
    for (const Row& row : rows)
      if (row.verdict == Verdict::unsupported) return false;
    return true;
  }
  void warn(const std::string& text) { warnings.push_back(text); }
  /// Says a rule, once.
  void rule(const std::string& text);
};

/// The leaves of a document, each to be judged once: scalars, lists, and maps without keys.
class Keys {
 public:
  explicit Keys(const Document& document);

  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// Some key lies below `above`.
  bool has_below(std::string_view above) const;
  bool is_auto(std::string_view key) const;
  bool is_null(std::string_view key) const;

  // What a key says; nothing if it is not there, null or "auto".
  // Errors:  BadFile for a value of another kind.
  std::optional<bool> flag(std::string_view key) const;
  /// A whole number of at least 0, also if written 5e8 in JSON.
  std::optional<std::size_t> count(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;  ///< of at least 0
  std::optional<double> any_number(std::string_view key) const;
  std::optional<std::string> word(std::string_view key) const;
  /// One of some words. Errors:  BadFile for another, which lists them.
  std::optional<std::size_t> choice(std::string_view key,
                                    std::initializer_list<const char*> words) const;
  const Node* node(std::string_view key) const;
  [[noreturn]] void refuse_at(std::string_view key, const std::string& what) const;

  /// The verdict on a key, if it is there and has none yet.
  void say(std::string_view key, Verdict verdict, const std::string& text);
  /// The same for every key below `above`, and `above` itself.
  void say_below(std::string_view above, Verdict verdict, const std::string& text);
  bool is_judged(std::string_view key) const;
  /// The verdict that stands now is replaced.
  void overrule(std::string_view key, Verdict verdict, const std::string& text);

  /// Judges what is left by `reason(key)`; null and empty maps are as if left out. Appends all
  /// rows.
  void finish(Judgement& to, const std::function<std::string(const std::string&)>& reason);

 private:
  struct Leaf {
    std::string key;
    const Node* node;
    std::size_t line;
    std::optional<Verdict> verdict;
    std::string text;
  };
  void flatten(const Node& map, const std::string& above);
  const Leaf* find(std::string_view key) const;
  Leaf* find(std::string_view key);

  const Document& document_;
  std::vector<Leaf> leaves_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

/// DeepSpeed's JSON. Errors:  BadFile for values that are malformed.
Judgement judge_deepspeed(const Document& document, const Settings& settings);
/// The same within an Accelerate file, whose judgement goes on.
void judge_deepspeed(const Document& document, const Settings& settings, Judgement& to);
/// Accelerate's YAML; a file that it names in `deepspeed_config_file` is read as well.
/// Errors:  BadFile for values that are malformed, in either.
Judgement judge_accelerate(const Document& document, const Settings& settings);

/// Reads and judges a file: JSON is DeepSpeed's unless it has Accelerate's `distributed_type`.
/// Errors:  BadFile.
Judgement judge_file(const std::string& path, const Settings& settings);
Judgement judge_bytes(const std::string& name, std::string_view bytes, bool is_json,
                      const Settings& settings);

namespace detail {
/// Sets compute, reduce and loss scale for DeepSpeed's fp16 without values.
void take_fp16(Judgement& to);
/// The accumulation policy, when micro-batches and sharding are known. `reduces_each`: the
/// framework reduces each micro-batch.
void settle_accumulation(Judgement& to, bool reduces_each);
std::string short_number(double value);
}  // namespace detail

}  // namespace from_config
