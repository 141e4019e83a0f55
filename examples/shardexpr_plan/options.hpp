// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "cost.hpp"
#include "job.hpp"
#include "row.hpp"

namespace planner {

struct Options {
  Job job;
  DeviceKind device = DeviceKind::cuda;
  std::vector<PrecisionKind> precisions{PrecisionKind::mixed};
  Limits limits;
  Speeds speeds;
  bool all = false, csv = false, estimates = false, help = false;
  std::string json, picture;
};

std::string usage();

/// "80GiB", "1.5TB", "4096": a whole number of bytes, a fraction rounded down.
/// Errors:  BadInput.
std::size_t parse_size(const std::string& option, const std::string& text);
/// The same a second, with or without "/s".
double parse_speed(const std::string& option, const std::string& text);

/// The last of a repeated option counts.
/// Errors:  BadInput for an unknown or incomplete option, a value out of range, and what does not
///          go together; ConfigError and IoError of a file that --config names.
Options parse_options(int argc, char** argv);

}  // namespace planner
