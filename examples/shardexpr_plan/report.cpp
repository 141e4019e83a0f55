// SPDX-License-Identifier: Apache-2.0
// What a terminal shows.
#include "report.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "cost.hpp"
#include "row.hpp"

namespace planner {
namespace {

constexpr std::size_t columns = 120;
constexpr std::size_t shown_at_once = 12;

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[400];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string counted(std::size_t n, const std::string& what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

std::string policies_of(const Options& o, const Row& row) {
  return o.precisions.size() == 1 ? row.policies : row.policies + ", " + row.precision;
}

std::string fits_text(const Options& o, const Judged& judged) {
  if (!o.limits.is_given()) return "-";
  return judged.fits() ? "yes" : "no: " + places_missing(judged.missing, "+");
}

/// A list of policies in lines of `width` columns, cut behind commas.
std::vector<std::string> wrapped(const std::string& policies, std::size_t width) {
  std::vector<std::string> lines{""};
  std::size_t depth = 0, begin = 0;
  const auto take = [&](std::size_t end) {
    std::string part = policies.substr(begin, end - begin);
    if (!lines.back().empty() && lines.back().size() + part.size() > width) {
      lines.emplace_back("  ");
      part.erase(0, part.find_first_not_of(' '));
    }
    lines.back() += part;
    begin = end;
  };
  for (std::size_t i = 0; i < policies.size(); ++i) {
    depth += policies[i] == '<';
    depth -= policies[i] == '>';
    if (policies[i] == ',' && depth == 0) take(i + 1);
  }
  take(policies.size());
  return lines;
}

std::size_t fitting(const std::vector<Judged>& judged) {
  return static_cast<std::size_t>(
      std::count_if(judged.begin(), judged.end(), [](const Judged& j) { return j.fits(); }));
}

std::string limits_text(const Limits& limits) {
  std::string text;
  const auto add = [&](const std::optional<std::size_t>& limit, const char* what) {
    if (limit) text += (text.empty() ? "" : ", ") + shown_bytes(*limit) + what;
  };
  add(limits.device, " of memory a device");
  add(limits.host, " of memory a machine");
  add(limits.disk, " of disk a machine");
  return text.empty() ? "no limits given, so that nothing is judged" : text;
}

}  // namespace

std::string shown_bytes(std::size_t bytes) {
  constexpr const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  double value = static_cast<double>(bytes);
  for (; value >= 1024 && unit + 1 < std::size(units); ++unit) value /= 1024;
  if (unit == 0) return counted(bytes, "byte");
  return formatted("%.4g %s", value, units[unit]);
}

std::string places_missing(const Needs& missing, const char* between) {
  std::string text;
  const auto add = [&](std::size_t bytes, const char* place) {
    if (bytes != 0) text += (text.empty() ? "" : between) + std::string{place};
  };
  add(missing.device, "device");
  add(missing.host, "host");
  add(missing.disk, "disk");
  return text;
}

std::string heading(const Options& o, const Rows& rows, const std::vector<Judged>& judged) {
  const auto& m = o.job.model;
  const std::size_t parameters = judged.front().row.plan.parameter_count;
  std::string text =
      formatted("GPT of %.4g parameters (%zu): %zu blocks, embed %zu, %zu heads, ",
                static_cast<double>(parameters), parameters, m.layers, m.embed, m.heads) +
      formatted("context %zu, vocabulary %zu\n", m.context, m.vocabulary);
  text += counted(o.job.world, "rank") + " on " + counted(o.job.machines(), "machine") + "; " +
          counted(m.batch, "sequence") + " a rank and micro-batch, " +
          std::to_string(o.job.micro_batches) +
          (o.job.micro_batches == 1 ? " micro-batch" : " micro-batches") + " a step\n";
  text += limits_text(o.limits) + "\n";
  for (const std::string& name : rows.left_out)
    text += name + " is left out: it takes a multiple of " + std::to_string(hybrid_group) +
            " ranks, " + std::to_string(2 * hybrid_group) + " or more\n";
  return text;
}

std::string table(const Options& o, const std::vector<Judged>& judged) {
  const std::size_t fits = fitting(judged);
  const bool shows_all = o.all || !o.limits.is_given();
  const std::size_t shown = shows_all ? judged.size() : std::min(fits, shown_at_once);
  if (shown == 0) return {};

  std::size_t most = 0, width = 4;
  for (std::size_t i = 0; i < shown; ++i) {
    const Judged& j = judged[i];
    for (const std::size_t bytes : {j.row.plan.device_peak_bytes, j.row.plan.host_peak_bytes,
                                    j.row.plan.nvme_bytes, j.row.plan.sent_bytes, j.moved_bytes()})
      most = std::max(most, bytes);
    width = std::max(width, fits_text(o, j).size());
  }
  const std::size_t gib = std::size_t{1} << 30, mib = std::size_t{1} << 20;
  const std::size_t unit = most >= 10 * gib ? gib : mib;
  const auto number = [&](std::size_t bytes) {
    if (bytes == 0) return formatted("%8s", "-");
    return formatted("%8.2f", static_cast<double>(bytes) / static_cast<double>(unit));
  };
  const std::string type =
      "Sharded<Gpt, " +
      std::string{o.precisions.size() == 1 ? "POLICIES, " + judged.front().row.precision
                                           : "POLICIES"} +
      (o.device == DeviceKind::cuda ? ", On<Cuda>, Over<Nccl>>" : ", On<Cpu>, Over<Mpi>>");
  std::string text = "POLICIES of " + type + ", fastest first.\n" + (unit == gib ? "GiB" : "MiB") +
                     " of a rank: kept between steps, and at most; sent, and moved between device, "
                     "host and disk, in a step.\nstep: seconds, an estimate\n\n";
  const std::string indent(width + 7 * 8 + 2, ' ');
  text += std::string(width, ' ') + "  device  device    host\n";
  text += "fits" + std::string(width - 4, ' ') +
          "    kept    peak    peak    disk    sent   moved    step  POLICIES\n";
  for (std::size_t i = 0; i < shown; ++i) {
    const Judged& j = judged[i];
    const shardexpr::Plan& plan = j.row.plan;
    const std::string mark = fits_text(o, j);
    text += mark + std::string(width - mark.size(), ' ') + number(plan.device_resident_bytes) +
            number(plan.device_peak_bytes) + number(plan.host_peak_bytes) +
            number(plan.nvme_bytes) + number(plan.sent_bytes) + number(j.moved_bytes()) +
            formatted(" %7.4g  ", j.estimate.step());
    const auto lines = wrapped(policies_of(o, j.row), columns - indent.size());
    for (std::size_t line = 0; line < lines.size(); ++line)
      text += (line == 0 ? "" : indent) + lines[line] + "\n";
  }
  if (shown < judged.size())
    text += "\n" + std::to_string(shown) + " of the " + std::to_string(fits) +
            " that fit are shown; --all shows all " + std::to_string(judged.size()) + "\n";
  return text + "\n";
}

std::string choices(const Options& o, const std::vector<Judged>& judged) {
  const Judged& first = judged.front();
  if (!first.fits()) {
    const Judged& nearest = nearest_miss(judged, o.job);
    std::string text = "nothing fits. The nearest misses by ";
    const auto add = [&](std::size_t bytes, const char* where) {
      if (bytes == 0) return;
      if (!text.ends_with("by ")) text += ", ";
      text += shown_bytes(bytes) + where;
    };
    add(nearest.missing.device, " on each device");
    add(nearest.missing.host, " of each machine's memory");
    add(nearest.missing.disk, " of each machine's disk");
    return text + ":\n  " + type_of(nearest.row, o.device) + "\n";
  }
  const Judged& least = moves_least(judged);
  const Estimate& e = first.estimate;
  std::string text;
  if (o.limits.is_given())
    text += std::to_string(fitting(judged)) + " of " + std::to_string(judged.size()) +
            " strategies fit\n";
  text += formatted(
      "fastest, by the estimate: %.4g s: computing %.4g, transfers not hidden by it %.4g, after it "
      "%.4g\n",
      e.step(), e.compute_forward + e.compute_backward, e.exposed_forward + e.exposed_backward,
      e.after);
  text += "  " + type_of(first.row, o.device) + "\n";
  text += "moves least: " + shown_bytes(least.all_moved_bytes()) +
          " a rank and step, sent and between places\n";
  text += "  " + type_of(least.row, o.device) + "\n";
  return text;
}

}  // namespace planner
