// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 9: what prefetching hides, seen in a trace of one step.
// [program]
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/device/trace_json.hpp>
#include <shardexpr/device/traced.hpp>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "perceptron.hpp"

using namespace std::chrono_literals;
template <class Prefetch>
using Trainer = sx::Sharded<perceptron::Model, sx::FullShard, Prefetch, sx::On<sx::Traced<sx::Cpu>>,
                            sx::Over<sx::Delayed<sx::Threads>>>;

/// Of what a trace's file says of rank 0: backwards during which something was on the way.
std::size_t overlaps(const std::string& file) {
  struct Slice {
    double begin, end;  // microseconds
  };
  std::vector<Slice> computing, communicating;
  std::ifstream in{file};
  for (std::string line; std::getline(in, line);) {  // an event a line
    char what[32];
    int unit = 0;
    double begin = 0, duration = 0;
    if (std::sscanf(
            line.c_str(),
            R"({"ph":"X","name":"%31[a-z] %d","pid":0,"tid":%*d,"cat":"label","ts":%lf,"dur":%lf)",
            what, &unit, &begin, &duration) != 4)
      continue;
    const std::string label{what};
    if (label == "backward") computing.push_back({begin, begin + duration});
    if (label == "gather" || label == "reduce") communicating.push_back({begin, begin + duration});
  }
  std::size_t count = 0;
  for (const Slice& a : computing)
    for (const Slice& b : communicating) count += a.begin < b.end && b.begin < a.end;
  return count;
}

/// Trains one step and writes its trace.
template <class Prefetch>
void trace_step(const std::string& file) {
  const perceptron::Config config{.inputs = 8, .width = 64, .depth = 6, .rows = 512};
  sx::Trace trace;  // one for all ranks
  sx::launch(2, [&](sx::Threads& threads) {
    // A thread for each stream, and a network that takes 5 ms for each collective.
    sx::Traced<sx::Cpu> device{trace, threads.rank(), sx::Execution::asynchronous};
    sx::Delayed<sx::Threads> comm{std::move(threads), sx::Network{.latency = 5ms}};
    Trainer<Prefetch> trainer{device, comm, config};
    const perceptron::Points points{config, comm.rank()};
    (void)trainer.step(points.batch());
  });
  std::ofstream out{file};
  sx::write_trace(out, trace);  // for ui.perfetto.dev
}

int main() {
  trace_step<sx::BackwardNone>("overlap_none.json");
  trace_step<sx::BackwardPre>("overlap_pre.json");
  const std::size_t none = overlaps("overlap_none.json"), pre = overlaps("overlap_pre.json");
  std::printf("communication during a backward: BackwardNone %zu times, BackwardPre %zu\n", none,
              pre);
  return none == 0 && pre > 0 ? 0 : 1;
}
// [program end]
