// SPDX-License-Identifier: Apache-2.0
#include "cost.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace planner {
namespace {

using shardexpr::Place;

double exposed(double transfers, double compute, bool overlaps) {
  return overlaps ? std::max(0.0, transfers - compute) : transfers;
}

/// The three passes' transfers, in seconds.
struct Transfers {
  double forward = 0, backward_gathers = 0, reductions = 0, after = 0;
};

Transfers transfers(const Row& row, const Job& job, const Speeds& speeds) {
  const shardexpr::Plan& plan = row.plan;
  const auto speed = [&](bool on_one_machine) {
    return on_one_machine ? speeds.node_network : speeds.network;
  };
  const bool all_here = job.world <= job.node_ranks;
  const double shard_speed = speed(all_here || job.node_ranks % row.shards == 0);
  const double copies_speed = row.copies == 1 ? shard_speed : speed(all_here);

  // Of gathers, those of the forward pass: every parameter once a micro-batch.
  const double once = static_cast<double>(plan.parameter_count * row.compute_bytes) *
                      static_cast<double>(row.shards - 1) / static_cast<double>(row.shards) *
                      static_cast<double>(job.micro_batches);
  const double gathered = static_cast<double>(plan.all_gather_sent_bytes);
  const double forward_share = row.gathers && gathered > 0 ? std::min(1.0, once / gathered) : 0;

  Transfers t;
  // With the gathers: parameters go up, and are read before that.
  double gathers = gathered / shard_speed;
  double read_in_update = static_cast<double>(plan.nvme_read_bytes);
  if (row.parameters != Place::device)
    gathers += static_cast<double>(plan.to_device_bytes) / speeds.host_link;
  else
    t.after += static_cast<double>(plan.to_device_bytes) / speeds.host_link;
  if (row.parameters == Place::nvme) {
    const auto read = std::min(read_in_update, static_cast<double>(plan.to_device_bytes));
    gathers += read / speeds.disk;
    read_in_update -= read;
  }
  t.forward = forward_share * gathers;
  if (row.gathers)
    t.backward_gathers = gathers - t.forward;
  else
    t.after += gathers;  // what was updated is published
  t.reductions = static_cast<double>(plan.reduce_scatter_sent_bytes) / shard_speed +
                 static_cast<double>(plan.all_reduce_sent_bytes) / copies_speed +
                 static_cast<double>(plan.to_host_bytes) / speeds.host_link;
  // An update on the host reads and writes all that lies there; of a disk, what passes it.
  const double passed = read_in_update + static_cast<double>(plan.nvme_written_bytes);
  if (row.optimizer == Place::host)
    t.after += 2 * static_cast<double>(plan.host_resident_bytes) / speeds.host_memory;
  t.after += passed / speeds.disk;
  return t;
}

}  // namespace

Estimate estimate(const Row& row, const Job& job, const Speeds& speeds) {
  const Transfers t = transfers(row, job, speeds);
  const double tokens = static_cast<double>(job.model.tokens() * job.micro_batches);
  const double pass = 2 * static_cast<double>(row.plan.parameter_count) * tokens / speeds.flops;
  Estimate e;
  e.compute_forward = pass;
  e.compute_backward = (row.recomputes ? 3 : 2) * pass;
  e.exposed_forward = exposed(t.forward, e.compute_forward, row.gathers_ahead_in_forward);
  if (row.reduces_at_end) {
    // The last micro-batch alone has reductions beside it.
    const double last = 1 / static_cast<double>(job.micro_batches);
    e.exposed_backward = exposed((1 - last) * t.backward_gathers, (1 - last) * e.compute_backward,
                                 row.overlaps_backward) +
                         exposed(last * t.backward_gathers + t.reductions,
                                 last * e.compute_backward, row.overlaps_backward);
  } else {
    e.exposed_backward =
        exposed(t.backward_gathers + t.reductions, e.compute_backward, row.overlaps_backward);
  }
  e.after = t.after;
  return e;
}

std::vector<Judged> judge(const Rows& rows, DeviceKind device, const Job& job, const Limits& limits,
                          const Speeds& speeds) {
  const std::size_t ranks = job.machine_ranks();
  const auto beyond = [](std::size_t need, const std::optional<std::size_t>& limit) {
    return limit && need > *limit ? need - *limit : 0;
  };
  std::vector<Judged> all;
  for (const Row& row : rows.rows) {
    const shardexpr::Plan& plan = row.plan;
    Judged judged{row, {}, {}, estimate(row, job, speeds)};
    const bool is_cpu = device == DeviceKind::cpu;
    if (is_cpu) {
      // Operations run one after the other: nothing is hidden.
      Row plain = row;
      plain.gathers_ahead_in_forward = plain.overlaps_backward = false;
      judged.estimate = estimate(plain, job, speeds);
    }
    judged.needs = {is_cpu ? 0 : plan.device_peak_bytes,
                    ranks * (plan.host_peak_bytes + (is_cpu ? plan.device_peak_bytes : 0)),
                    ranks * plan.nvme_bytes};
    judged.missing = {beyond(judged.needs.device, limits.device),
                      beyond(judged.needs.host, limits.host),
                      beyond(judged.needs.disk, limits.disk)};
    all.push_back(std::move(judged));
  }
  std::stable_sort(all.begin(), all.end(), [](const Judged& a, const Judged& b) {
    const auto rank = [](const Judged& j) {
      return std::tuple{!j.fits(), std::llround(j.estimate.step() * 1e6), j.peak_bytes()};
    };
    return rank(a) < rank(b);
  });
  return all;
}

const Judged& moves_least(const std::vector<Judged>& judged) {
  return *std::min_element(judged.begin(), judged.end(), [](const Judged& a, const Judged& b) {
    const auto rank = [](const Judged& j) {
      return std::tuple{!j.fits(), j.all_moved_bytes(), j.peak_bytes()};
    };
    return rank(a) < rank(b);
  });
}

const Judged& nearest_miss(const std::vector<Judged>& judged, const Job& job) {
  const auto missing = [&](const Judged& j) {
    return static_cast<double>(j.missing.device) +
           static_cast<double>(j.missing.host + j.missing.disk) /
               static_cast<double>(job.machine_ranks());
  };
  return *std::min_element(judged.begin(), judged.end(), [&](const Judged& a, const Judged& b) {
    return missing(a) < missing(b);
  });
}

}  // namespace planner
