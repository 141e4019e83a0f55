// SPDX-License-Identifier: Apache-2.0
#include "row.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace planner {

template <DeviceKind, PrecisionKind>
Rows plan_of(const Job& job);  // strategies.hpp, which is long to compile

std::string name_of_offload(shardexpr::Place parameters, shardexpr::Place optimizer) {
  using shardexpr::Place;
  const auto name = [](Place place) {
    return std::string{place == Place::device ? "OnDevice"
                       : place == Place::host ? "OnHost"
                                              : "OnNvme"};
  };
  if (parameters == Place::host && optimizer == Place::host) return "OffloadAll";
  return "Offload<" + name(parameters) + ", " + name(optimizer) + ">";
}

void add_with_recompute(Rows& rows, Row row, std::size_t rebuilt_activations_bytes) {
  using shardexpr::Place;
  row.policies = row.sharding;
  if (row.parameters != Place::device || row.optimizer != Place::device)
    row.policies += ", " + name_of_offload(row.parameters, row.optimizer);
  if (row.gathers_ahead_in_forward) row.policies += ", ForwardPrefetch<1>";
  if (!row.overlaps_backward) row.policies += ", BackwardNone";
  if (row.reduces_at_end) row.policies += ", ReduceAtEnd";
  rows.rows.push_back(row);
  row.policies += ", Recompute<gpt::Block>";
  row.recomputes = true;
  row.plan.device_peak_bytes -= row.plan.activations_bytes;
  row.plan.activations_bytes = rebuilt_activations_bytes;
  row.plan.device_peak_bytes += rebuilt_activations_bytes;
  rows.rows.push_back(std::move(row));
}

void Rows::add(Rows more) {
  rows.insert(rows.end(), more.rows.begin(), more.rows.end());
  for (const std::string& name : more.left_out)
    if (std::find(left_out.begin(), left_out.end(), name) == left_out.end())
      left_out.push_back(name);
}

Rows plan_all(DeviceKind device, PrecisionKind precision, const Job& job) {
  const auto of = [&]<DeviceKind kind>() {
    switch (precision) {
      case PrecisionKind::fp32:
        return plan_of<kind, PrecisionKind::fp32>(job);
      case PrecisionKind::bf16:
        return plan_of<kind, PrecisionKind::bf16>(job);
      default:
        return plan_of<kind, PrecisionKind::mixed>(job);
    }
  };
  Rows rows;
  rows.add(device == DeviceKind::cuda ? of.template operator()<DeviceKind::cuda>()
                                      : of.template operator()<DeviceKind::cpu>());
  return rows;
}

std::string type_of(const Row& row, DeviceKind device) {
  return "Sharded<Gpt, " + row.policies + ", " + row.precision +
         (device == DeviceKind::cuda ? ", On<Cuda>, Over<Nccl>>" : ", On<Cpu>, Over<Mpi>>");
}

}  // namespace planner
