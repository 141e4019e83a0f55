// SPDX-License-Identifier: Apache-2.0
// What prefetch hides. A chain of units whose computing takes a set time, over a network whose time
// is set too: what each policy leaves exposed, beside what a model of the schedule says. And
// without a network: what each policy costs beside gathering when needed.
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "triad.hpp"
#include "turns.hpp"
#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sched.h>

namespace shardexpr::benchmarks {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// The chain
// ----------------------------------------------------------------------------------------

struct ChainConfig {
  std::size_t layers = 14, elements = 16384;
  std::chrono::microseconds forward{20000};  // of a layer; its backward takes twice as long
  bool busy = false;
};
struct ChainBatch {
  std::size_t rank = 0;
};

/// Gives the calling thread a core of its rank's own: two that compute at once must not be put on
/// one, which takes a system milliseconds to notice.
inline void stay_on_core(std::size_t rank) {
  static thread_local bool stays = false;
  if (std::exchange(stays, true)) return;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(rank % std::max(1u, std::thread::hardware_concurrency()), &cores);
  pthread_setaffinity_np(pthread_self(), sizeof cores, &cores);
}

/// Computes elsewhere, as on an accelerator, and leaves the cores to the collectives; or is `busy`
/// on one, so that collectives must wait for the system to interrupt it.
inline void compute_for(std::chrono::microseconds time, bool busy) {
  const auto end = Clock::now() + time;
  if (!busy) return std::this_thread::sleep_until(end);
  while (Clock::now() < end) benchmark::ClobberMemory();
}

template <template <class> class Of, class T>
struct Carried {
  Of<T> x;
};

// Parameters are touched by one element, so that time is what the configuration says.
template <class Self, std::size_t weight>
struct ChainUnit {
  using Config = ChainConfig;
  using Batch = ChainBatch;
  template <class T>
  struct Params {
    T w;
  };
  static constexpr Params<Spec> describe(const Config& c) {
    return {{"w", shape(weight == 0 ? 1 : c.elements), normal(0.1f)}};
  }
  template <template <class> class Of, class T>
  using Output = Carried<Of, T>;
  template <class T>
  static constexpr Output<BufferSpec, T> output(const Config&) {
    return {shape(1)};
  }
  template <class D, class T>
  static void forward(const Forward<Self, D, T>& p) {
    const auto time = weight * p.config.forward;
    if constexpr (requires { p.in.x; })
      p.context.run(reads(p.w.w, p.in.x), writes(p.out.x),
                    [out = p.out, time, busy = p.config.busy] {
                      compute_for(time, busy);
                      out.x[0] = 0;
                    });
    else
      p.context.run(reads(p.w.w), writes(p.out.x), [out = p.out, rank = p.batch.rank] {
        stay_on_core(rank);
        out.x[0] = 0;
      });
  }
  template <class D, class T, class G>
  static void backward(const Backward<Self, D, T, G>& p) {
    const auto time = 2 * weight * p.config.forward;
    p.context.run(reads(p.w.w, p.dout.x), writes(p.dw.w), [dw = p.dw, time, busy = p.config.busy] {
      compute_for(time, busy);
      dw.w[0] += 1;
    });
  }
};
struct First : ChainUnit<First, 0> {
  template <template <class> class Of, class T>
  using Input = Nothing<Of, T>;
};
struct Layer : ChainUnit<Layer, 1> {
  static constexpr Name prefix = "layer.#.";
  template <template <class> class Of, class T>
  using Input = Carried<Of, T>;
};
struct Last : ChainUnit<Last, 0> {
  template <template <class> class Of, class T>
  using Input = Carried<Of, T>;
};
struct Chain {
  using Config = ChainConfig;
  using Batch = ChainBatch;
  using Units = shardexpr::Units<First, Repeat<Layer, &Config::layers>, Last>;
};

/// Seconds a step, the median of `steps`, on rank 0.
template <class Trainer>
double step_seconds(Trainer& trainer, std::size_t rank, int steps) {
  std::vector<double> seen;
  for (int s = 0; s < steps + 1; ++s) {
    const auto begin = Clock::now();
    (void)trainer.step(ChainBatch{rank});
    if (s > 0) seen.push_back(Seconds(Clock::now() - begin).count());  // the first warms up
  }
  return median(seen);
}

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

template <bool busy, class... Policies>
void exposed(benchmark::State& state) {
  const ChainConfig config{.busy = busy};
  using Comm = Delayed<Threads>;
  using Trainer = Sharded<Chain, Policies..., Over<Comm>>;
  using Strategy = typename Trainer::Strategy;

  // A gather of a layer takes as long as its forward; so does a reduction, which sends as much.
  constexpr std::size_t world = 2;
  const double gather_seconds = Seconds(config.forward).count();
  const double sent = static_cast<double>((world - 1) * config.elements / world * sizeof(float));
  const Network network{.bytes_per_second = sent / gather_seconds};

  double alone = 0, together = 0;
  for (auto _ : state) {
    {
      Cpu device{Execution::asynchronous};
      Solo solo;
      Sharded<Chain, NoShard, Over<Solo>> trainer{device, solo, config};
      alone = step_seconds(trainer, 0, 5);
    }
    launch(world, [&](Threads& threads) {
      Comm comm{std::move(threads), network};
      Cpu device{Execution::asynchronous};
      Trainer trainer{device, comm, config};
      const double seconds = step_seconds(trainer, comm.rank(), 5);
      if (comm.rank() == 0) together = seconds;
    });
    state.SetIterationTime(together);
  }

  Costs costs;
  double sending = 0;
  for (std::size_t u = 0; u < config.layers + 2; ++u) {
    const bool is_layer = u > 0 && u <= config.layers;
    const double forward = is_layer ? Seconds(config.forward).count() : 0;
    const double gather = is_layer ? gather_seconds : 0;
    costs.forward.push_back(forward);
    costs.backward.push_back(2 * forward);
    costs.gather.push_back(gather);
    costs.reduce.push_back(gather);
    sending += 3 * gather;
  }
  const double modelled = modelled_seconds(costs, Strategy::backward_prefetch::ahead,
                                           Strategy::forward_prefetch::depth > 0);
  const double computing = 3 * static_cast<double>(config.layers) * gather_seconds;
  state.counters["exposed_ms"] = (together - alone) * 1e3;
  state.counters["modelled_ms"] = (modelled - computing) * 1e3;
  state.counters["of_model"] = (together - alone) / (modelled - computing);
  state.counters["hidden"] = 1 - (together - alone) / sending;
  state.counters["alone_ms"] = alone * 1e3;
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
