// SPDX-License-Identifier: Apache-2.0
// What prefetch hides. A chain of units whose computing takes a set time, over a network whose time
// is set too: what each policy leaves exposed, beside what a model of the schedule says. And
// without a network: what each policy costs beside gathering when needed.
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <utility>
#include <vector>

#include "sleeping_chain.hpp"
#include "triad.hpp"
#include "turns.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

// A chain over a network
// ----------------------------------------------------------------------------------------

// The model: one stream computes, one communicates, in the order of the schedule. Costs by unit.
struct Costs {
  std::vector<double> forward, backward, gather, reduce;
};
/// Source:  forward a1 + sum max(c_l, a_l+1), or sum (a_l + c_l) without prefetch; backward by
/// policy:
///          before: sum max(c_l, a_l-1 + r_l+1) + r1; after: sum (a_l-1 + max(c_l, r_l+1)) + r1;
///          never: sum (a + c + r). The last unit is gathered once for both.
double modelled_seconds(const Costs& c, GatherAhead ahead, bool forward_ahead) {
  const std::size_t n = c.forward.size();
  double time = 0;
  for (std::size_t l = 0; l < n; ++l) {
    const double next = l + 1 < n ? c.gather[l + 1] : 0;
    if (forward_ahead)
      time += (l == 0 ? c.gather[0] : 0) + std::max(c.forward[l], next);
    else
      time += c.gather[l] + c.forward[l];
  }
  for (std::size_t l = n; l-- > 0;) {
    const double gather = l > 0 ? c.gather[l - 1] : 0, reduce = l + 1 < n ? c.reduce[l + 1] : 0;
    if (ahead == GatherAhead::before_compute)
      time += std::max(c.backward[l], gather + reduce);
    else if (ahead == GatherAhead::after_compute)
      time += gather + std::max(c.backward[l], reduce);
    else
      time += c.backward[l] + c.reduce[l] + gather;
  }
  return ahead == GatherAhead::never ? time : time + c.reduce[0];
}

template <bool is_busy, class... Policies>
void exposed(benchmark::State& state) {
  const ChainConfig config{.is_busy = is_busy, .is_pinned = true};
  using Comm = Delayed<Threads>;
  using Trainer = Sharded<Chain, Policies..., Over<Comm>>;
  using Strategy = typename Trainer::Strategy;

  constexpr std::size_t world = 2;
  constexpr int steps = 5;
  const auto seconds_of = [](auto work) {
    const auto begin = Clock::now();
    work();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  double alone = 0, together = 0;
  for (auto _ : state) {
    alone = step_seconds_alone(config, 0, steps, seconds_of);
    launch(world, [&](Threads& threads) {
      Comm comm{std::move(threads), network_of(config, world)};
      Cpu device{Execution::asynchronous};
      Trainer trainer{device, comm, config};
      const double seconds = step_seconds(trainer, comm.rank(), steps, seconds_of);
      if (comm.rank() == 0) together = seconds;
    });
    state.SetIterationTime(together);
  }

  Costs costs;
  for (std::size_t u = 0; u < config.layers + 2; ++u) {
    const bool is_layer = u > 0 && u <= config.layers;
    const double forward = is_layer ? config.forward_seconds() : 0;
    costs.forward.push_back(forward);
    costs.backward.push_back(2 * forward);
    costs.gather.push_back(forward);  // as long over this network
    costs.reduce.push_back(forward);
  }
  const double modelled = modelled_seconds(costs, Strategy::backward_prefetch::ahead,
                                           Strategy::forward_prefetch::depth > 0);
  const double computing = 3 * static_cast<double>(config.layers) * config.forward_seconds();
  set_hidden(state, config, alone, together);
  state.counters["modelled_ms"] = (modelled - computing) * 1e3;
  state.counters["of_model"] = (together - alone) / (modelled - computing);
}

#define SHARDEXPR_EXPOSED(...)                    \
  BENCHMARK_TEMPLATE(exposed, false, __VA_ARGS__) \
      ->UseManualTime()                           \
      ->Unit(benchmark::kMillisecond)             \
      ->Iterations(1)
SHARDEXPR_EXPOSED(BackwardNone, ForwardNone);
SHARDEXPR_EXPOSED(BackwardPost, ForwardNone);
SHARDEXPR_EXPOSED(BackwardPre, ForwardNone);
SHARDEXPR_EXPOSED(BackwardNone, ForwardPrefetch<1>);
SHARDEXPR_EXPOSED(BackwardPost, ForwardPrefetch<1>);
SHARDEXPR_EXPOSED(BackwardPre, ForwardPrefetch<1>);
// For comparison: two ranks that keep two cores busy.
BENCHMARK_TEMPLATE(exposed, true, BackwardPre, ForwardPrefetch<1>)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(1);

// Without a network
// --------------------------------------------------------------------------------

const GptConfig gpt{.context = 128, .embed = 128, .heads = 4, .layers = 4, .batch = 4};

template <class... Policies>
class GptEngine {
 public:
  GptEngine(Threads& comm, Execution execution)
      : device_{execution},
        trainer_{device_, comm, gpt},
        tokens_(gpt.tokens(), static_cast<std::int32_t>(comm.rank())) {}
  double run() {
    double loss = 0;
    for (int s = 0; s < 5; ++s) loss = trainer_.step({tokens_.data(), tokens_.data()}).loss;
    return loss;
  }

 private:
  Cpu device_;
  Sharded<Gpt, Policies...> trainer_;
  std::vector<std::int32_t> tokens_;
};

/// Two ranks on a GPT of 0.8 M parameters, in turns with BackwardNone and ForwardNone on devices
/// that execute alike.
template <Execution execution, class... Policies>
void over_none(benchmark::State& state) {
  nn::use_one_blas_thread();
  launch(2, [&](Threads& comm) {
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    GptEngine<Policies...> subject{comm, execution};
    GptEngine<BackwardNone, ForwardNone> reference{comm, execution};
    double losses[2] = {};
    const auto turn = [&](auto& engine, double& loss) {
      return [&] { return seconds_together(comm, ctx, [&] { loss = engine.run(); }); };
    };
    const auto a = turn(subject, losses[0]);
    const auto b = turn(reference, losses[1]);
    a();
    b();
    const Turns turns = in_turns(state, comm, ctx, a, b);
    if (comm.rank() != 0) return;
    if (losses[0] != losses[1]) state.SkipWithError("the two do not train alike");
    state.counters["ratio"] = turns.ratio();
    state.counters["ratio_low"] = turns.ratio(0.25);
    state.counters["ratio_high"] = turns.ratio(0.75);
    state.counters["step_ms"] = median(turns.subject) * 1e3 / 5;
  });
}
#define SHARDEXPR_OVER_NONE(...)                                      \
  BENCHMARK_TEMPLATE(over_none, Execution::immediate, __VA_ARGS__)    \
      ->UseManualTime()                                               \
      ->Unit(benchmark::kMillisecond)                                 \
      ->Iterations(25);                                               \
  BENCHMARK_TEMPLATE(over_none, Execution::asynchronous, __VA_ARGS__) \
      ->UseManualTime()                                               \
      ->Unit(benchmark::kMillisecond)                                 \
      ->Iterations(25)
SHARDEXPR_OVER_NONE(BackwardNone, ForwardNone);
SHARDEXPR_OVER_NONE(BackwardPost);
SHARDEXPR_OVER_NONE(BackwardPre);
SHARDEXPR_OVER_NONE(BackwardPre, ForwardPrefetch<1>);
SHARDEXPR_OVER_NONE(ForwardPrefetch<2>);
SHARDEXPR_OVER_NONE(PrefetchBucket<500000>);
SHARDEXPR_OVER_NONE(MaxLive<600000>);
SHARDEXPR_OVER_NONE(ReuseWithin<500000>);
SHARDEXPR_OVER_NONE(PersistBelow<1000>);
SHARDEXPR_OVER_NONE(LimitGathers<2>);
SHARDEXPR_OVER_NONE(WrapEach<shardexpr::gpt::Block>);
SHARDEXPR_OVER_NONE(WrapBySize<300000>);
SHARDEXPR_OVER_NONE(WrapWhole);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
