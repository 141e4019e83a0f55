// SPDX-License-Identifier: Apache-2.0
#pragma once
// Files as text, judged: what a test asks of them.
#include <algorithm>
#include <string>
#include <string_view>

#include "../../examples/strategy_from_config/judge.hpp"

namespace judged {

using from_config::BadFile;
using from_config::Judgement;
using from_config::Row;
using from_config::Settings;
using from_config::Verdict;

inline Judgement json(std::string_view text, const Settings& settings = {}) {
  return from_config::judge_bytes("ds.json", text, true, settings);
}
inline Judgement yaml(std::string_view text, const Settings& settings = {}) {
  return from_config::judge_bytes("a.yaml", text, false, settings);
}
inline std::string pack(const Judgement& judgement) {
  return from_config::pack_of(judgement.strategy);
}
/// The policies, and behind them what is not carried over.
inline std::string outcome(const Judgement& judgement) {
  std::string text = pack(judgement);
  for (const Row& row : judgement.rows)
    if (row.verdict == Verdict::unsupported) text += "; not " + row.key;
  return text;
}
inline const Row& row(const Judgement& judgement, std::string_view key) {
  const auto at = std::find_if(judgement.rows.begin(), judgement.rows.end(),
                               [&](const Row& each) { return each.key == key; });
  if (at == judgement.rows.end()) throw std::runtime_error("no row for " + std::string{key});
  return *at;
}
inline Verdict verdict(const Judgement& judgement, std::string_view key) {
  return row(judgement, key).verdict;
}
/// Some warning holds this text.
inline bool warns(const Judgement& judgement, std::string_view text) {
  return std::any_of(judgement.warnings.begin(), judgement.warnings.end(),
                     [&](const std::string& each) { return each.find(text) != each.npos; });
}
/// What a malformed file is told.
template <class Read>
std::string refusal(Read read) {
  try {
    (void)read();
    return {};
  } catch (const BadFile& error) {
    return error.what();
  }
}
inline std::string json_refusal(std::string_view text) {
  return refusal([&] { return json(text); });
}
inline std::string yaml_refusal(std::string_view text) {
  return refusal([&] { return yaml(text); });
}

/// A file of stage 3 with more members in zero_optimization; of a stage.
inline std::string zero(std::string_view members, int stage = 3) {
  return "{\"zero_optimization\": {\"stage\": " + std::to_string(stage) +
         (members.empty() ? "" : ", ") + std::string{members} + "}}";
}
/// A file of FSDP with lines in fsdp_config, and others before it.
inline std::string fsdp(std::string_view lines, std::string_view before = "") {
  std::string text = "distributed_type: FSDP\n" + std::string{before} + "fsdp_config:\n";
  for (std::size_t at = 0; at < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', at), lines.size());
    text += "  fsdp_" + std::string{lines.substr(at, end - at)} + "\n";
    at = end + 1;
  }
  return text;
}

}  // namespace judged
