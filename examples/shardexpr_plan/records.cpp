// SPDX-License-Identifier: Apache-2.0
// What other programs read: CSV and JSON.
#include <shardexpr/core/macros.hpp>

#include <charconv>
#include <cstddef>
#include <string>
#include <vector>

#include "cost.hpp"
#include "report.hpp"
#include "row.hpp"

namespace planner {
namespace {

/// The shortest text that is read as this number again.
std::string shown(double value) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value);
  return {text, end};
}
std::string shown(std::size_t value) { return std::to_string(value); }
std::string quoted(const std::string& text) { return '"' + text + '"'; }  // names of types alone

struct Field {
  const char* name;
  std::string value;
  bool is_text = false;
};

std::vector<Field> fields_of(const Options& o, const Judged& j) {
  const shardexpr::Plan& p = j.row.plan;
  const Estimate& e = j.estimate;
  return {{"type", type_of(j.row, o.device), true},
          {"device_resident_bytes", shown(p.device_resident_bytes)},
          {"device_peak_bytes", shown(p.device_peak_bytes)},
          {"gathered_bytes", shown(p.gathered_bytes)},
          {"full_gradients_bytes", shown(p.full_gradients_bytes)},
          {"activations_bytes", shown(p.activations_bytes)},
          {"transfers_bytes", shown(p.transfers_bytes)},
          {"host_peak_bytes", shown(p.host_peak_bytes)},
          {"nvme_bytes", shown(p.nvme_bytes)},
          {"sent_bytes", shown(p.sent_bytes)},
          {"to_device_bytes", shown(p.to_device_bytes)},
          {"to_host_bytes", shown(p.to_host_bytes)},
          {"nvme_read_bytes", shown(p.nvme_read_bytes)},
          {"nvme_written_bytes", shown(p.nvme_written_bytes)},
          {"missing_device_bytes", shown(j.missing.device)},
          {"missing_host_bytes_a_machine", shown(j.missing.host)},
          {"missing_disk_bytes_a_machine", shown(j.missing.disk)},
          {"compute_s", shown(e.compute_forward + e.compute_backward)},
          {"exposed_s", shown(e.exposed_forward + e.exposed_backward)},
          {"after_s", shown(e.after)},
          {"step_s", shown(e.step())}};
}

}  // namespace

std::string csv(const Options& o, const std::vector<Judged>& judged) {
  std::string text = "fits";
  for (const Field& field : fields_of(o, judged.front())) text += std::string{","} + field.name;
  text += "\n";
  for (const Judged& j : judged) {
    text += !o.limits.is_given() ? "" : j.fits() ? "yes" : "no";
    for (const Field& field : fields_of(o, j))
      text += "," + (field.is_text ? quoted(field.value) : field.value);
    text += "\n";
  }
  return text;
}

std::string json(const Options& o, const Rows& rows, const std::vector<Judged>& judged) {
  const auto& m = o.job.model;
  const auto object = [](const std::vector<Field>& fields) {
    std::string text;
    for (const Field& field : fields)
      text += (text.empty() ? "{\"" : ",\"") + std::string{field.name} +
              "\":" + (field.is_text ? quoted(field.value) : field.value);
    return text + "}";
  };
  std::vector<Field> limits;
  if (o.limits.device) limits.push_back({"device_bytes", shown(*o.limits.device)});
  if (o.limits.host) limits.push_back({"host_bytes_a_machine", shown(*o.limits.host)});
  if (o.limits.disk) limits.push_back({"disk_bytes_a_machine", shown(*o.limits.disk)});
  std::string left_out, list;
  for (const std::string& name : rows.left_out)
    left_out += (left_out.empty() ? "" : ",") + quoted(name);
  for (const Judged& j : judged) {
    auto fields = fields_of(o, j);
    const std::string missing = places_missing(j.missing, "\",\"");
    fields.push_back({"misses", missing.empty() ? "[]" : "[" + quoted(missing) + "]"});
    list += (list.empty() ? "" : ",\n") + object(fields);
  }
  const std::string version = std::to_string(SHARDEXPR_VERSION_MAJOR) + "." +
                              std::to_string(SHARDEXPR_VERSION_MINOR) + "." +
                              std::to_string(SHARDEXPR_VERSION_PATCH);
  std::vector<Field> all{
      {"shardexpr", version, true},
      {"model", object({{"parameters", shown(judged.front().row.plan.parameter_count)},
                        {"layers", shown(m.layers)},
                        {"embed", shown(m.embed)},
                        {"heads", shown(m.heads)},
                        {"context", shown(m.context)},
                        {"vocabulary", shown(m.vocabulary)},
                        {"batch", shown(m.batch)}})},
      {"world", shown(o.job.world)},
      {"node_ranks", shown(o.job.machine_ranks())},
      {"micro_batches", shown(o.job.micro_batches)},
      {"limits", limits.empty() ? "{}" : object(limits)},
      {"speeds", object({{"flops", shown(o.speeds.flops)},
                         {"network", shown(o.speeds.network)},
                         {"node_network", shown(o.speeds.node_network)},
                         {"host_link", shown(o.speeds.host_link)},
                         {"host_memory", shown(o.speeds.host_memory)},
                         {"disk", shown(o.speeds.disk)}})},
      {"left_out", "[" + left_out + "]"}};
  if (judged.front().fits()) {
    all.push_back({"fastest", type_of(judged.front().row, o.device), true});
    all.push_back({"moves_least", type_of(moves_least(judged).row, o.device), true});
  } else {
    all.push_back({"nearest", type_of(nearest_miss(judged, o.job).row, o.device), true});
  }
  all.push_back({"strategies", "[\n" + list + "\n]"});
  return object(all) + "\n";
}

}  // namespace planner
