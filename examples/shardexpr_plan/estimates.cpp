// SPDX-License-Identifier: Apache-2.0
#include "estimates.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

#include "report.hpp"

namespace planner {

namespace {
constexpr double host_factor = 1.5;
}  // namespace

EstimatedStates zero2_states(const EstimateOf& of, bool optimizer_on_host) {
  const double n = of.parameters;
  if (optimizer_on_host) return {2 * n, n * std::max(4 * of.ranks(), 16.0) * host_factor};
  return {2 * n + 18 * n / of.ranks(),
          4 * n * static_cast<double>(of.ranks_a_machine) * host_factor};
}

EstimatedStates zero3_states(const EstimateOf& of, bool optimizer_on_host,
                             bool parameters_on_host) {
  const double n = of.parameters, live = 4 * of.largest_layer;
  const double machines = static_cast<double>(of.machines);
  if (parameters_on_host) return {live, 18 * n / machines * host_factor};
  if (optimizer_on_host) return {live + 2 * n / of.ranks(), 16 * n / machines * host_factor};
  return {live + 18 * n / of.ranks(), live * static_cast<double>(of.ranks_a_machine) * host_factor};
}

double paper_states(const EstimateOf& of, int stage) {
  // Parameters and gradients in 16 bits, masters and two moments in fp32.
  const double kept[] = {2, 2, 12};
  const int sharded_from[] = {3, 2, 1};
  double bytes = 0;
  for (int i = 0; i < 3; ++i)
    bytes += kept[i] * of.parameters / (stage >= sharded_from[i] ? of.ranks() : 1);
  return bytes;
}

std::string estimates_report(const Options& o, const std::vector<Judged>& judged) {
  const auto& m = o.job.model;
  const auto embed = static_cast<double>(m.embed);
  const double table = embed * static_cast<double>(m.vocabulary);
  EstimateOf of{static_cast<double>(judged.front().row.plan.parameter_count),
                std::max(table, 4 * embed * (embed + 1)), o.job.machine_ranks(), o.job.machines()};
  struct Line {
    const char *theirs, *policies;
    bool has_estimate;
    EstimatedStates states;
    int stage;  // of the paper's rule; -1: it has none
  };
  const Line lines[] = {
      {"ZeRO-0, DDP", "NoShard", false, {}, 0},
      {"ZeRO-1", "ShardOptimizer", false, {}, 1},
      {"ZeRO-2", "ShardGradOp", true, zero2_states(of, false), 2},
      {"ZeRO-2, optimizer on the host", "ShardGradOp, Offload<OnDevice, OnHost>", true,
       zero2_states(of, true), -1},
      {"ZeRO-3, FSDP", "FullShard", true, zero3_states(of, false, false), 3},
      {"ZeRO-3, optimizer on the host", "FullShard, Offload<OnDevice, OnHost>", true,
       zero3_states(of, true, false), -1},
      {"ZeRO-3, all on the host", "FullShard, OffloadAll", true, zero3_states(of, true, true), -1}};
  const auto gib = [](double bytes) { return bytes / static_cast<double>(std::size_t{1} << 30); };
  const auto number = [&](bool is_there, double bytes) {
    char text[32];
    if (is_there)
      std::snprintf(text, sizeof text, "%9.2f", gib(bytes));
    else
      std::snprintf(text, sizeof text, "%9s", "-");
    return std::string{text};
  };
  std::string text =
      "GiB; device: of a rank, host: of a machine. Paper: 16 bytes a parameter, sharded. "
      "DeepSpeed: "
      "its estimates\n"
      "of model states. Here, kept: the same states; buffers: gathered parameters, full gradients, "
      "transfers; act.:\n"
      "activations, and with the blocks' rebuilt (Recompute<gpt::Block>); peak: all, without and "
      "with that\n\n"
      "                      paper     DeepSpeed      |                      here\n"
      "                     device   device     host  |     kept  buffers     act.  rebuilt     "
      "peak  rebuilt     host\n";
  for (const Line& line : lines) {
    const auto plan_of = [&](const std::string& policies) -> const Judged& {
      return *std::find_if(judged.begin(), judged.end(),
                           [&](const Judged& j) { return j.row.policies == policies; });
    };
    const Judged& kept = plan_of(line.policies);
    const Judged& rebuilt = plan_of(line.policies + std::string{", Recompute<gpt::Block>"});
    const shardexpr::Plan& p = kept.row.plan;
    const auto bytes = [&](std::size_t n) { return number(true, static_cast<double>(n)); };
    text += std::string{line.theirs} + ": Sharded<Gpt, " + line.policies + ", ...>\n";
    text += std::string(18, ' ') +
            number(line.stage >= 0, line.stage >= 0 ? paper_states(of, line.stage) : 0) +
            number(line.has_estimate, line.states.device) +
            number(line.has_estimate, line.states.host) + "  |" + bytes(p.device_resident_bytes) +
            bytes(p.device_peak_bytes - p.device_resident_bytes - p.activations_bytes) +
            bytes(p.activations_bytes) + bytes(rebuilt.row.plan.activations_bytes) +
            bytes(p.device_peak_bytes) + bytes(rebuilt.row.plan.device_peak_bytes) +
            bytes(kept.needs.host) + "\n";
  }
  return text + "\nPaper and DeepSpeed count for mixed precision, whatever --precision says.\n";
}

}  // namespace planner
