// SPDX-License-Identifier: Apache-2.0
#pragma once
// A strategy in C++'s words, in Accelerate's, in DeepSpeed's, and side by side.
#include <string>
#include <vector>

#include "describe.hpp"
#include "judge.hpp"

namespace from_config {

/// A strategy in a framework's words.
struct Written {
  std::string text;
  /// What the format cannot say: what differs when the text is read again.
  std::vector<Difference> unsaid;
};

/// The Accelerate YAML nearest to a strategy: of FSDP 1, FSDP 2, a DeepSpeed block and DDP the one
/// that leaves least unsaid. Values it has keys for are in it; `settings` are those it is read
/// with.
Written write_accelerate(const Description& d, const Values& values = {},
                         const Settings& settings = {});
/// The DeepSpeed JSON nearest to a strategy.
Written write_deepspeed(const Description& d, const Values& values = {},
                        const Settings& settings = {});
/// Of FSDP alone, the version that leaves less unsaid.
Written write_fsdp(const Description& d, const Values& values = {}, const Settings& settings = {});

/// The same of a strategy that is a type, `StrategyOf<...>` or a trainer's `Strategy`.
template <class Strategy>
Written accelerate_yaml(const Values& values = {}) {
  return write_accelerate(describe<Strategy>(), values);
}
template <class Strategy>
Written deepspeed_json(const Values& values = {}) {
  return write_deepspeed(describe<Strategy>(), values);
}

/// A header that holds the strategy as a struct `name`: `name::Trainer<Model>`,
/// `name::set(options)` and the run-time values.
std::string write_header(const std::string& name, const std::string& file, const Description& d,
                         const Values& values);

/// FSDP's, DeepSpeed's and this library's words for a strategy, in the groups of the comparison
/// that Accelerate's documentation makes. A table of Markdown.
std::string explain(const Description& d, const Values& values, const Settings& settings);

/// The verdicts as a table; warnings and rules below it.
std::string report(const Judgement& judged);

}  // namespace from_config
