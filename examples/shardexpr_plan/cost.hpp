// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <optional>
#include <vector>

#include "row.hpp"

namespace planner {

/// Bytes, or floating-point operations, a second, of one rank.
struct Speeds {
  double network = 25e9;        ///< of a collective that leaves the machine
  double node_network = 200e9;  ///< of one that does not
  double host_link = 25e9;      ///< between device and host
  double host_memory = 20e9;    ///< what an update on the host reads and writes
  double disk = 3e9;
  double flops = 400e12;
};

/// Bytes that there are: of the device a rank, of host and disk a machine. What is not given is not
/// judged.
struct Limits {
  std::optional<std::size_t> device, host, disk;
  bool is_given() const { return device || host || disk; }
};

/// What a step is estimated to take, in seconds.
///
///   step = forward + exposed(forward) + backward + exposed(backward) + after
///
/// `exposed` is what transfers of a pass take beyond its computing, max(0, transfers - compute),
/// where they overlap it, and all that they take where they do not.
struct Estimate {
  double compute_forward = 0, compute_backward = 0;
  double exposed_forward = 0, exposed_backward = 0;
  double after = 0;  ///< update off the device, and what is published

  double step() const {
    return compute_forward + compute_backward + exposed_forward + exposed_backward + after;
  }
};

/// What a strategy takes of each place: of the device a rank, of host and disk a machine. A CPU's
/// memory is its host's.
struct Needs {
  std::size_t device = 0, host = 0, disk = 0;
};

struct Judged {
  Row row;
  Needs needs;
  Needs missing;  ///< bytes beyond the limits
  Estimate estimate;

  bool fits() const { return missing.device == 0 && missing.host == 0 && missing.disk == 0; }
  /// Bytes between the places in a step; and with those sent.
  std::size_t moved_bytes() const {
    const auto& plan = row.plan;
    return plan.to_device_bytes + plan.to_host_bytes + plan.nvme_read_bytes +
           plan.nvme_written_bytes;
  }
  std::size_t all_moved_bytes() const { return row.plan.sent_bytes + moved_bytes(); }
  /// Of a rank, on all places.
  std::size_t peak_bytes() const { return row.plan.device_peak_bytes + row.plan.host_peak_bytes; }
};

Estimate estimate(const Row& row, const Job& job, const Speeds& speeds);

/// Those that fit first, each part by estimated time, to the microsecond, then by memory.
std::vector<Judged> judge(const Rows& rows, DeviceKind device, const Job& job, const Limits& limits,
                          const Speeds& speeds);

/// Of those that fit, or of all if none does: the one that moves least, ties by memory; and the one
/// that is nearest to fit, by bytes missing a rank.
const Judged& moves_least(const std::vector<Judged>& judged);
const Judged& nearest_miss(const std::vector<Judged>& judged, const Job& job);

}  // namespace planner
