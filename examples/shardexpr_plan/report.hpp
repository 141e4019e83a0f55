// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "cost.hpp"
#include "options.hpp"

namespace planner {

/// "12.3 GiB".
std::string shown_bytes(std::size_t bytes);
/// What is missing, as "device", "host", "disk", joined by `between`.
std::string places_missing(const Needs& missing, const char* between);

/// What is planned for, in some lines.
std::string heading(const Options& o, const Rows& rows, const std::vector<Judged>& judged);
/// A line a strategy, two where its type is long, at most 120 columns: all, or the fastest that
/// fit.
std::string table(const Options& o, const std::vector<Judged>& judged);
/// The choices in whole types; or by how much the nearest misses.
std::string choices(const Options& o, const std::vector<Judged>& judged);

/// All strategies, a line each, with a line of names before them.
std::string csv(const Options& o, const std::vector<Judged>& judged);
/// All strategies and what they were planned for: one object.
std::string json(const Options& o, const Rows& rows, const std::vector<Judged>& judged);

/// DeepSpeed's estimates of model states beside the plans of the same strategies.
std::string estimates_report(const Options& o, const std::vector<Judged>& judged);

/// Writes a PNG or SVG by gnuplot.
/// Errors:  BadInput where there is no gnuplot, or where it fails.
void draw(const Options& o, const std::vector<Judged>& judged);

}  // namespace planner
