// SPDX-License-Identifier: Apache-2.0
#pragma once
// What each stream of rank 0 did in one step, as a small JSON file that a picture is drawn from.
#include <shardexpr/device/trace.hpp>

#include <cctype>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../trace_overlap.hpp"

namespace shardexpr::benchmarks {

/// A name that every file system takes.
inline std::string file_name_of(const std::string& name) {
  std::string out;
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)))
      out += c;
    else if (!out.empty() && out.back() != '_')
      out += '_';
  }
  return out;
}

/// Writes `folder`/NAME.json: what was recorded since `mark`, a span for each label of a stream,
/// in milliseconds since the first.
/// Errors:  std::runtime_error if the file cannot be written.
inline void write_timeline(const std::string& folder, const std::string& name, const Trace& trace,
                           const TraceMark& mark) {
  struct Span {
    std::string text;
    std::int64_t begin_ns, end_ns;
  };
  struct Row {
    std::string stream;
    std::vector<Span> spans;
  };
  std::vector<Row> rows;
  std::int64_t first_ns = -1;
  for (const auto* stream : trace.streams()) {
    if (stream->rank() != 0) continue;
    Row row{stream->name(), {}};
    Label label;
    bool is_open = false;  // the last span is of this label
    for (const auto& event : mark.since(*stream)) {
      if (event.kind == detail::TraceKind::annotation) {
        label = event.label;
        is_open = false;
      }
      if (event.kind != detail::TraceKind::operation) continue;
      if (first_ns < 0 || event.begin_ns < first_ns) first_ns = event.begin_ns;
      if (is_open) {
        row.spans.back().end_ns = event.end_ns;
        continue;
      }
      std::string text{label.what};
      if (label.unit != Label::no_unit) text += " " + std::to_string(label.unit);
      row.spans.push_back({text, event.begin_ns, event.end_ns});
      is_open = true;
    }
    if (!row.spans.empty()) rows.push_back(std::move(row));
  }

  const std::filesystem::path path = std::filesystem::path{folder} / (file_name_of(name) + ".json");
  std::ofstream file{path};
  file << "{\"name\":\"" << name << "\",\"rows\":[";
  for (std::size_t r = 0; r < rows.size(); ++r) {
    file << (r == 0 ? "\n" : ",\n") << "{\"stream\":\"" << rows[r].stream << "\",\"spans\":[";
    for (std::size_t s = 0; s < rows[r].spans.size(); ++s) {
      const Span& span = rows[r].spans[s];
      const auto ms = [&](std::int64_t ns) { return static_cast<double>(ns - first_ns) * 1e-6; };
      file << (s == 0 ? "" : ",") << "[\"" << span.text << "\"," << ms(span.begin_ns) << ","
           << ms(span.end_ns) << "]";
    }
    file << "]}";
  }
  file << "\n]}\n";
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace shardexpr::benchmarks
