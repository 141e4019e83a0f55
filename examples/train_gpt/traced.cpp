// SPDX-License-Identifier: Apache-2.0
// Each strategy once more, on a device that records.
#include "traced.hpp"

#include <shardexpr/device/trace_json.hpp>
#include <shardexpr/device/traced.hpp>

#include <cstddef>
#include <ostream>
#include <string>
#include <type_traits>

#include "machine.hpp"
#include "options.hpp"
#include "report.hpp"
#include "text.hpp"
#include "train.hpp"
#include "train_gpt_strategies.hpp"  // made by CMake from TRAIN_GPT_STRATEGIES

namespace {

template <class P>
struct Traceable {
  using type = P;
};
template <>
struct Traceable<sx::On<machine::Device>> {
  using type = sx::On<sx::Traced<machine::Device>>;
};

/// The trainer of the same policies on a traced device; void if the device is not the default.
template <class Trainer>
struct Twin {
  using type = void;
};
template <class M, class... Ps>
  requires(std::is_same_v<Ps, sx::On<machine::Device>> || ...)
struct Twin<sx::sharded<M, sx::Strategy<Ps...>>> {
  using type = sx::Sharded<M, typename Traceable<Ps>::type...>;
};

using Train = Result (*)(const Options&, const Text&, Log&, sx::Trace&);

template <class Trainer>
constexpr Train train_of() {
  using Traced = typename Twin<Trainer>::type;
  if constexpr (std::is_void_v<Traced>)
    return nullptr;
  else
    return [](const Options& o, const Text& text, Log& log, sx::Trace& trace) {
      return train_on<Traced, KeepsNothing>(o, text, log, [&](std::size_t rank) {
        return machine::make_device<DeviceOf<Traced>>(o, rank, trace, rank);
      });
    };
}

#if !defined(TRAIN_GPT_EACH_TRACED)
#define TRAIN_GPT_EACH_TRACED TRAIN_GPT_EACH_STRATEGY
#endif

Train find(const std::string& strategy) {
#define TRAIN_GPT_ENTRY(name) \
  if (strategy == #name) return train_of<strategies::strategy_##name>();
  TRAIN_GPT_EACH_TRACED(TRAIN_GPT_ENTRY)
#undef TRAIN_GPT_ENTRY
  return nullptr;
}

/// "mixed_bf16, offload_all"
std::string traced_names() {
  std::string names;
#define TRAIN_GPT_ENTRY(name) names += names.empty() ? #name : ", " #name;
  TRAIN_GPT_EACH_TRACED(TRAIN_GPT_ENTRY)
#undef TRAIN_GPT_ENTRY
  return names;
}

}  // namespace

void check_traceable(const std::string& strategy) {
  if (find(strategy) == nullptr)
    throw BadInput("--trace records what runs on " + std::string{machine::device_name} +
                   ", in this program under " + traced_names() + ", not under '" + strategy +
                   "'; leave out --trace");
}

Result train_traced(const std::string& strategy, const Options& o, const Text& text, Log& log,
                    TraceFile& file) {
  sx::Trace trace;
  const Result result = find(strategy)(o, text, log, trace);
  file.write([&](std::ostream& out) { sx::write_trace(out, trace); });
  if (const std::size_t dropped = trace.dropped_events(); dropped != 0)
    complain("--trace " + file.path() + " lacks " + std::to_string(dropped) +
             " events: each stream keeps its first " +
             std::to_string(trace.options().events_per_stream) + "; take fewer --steps");
  return result;
}
