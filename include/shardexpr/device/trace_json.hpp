// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/function_name.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/label.hpp>
#include <shardexpr/device/trace.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

namespace shardexpr {

namespace detail {

/// Writes a `Trace` as Chrome trace events, one a line.
class TraceWriter {
 public:
  TraceWriter(std::ostream& out, const Trace& trace)
      : out_{out}, trace_{trace}, streams_{trace.streams()} {}

  void write() {
    out_ << "{\"traceEvents\":[";
    for (std::size_t i = 0; i < streams_.size(); ++i) index(*streams_[i], i + 1);
    for (std::size_t i = 0; i < streams_.size(); ++i) {
      const bool is_first = i == 0 || streams_[i - 1]->rank() != streams_[i]->rank();
      if (is_first) write_process(streams_[i]->rank());
      write_stream(*streams_[i], i + 1);
    }
    write_live_bytes();
    // Read last, so that what was dropped while the trace was written is counted.
    out_ << "\n],\"displayTimeUnit\":\"ms\",\"otherData\":{\"dropped_events\":"
         << digits(trace_.dropped_events())
         << ",\"events_per_stream\":" << digits(trace_.options().events_per_stream)
         << ",\"clock_uncertainty_ns\":" << digits(clock_uncertainty_ns()) << "}}\n";
  }

 private:
  /// A stream in the file.
  struct Thread {
    std::size_t id = 0;
    std::vector<const TraceEvent*> operations;  // by number
  };
  void index(const StreamTrace& stream, std::size_t id) {
    Thread& thread = threads_[&stream];
    thread.id = id;
    for (const TraceEvent& event : stream.events())
      if (event.kind == TraceKind::operation) thread.operations.push_back(&event);
  }

  /// By how much times of a GPU's clock may be off beside the host's.
  std::int64_t clock_uncertainty_ns() const {
    std::int64_t most = 0;
    for (const StreamTrace* stream : streams_)
      most = std::max(most, stream->clock_match().uncertainty_ns);
    return most;
  }

  void write_process(std::size_t rank) {
    begin("M", "process_name", rank);
    line_ += ",\"args\":{\"name\":\"rank " + digits(rank) + "\"}";
    end();
    begin("M", "process_sort_index", rank);
    line_ += ",\"args\":{\"sort_index\":" + digits(rank) + "}";
    end();
  }

  void write_stream(const StreamTrace& stream, std::size_t thread) {
    begin("M", "thread_name", stream.rank(), thread);
    line_ += ",\"args\":{\"name\":";
    quote(stream.name());
    line_ += "}";
    end();
    Label label;
    std::vector<const TraceEvent*> operations;  // since the label
    std::map<const StreamTrace*, std::size_t> joined;
    std::int64_t last_ns = 0;
    const auto flush = [&] {
      if (!operations.empty() && !(label.what.empty() && label.unit == Label::no_unit))
        write_slice(text_of(label), "label", stream, thread, operations.front()->begin_ns,
                    operations.back()->end_ns);
      for (const TraceEvent* operation : operations)
        write_slice(bare_function_name(operation->where.function_name()), "operation", stream,
                    thread, operation->begin_ns, operation->end_ns);
      operations.clear();
    };
    std::vector<const TraceEvent*> joins;  // since the last operation
    std::vector<Flow> flows;
    for (const TraceEvent& event : stream.events()) switch (event.kind) {
        case TraceKind::annotation:
          flush();
          label = event.label;
          break;
        case TraceKind::join:
          joins.push_back(&event);
          break;
        case TraceKind::live_bytes:
          live_bytes_.push_back({stream.rank(), &event});
          last_ns = event.begin_ns;
          break;
        case TraceKind::operation:
          operations.push_back(&event);
          last_ns = event.end_ns;
          for (const TraceEvent* join : joins) {
            std::size_t& newest = joined[join->source];
            if (join->number <= newest) continue;  // an earlier wait covers it
            newest = join->number;
            flows.push_back({join, event.begin_ns});
          }
          joins.clear();
          break;
      }
    flush();
    for (const Flow& flow : flows) write_flow(flow, stream, thread);
    if (stream.dropped() == 0) return;
    begin("i", digits(stream.dropped()) + " events dropped: the buffer is full", stream.rank(),
          thread);
    time("ts", last_ns);
    line_ += ",\"s\":\"t\"";
    end();
  }

  void write_slice(std::string_view name, std::string_view category, const StreamTrace& stream,
                   std::size_t thread, std::int64_t begin_ns, std::int64_t end_ns) {
    begin("X", name, stream.rank(), thread);
    line_ += ",\"cat\":\"";
    line_ += category;
    line_ += "\"";
    time("ts", begin_ns);
    time("dur", end_ns - begin_ns);
    end();
  }

  struct Flow {
    const TraceEvent* join;
    std::int64_t to_ns;
  };
  /// An arrow from the operation that was waited for to the one that waited. A viewer hangs its
  /// ends on the slices that stand there, so the start is a nanosecond inside of its slice.
  void write_flow(const Flow& flow, const StreamTrace& stream, std::size_t thread) {
    const Thread& source = threads_[flow.join->source];
    const auto number_below = [](const TraceEvent* event, std::size_t number) {
      return event->number < number;
    };
    const auto at = std::lower_bound(source.operations.begin(), source.operations.end(),
                                     flow.join->number, number_below);
    if (at == source.operations.end() || (*at)->number != flow.join->number)
      return;  // dropped, which is counted, or newer than this reading
    begin("s", "wait", flow.join->source->rank(), source.id);
    line_ += ",\"cat\":\"wait\",\"id\":" + digits(++flow_count_);
    time("ts", std::max((*at)->begin_ns, (*at)->end_ns - 1));
    end();
    begin("f", "wait", stream.rank(), thread);
    line_ += ",\"cat\":\"wait\",\"bp\":\"e\",\"id\":" + digits(flow_count_);
    time("ts", flow.to_ns);
    end();
  }

  /// Each sample says all purposes of its rank that are ever noted: viewers stack them. Those of
  /// the host come behind the device's.
  void write_live_bytes() {
    std::stable_sort(live_bytes_.begin(), live_bytes_.end(), [](const Live& a, const Live& b) {
      return a.rank != b.rank ? a.rank < b.rank : a.event->begin_ns < b.event->begin_ns;
    });
    for (auto first = live_bytes_.begin(); first != live_bytes_.end();) {
      const auto last = std::find_if(first, live_bytes_.end(),
                                     [&](const Live& live) { return live.rank != first->rank; });
      std::array<bool, 2 * purpose_count> noted{};
      std::array<std::size_t, 2 * purpose_count> bytes{};
      for (auto at = first; at != last; ++at) noted[index_of(*at->event)] = true;
      for (; first != last; ++first) {
        bytes[index_of(*first->event)] = first->event->size_bytes;
        begin("C", "live bytes", first->rank);
        time("ts", first->event->begin_ns);
        line_ += ",\"args\":{";
        const char* separator = "\"";
        for (std::size_t p = 0; p < noted.size(); ++p) {
          if (!noted[p]) continue;
          line_ += separator;
          if (p >= purpose_count) line_ += "host ";
          line_ += purpose_names[p % purpose_count];
          line_ += "\":" + digits(bytes[p]);
          separator = ",\"";
        }
        line_ += "}";
        end();
      }
    }
  }

  // Text --------------------------------------------------------------------------------------

  void begin(std::string_view phase, std::string_view name, std::size_t rank) {
    line_ = is_first_ ? "\n{\"ph\":\"" : ",\n{\"ph\":\"";
    is_first_ = false;
    line_ += phase;
    line_ += "\",\"name\":";
    quote(name);
    line_ += ",\"pid\":" + digits(rank);
  }
  void begin(std::string_view phase, std::string_view name, std::size_t rank, std::size_t thread) {
    begin(phase, name, rank);
    line_ += ",\"tid\":" + digits(thread);
  }
  void end() {
    line_ += '}';
    out_.write(line_.data(), static_cast<std::streamsize>(line_.size()));
  }
  /// In microseconds, exactly.
  void time(std::string_view name, std::int64_t ns) {
    line_ += ",\"";
    line_ += name;
    line_ += "\":" + digits(ns / 1000) + ".";
    const std::string rest = digits(ns % 1000);
    line_.append(3 - rest.size(), '0');
    line_ += rest;
  }
  void quote(std::string_view text) {
    static constexpr std::string_view hex = "0123456789abcdef";
    line_ += '"';
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '"' || c == '\\')
        (line_ += '\\') += c;
      else if (byte < 0x20)
        ((line_ += "\\u00") += hex[byte >> 4]) += hex[byte & 15];
      else
        line_ += c;
    }
    line_ += '"';
  }
  static std::string text_of(const Label& label) {
    std::string text{label.what};
    if (label.unit != Label::no_unit) text += (text.empty() ? "" : " ") + digits(label.unit);
    return text;
  }
  template <class T>
  static std::string digits(T value) {  // a stream's would be grouped by its locale
    std::array<char, 24> text;
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
    return {text.data(), end};
  }
  static std::size_t index_of(const TraceEvent& live_bytes) {
    const std::size_t first = live_bytes.on_host ? purpose_count : 0;
    return first + static_cast<std::size_t>(live_bytes.purpose);
  }

  struct Live {
    std::size_t rank;
    const TraceEvent* event;
  };
  std::ostream& out_;
  const Trace& trace_;
  std::vector<const StreamTrace*> streams_;  // a thread each, numbered from 1
  std::map<const StreamTrace*, Thread> threads_;
  std::vector<Live> live_bytes_;
  std::string line_;
  std::size_t flow_count_ = 0;
  bool is_first_ = true;
};

}  // namespace detail

/// Writes what was recorded in the JSON trace event format, which ui.perfetto.dev and
/// chrome://tracing show: a process a rank, a thread a stream, a slice an operation, around them a
/// slice for each label, an arrow for each wait that joined two streams, and the live bytes.
///
/// Units:   microseconds since the trace was made.
/// Order:   at any time; operations that are not complete are left out.
/// Errors:  those of the stream; look at its state.
/// Cost:    some 110 bytes an operation.
/// Source:  "Trace Event Format", Google, 2016.
inline void write_trace(std::ostream& out, const Trace& trace) {
  detail::TraceWriter{out, trace}.write();
}

}  // namespace shardexpr
