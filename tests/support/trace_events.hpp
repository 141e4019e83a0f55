// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../examples/json.hpp"
#include <doctest/doctest.h>

/// A trace as a viewer reads it. Reading checks what holds for every trace, with doctest.
class TraceEvents {
 public:
  using Thread = std::pair<std::size_t, std::size_t>;  // process, thread

  struct Slice {
    std::string name;
    std::int64_t begin_ns, end_ns;
    bool holds(const Slice& inner) const {
      return begin_ns <= inner.begin_ns && inner.end_ns <= end_ns;
    }
  };
  struct Stream {
    std::string name;
    std::vector<Slice> labels, operations;
    std::vector<std::string> notes;  // instant events

    /// "start forward 0 { copy gelu } stop": operations in order, labels around theirs.
    std::string text() const {
      std::string all;
      auto label = labels.begin();
      bool is_open = false;
      for (const Slice& operation : operations) {
        if (!is_open && label != labels.end() && label->holds(operation)) {
          all += label->name + " { ";
          is_open = true;
        }
        all += operation.name + ' ';
        if (is_open && operation.end_ns == label->end_ns) {
          all += "} ";
          is_open = false;
          ++label;
        }
      }
      if (!all.empty()) all.pop_back();
      return all;
    }
  };
  struct End {
    Thread thread;
    std::int64_t ns;
  };
  struct Flow {
    std::vector<End> from, to;
  };
  struct Sample {
    std::int64_t ns;
    std::map<std::string, std::size_t> bytes;
  };

  /// `clock_error_ns`: by how much times of two streams may be off beside each other.
  explicit TraceEvents(const std::string& json, std::int64_t clock_error_ns = 0)
      : clock_error_ns_{clock_error_ns} {
    const Json whole = Json::parse(json.substr(0, json.size() - 1));
    CHECK(json.ends_with("}\n"));
    dropped_events = whole["otherData"]["dropped_events"].count();
    clock_uncertainty_ns = whole["otherData"]["clock_uncertainty_ns"].count();
    for (const Json& event : whole["traceEvents"].array()) read(event);
    check_streams();
    check_flows();
    for (const auto& [process, samples] : live_bytes)
      for (std::size_t i = 0; i < samples.size(); ++i) {
        CHECK(!samples[i].bytes.empty());
        CHECK((i == 0 || samples[i - 1].ns <= samples[i].ns));
      }
  }

  /// The stream of a rank that has this name; there must be one.
  const Stream& stream(std::size_t process, std::string_view name) const {
    const Stream* found = nullptr;
    for (const auto& [thread, stream] : streams)
      if (thread.first == process && stream.name == name) {
        REQUIRE(found == nullptr);
        found = &stream;
      }
    REQUIRE(found != nullptr);
    return *found;
  }

  std::size_t dropped_events = 0, clock_uncertainty_ns = 0;
  std::map<std::size_t, std::string> processes;
  std::map<Thread, Stream> streams;
  std::map<std::size_t, Flow> flows;
  std::map<std::size_t, std::vector<Sample>> live_bytes;  // by process

 private:
  static std::int64_t ns(const Json& number) {
    std::string text = number.text;
    const std::size_t point = text.find('.');
    REQUIRE(point + 4 == text.size());  // microseconds and three digits
    text.erase(point, 1);
    REQUIRE(text.find_first_not_of("0123456789") == std::string::npos);
    return std::stoll(text);
  }

  void read(const Json& event) {
    const std::string phase = event["ph"].string(), name = event["name"].string();
    const std::size_t process = event["pid"].count();
    CHECK(!name.empty());
    if (phase == "C") {
      CHECK(name == "live bytes");
      Sample sample{ns(event["ts"]), {}};
      const Json& bytes = event["args"];
      for (const std::string& purpose : bytes.keys) sample.bytes[purpose] = bytes[purpose].count();
      live_bytes[process].push_back(std::move(sample));
      return;
    }
    if (phase == "M" && name == "process_name") {
      CHECK(processes.emplace(process, event["args"]["name"].string()).second);
      return;
    }
    if (phase == "M" && name == "process_sort_index") {
      CHECK(event["args"]["sort_index"].count() == process);
      return;
    }
    const Thread thread{process, event["tid"].count()};
    CHECK(thread.second > 0);
    CHECK(processes.contains(process));
    Stream& stream = streams[thread];
    if (phase == "M") {
      REQUIRE(name == "thread_name");
      CHECK(stream.name.empty());
      stream.name = event["args"]["name"].string();
    } else if (phase == "X") {
      const std::int64_t begin = ns(event["ts"]);
      const std::string category = event["cat"].string();
      REQUIRE((category == "label" || category == "operation"));
      (category == "label" ? stream.labels : stream.operations)
          .push_back({name, begin, begin + ns(event["dur"])});
    } else if (phase == "i") {
      (void)ns(event["ts"]);
      stream.notes.push_back(name);
    } else {
      REQUIRE((phase == "s" || phase == "f"));
      CHECK(event.has("bp") == (phase == "f"));
      if (phase == "f") CHECK(event["bp"].string() == "e");
      Flow& flow = flows[event["id"].count()];
      (phase == "s" ? flow.from : flow.to).push_back({thread, ns(event["ts"])});
    }
  }

  static bool in_turn(const std::vector<Slice>& slices) {
    for (std::size_t i = 0; i < slices.size(); ++i)
      if (slices[i].begin_ns > slices[i].end_ns ||
          (i > 0 && slices[i - 1].end_ns > slices[i].begin_ns))
        return false;
    return true;
  }
  /// The first slice that ends at `ns` or later.
  static auto ends_from(const std::vector<Slice>& slices, std::int64_t ns) {
    return std::lower_bound(slices.begin(), slices.end(), ns,
                            [](const Slice& slice, std::int64_t t) { return slice.end_ns < t; });
  }

  /// A stream does one thing at a time, and a label begins and ends with operations.
  void check_streams() const {
    std::set<std::size_t> ids;
    for (const auto& [thread, stream] : streams) {
      CHECK(ids.insert(thread.second).second);
      CHECK(!stream.name.empty());
      CHECK(in_turn(stream.labels));
      CHECK(in_turn(stream.operations));
      bool fits = true;
      for (const Slice& label : stream.labels) {
        const auto last = ends_from(stream.operations, label.end_ns);
        auto first = ends_from(stream.operations, label.begin_ns);
        if (first != stream.operations.end() && first->begin_ns < label.begin_ns) ++first;
        fits = fits && last != stream.operations.end() && last->end_ns == label.end_ns &&
               first <= last && first->begin_ns == label.begin_ns;
      }
      CHECK(fits);
    }
  }

  /// An arrow leads from within an operation to the beginning of another stream's, forward in time.
  void check_flows() const {
    for (const auto& entry : flows) {
      const Flow& flow = entry.second;
      REQUIRE(flow.from.size() == 1);
      REQUIRE(flow.to.size() == 1);
      const End &from = flow.from[0], &to = flow.to[0];
      CHECK(from.thread != to.thread);
      const auto& sources = streams.at(from.thread).operations;
      const auto source = ends_from(sources, from.ns);
      REQUIRE(source != sources.end());
      CHECK(source->begin_ns <= from.ns);
      CHECK(source->end_ns <= to.ns + clock_error_ns_);
      const auto& targets = streams.at(to.thread).operations;
      auto target = ends_from(targets, to.ns);
      if (target != targets.end() && target->begin_ns < to.ns) ++target;
      REQUIRE(target != targets.end());
      CHECK(target->begin_ns == to.ns);
    }
  }

  std::int64_t clock_error_ns_;
};
