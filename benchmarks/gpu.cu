// SPDX-License-Identifier: Apache-2.0
// What the library reaches on a GPU, beside what the same GPU does in the same process: the speed
// of its memory, and the same kernels called by hand.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/cuda.cuh>
#include <shardexpr/device/trace.hpp>
#include <shardexpr/device/traced.hpp>
#include <shardexpr/optim/adamw.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "gpt_passes.hpp"
#include "gpu_context.hpp"
#include "rehearsal.hpp"
#include "trace_overlap.hpp"
#include "trainers_in_turns.hpp"
#include <benchmark/benchmark.h>
#include <cuda_runtime.h>

namespace shardexpr::benchmarks {
namespace {

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Cuda, and how long its host has waited for it.
class TimedCuda : public Cuda {
 public:
  void synchronize(Stream& stream) {
    const auto start = Clock::now();
    Cuda::synchronize(stream);
    waited_seconds_ += seconds_since(start);
  }
  double waited_seconds() const { return waited_seconds_; }

 private:
  double waited_seconds_ = 0;
};

void set(benchmark::State& state, const char* name, double value) {
  state.counters[name] =
      benchmark::Counter(value, benchmark::Counter::kDefaults, benchmark::Counter::kIs1000);
}

/// An error of one benchmark leaves the others alone.
template <class Body>
void guarded(benchmark::State& state, Body body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    state.SkipWithError("the GPU's memory is out");
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}

/// Times `subject()` and `reference()` in turns; each returns the seconds it took.
template <class Subject, class Reference>
Turns turns_of(benchmark::State& state, Subject subject, Reference reference) {
  Turns turns;
  subject();
  reference();
  for (bool reference_first = false; state.KeepRunning(); reference_first = !reference_first) {
    if (reference_first) turns.reference.push_back(reference());
    turns.subject.push_back(subject());
    if (!reference_first) turns.reference.push_back(reference());
    state.SetIterationTime(turns.subject.back());
  }
  return turns;
}

// Memory
// --------------------------------------------------------------------------------------------

std::size_t elements() { return is_rehearsal() ? 4096 : std::size_t{128} << 20; }

/// A device, its stream, and two arrays of it to copy between: as fast as its memory goes.
class Ceiling {
 public:
  TimedCuda device;
  Cuda::Stream stream{device, "benchmark"};

  /// Seconds of one `work()`, of as many as hide that the host starts them.
  template <class Work>
  double seconds(Work work) {
    constexpr int repeats = 10;
    device.synchronize(stream);
    const auto start = Clock::now();
    for (int i = 0; i < repeats; ++i) work();
    device.synchronize(stream);
    return seconds_since(start) / repeats;
  }
  double copy_seconds() {
    return seconds([&] { device.copy(stream, std::span<const float>{from_.span()}, to_.span()); });
  }
  /// Read and written.
  static double copied_bytes() { return static_cast<double>(elements() * 2 * sizeof(float)); }

 private:
  Cuda::Buffer<float> from_ = device.allocate<float>(elements(), Purpose::other);
  Cuda::Buffer<float> to_ = device.allocate<float>(elements(), Purpose::other);
};

/// `work(ceiling)` of so many bytes, beside the copy.
template <class Work>
void against_copy(benchmark::State& state, Ceiling& ceiling, double bytes, Work work) {
  const Turns turns = turns_of(
      state, [&] { return ceiling.seconds(work); }, [&] { return ceiling.copy_seconds(); });
  const double a_byte = bytes / Ceiling::copied_bytes();
  set(state, "bytes/s", bytes / median(turns.subject));
  set(state, "copy", Ceiling::copied_bytes() / median(turns.reference));
  set(state, "of_copy", a_byte / turns.ratio());
  set(state, "of_copy_low", a_byte / turns.ratio(0.75));
  set(state, "of_copy_high", a_byte / turns.ratio(0.25));
}

struct TriadElement {
  float* a;
  const float *b, *c;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const { a[i] = b[i] + 3.0f * c[i]; }
};

void triad(benchmark::State& state) {
  guarded(state, [&] {
    Ceiling on;
    std::array<Cuda::Buffer<float>, 3> x;
    for (auto& buffer : x) buffer = on.device.allocate<float>(elements(), Purpose::other);
    against_copy(state, on, static_cast<double>(elements() * 3 * sizeof(float)), [&] {
      on.device.for_each(on.stream, elements(), reads(x[1].span(), x[2].span()),
                         writes(x[0].span()), TriadElement{x[0].data(), x[1].data(), x[2].data()});
    });
  });
}

// The same twice: how far from 1 nothing is seen.
void copy(benchmark::State& state) {
  guarded(state, [&] {
    Ceiling on;
    auto from = on.device.allocate<bf16>(2 * elements(), Purpose::other);
    auto to = on.device.allocate<bf16>(2 * elements(), Purpose::other);
    against_copy(state, on, static_cast<double>(elements() * 4 * sizeof(bf16)),
                 [&] { on.device.copy(on.stream, std::span<const bf16>{from.span()}, to.span()); });
  });
}

template <class From, class To>
void cast(benchmark::State& state) {
  guarded(state, [&] {
    Ceiling on;
    auto from = on.device.allocate<From>(elements(), Purpose::other);
    auto to = on.device.allocate<To>(elements(), Purpose::other);
    against_copy(state, on, static_cast<double>(elements() * (sizeof(From) + sizeof(To))),
                 [&] { on.device.cast(on.stream, std::span<const From>{from.span()}, to.span()); });
  });
}

void sum_squares(benchmark::State& state) {
  guarded(state, [&] {
    Ceiling on;
    auto values = on.device.allocate<float>(elements(), Purpose::other);
    auto sum = on.device.allocate<ExactSum>(1, Purpose::other);
    against_copy(state, on, static_cast<double>(elements() * sizeof(float)), [&] {
      on.device.sum_squares(on.stream, std::span<const float>{values.span()}, sum.data());
    });
  });
}

/// Parameters, moments and their gradient, and AdamW's pass over all of them.
template <class Gradient, class Compute>
class Updated {
 public:
  static constexpr std::size_t bytes_per_element =
      6 * sizeof(float) + sizeof(Gradient) + sizeof(Compute);

  Updated(TimedCuda& device, std::size_t count)
      : p_{device.allocate<float>(count, Purpose::parameters)},
        m_{device.allocate<float>(count, Purpose::optimizer)},
        v_{device.allocate<float>(count, Purpose::optimizer)},
        g_{device.allocate<Gradient>(count, Purpose::gradients)},
        copy_{device.allocate<Compute>(count, Purpose::parameters)},
        control_{device.allocate<UpdateControl>(1, Purpose::other)} {}

  /// Once, before the first pass.
  void open(const Context<TimedCuda>& on) {
    static constexpr UpdateControl control{};
    on.device.copy(on.stream, std::span<const UpdateControl>{&control, 1}, control_.span());
    on.device.synchronize(on.stream);
  }
  void pass(const Context<TimedCuda>& on) {
    const AdamW::Update update{AdamW::Options{}, ++step_};
    apply_update(on, update, NearestRounding{}, control_.data(),
                 UpdateOperands<float, Gradient, float, Compute, 2>{
                     p_.span(), g_.span(), {m_.data(), v_.data()}, copy_.data()});
  }

 private:
  Cuda::Buffer<float> p_, m_, v_;
  Cuda::Buffer<Gradient> g_;
  Cuda::Buffer<Compute> copy_;
  Cuda::Buffer<UpdateControl> control_;
  std::size_t step_ = 0;
};

template <class Gradient, class Compute>
void adamw(benchmark::State& state) {
  guarded(state, [&] {
    Ceiling on;
    Updated<Gradient, Compute> updated{on.device, elements()};
    const Context<TimedCuda> context{on.device, on.stream};
    updated.open(context);
    against_copy(state, on,
                 static_cast<double>(elements() * Updated<Gradient, Compute>::bytes_per_element),
                 [&] { updated.pass(context); });
  });
}

#define SHARDEXPR_GPU_MEMORY(...) \
  BENCHMARK(__VA_ARGS__)->UseManualTime()->Iterations(is_rehearsal() ? 2 : 30)

SHARDEXPR_GPU_MEMORY(triad);
SHARDEXPR_GPU_MEMORY(copy);
SHARDEXPR_GPU_MEMORY(cast<fp32, bf16>);
SHARDEXPR_GPU_MEMORY(cast<bf16, fp32>);
SHARDEXPR_GPU_MEMORY(sum_squares);
SHARDEXPR_GPU_MEMORY(adamw<bf16, bf16>);
SHARDEXPR_GPU_MEMORY(adamw<fp32, bf16>);

// Training
// ------------------------------------------------------------------------------------------

constexpr double peak_flops = 989e12;  // of an H200 or H100 SXM in bf16, dense

/// GPT-2 of 124 M parameters.
GptConfig gpt2(std::size_t vocabulary, std::size_t batch) {
  if (is_rehearsal())
    return {.vocabulary = vocabulary % 100,
            .context = 16,
            .embed = 16,
            .heads = 2,
            .layers = 2,
            .batch = 1};
  return {.vocabulary = vocabulary,
          .context = 1024,
          .embed = 768,
          .heads = 12,
          .layers = 12,
          .batch = batch};
}

using Mixed = MixedPrecision<bf16, fp32>;
using Whole = Sharded<Gpt, NoShard, Mixed, On<TimedCuda>, Over<Solo>>;

/// A trainer of one rank with what it needs.
class OnGpu {
 public:
  explicit OnGpu(const GptConfig& config) : trainer_{device_, solo_, config} {}
  double step(const GptBatch& batch) { return trainer_.step(batch).loss; }
  double waited_seconds() const { return device_.waited_seconds(); }

 private:
  TimedCuda device_;
  Solo solo_;
  Whole trainer_;
};

/// The same without an engine: flat arrays, the units' own passes, the same kernel of AdamW, once
/// for each stretch of parameters that decay alike. No norm of gradients.
class HandwrittenOnGpu {
 public:
  explicit HandwrittenOnGpu(const GptConfig& config)
      : passes_{config, seed},
        master_{allocate<float>()},
        m_{allocate<float>()},
        v_{allocate<float>()},
        control_{passes_.device().template allocate<UpdateControl>(1, Purpose::other)} {
    const Context<TimedCuda> on = passes_.context();
    static constexpr UpdateControl control{};
    on.device.copy(on.stream, std::span<const UpdateControl>{&control, 1}, control_.span());
    on.device.cast(on.stream, std::span<const bf16>{passes_.parameters(), master_.span().size()},
                   master_.span());
    on.device.synchronize(on.stream);
  }
  double step(const GptBatch& batch) {
    passes_.enqueue(batch);
    ++steps_;
    std::size_t begin = 0;
    for (const auto& run : passes_.runs()) {
      AdamW::Options options;
      if (!run.decays) options.weight_decay = 0;
      const UpdateOperands<float, float, float, bf16, 2> all{
          master_.span(),
          std::span{passes_.gradients(), master_.span().size()},
          {m_.data(), v_.data()},
          passes_.parameters()};
      apply_update(passes_.context(), AdamW::Update{options, steps_}, NearestRounding{},
                   control_.data(), all.part(begin, run.end - begin));
      begin = run.end;
    }
    return passes_.finish();
  }

 private:
  template <class T>
  Cuda::Buffer<T> allocate() {
    return passes_.device().template allocate<T>(passes_.parameter_count(), Purpose::other);
  }
  GptPasses<bf16, float, TimedCuda> passes_;
  Cuda::Buffer<float> master_, m_, v_;
  Cuda::Buffer<UpdateControl> control_;
  std::size_t steps_ = 0;
};

/// Refuses a job that the GPU's free memory cannot hold.
template <class Trainer>
void check_fits(const GptConfig& config) {
  std::size_t free = 0, total = 0;
  shardexpr::detail::cuda_check(cudaMemGetInfo(&free, &total), "ask for the GPU's memory");
  const std::size_t needed = plan<Trainer>(config, 1).device_peak_bytes;
  if (needed > free)
    throw Error("needs " + std::to_string(needed >> 20) + " MiB, the GPU has " +
                std::to_string(free >> 20) + " MiB free");
}

/// Losses must fall: else a step is not a step.
void check_losses(benchmark::State& state, double first, double last) {
  set(state, "loss_first", first);
  set(state, "loss_last", last);
  if (!(last < first)) state.SkipWithError("the loss does not fall");
}

/// Steps a second of one rank, engine and all; what the host does meanwhile.
void train(benchmark::State& state, const GptConfig& config) {
  guarded(state, [&] {
    check_fits<Whole>(config);
    OnGpu trainer{config};
    const Tokens tokens{config, 0};
    const double first = trainer.step(tokens.batch());
    for (int i = 0; i < 2; ++i) trainer.step(tokens.batch());
    std::vector<double> times, host;
    double last = 0;
    while (state.KeepRunning()) {
      const double waited = trainer.waited_seconds();
      const auto start = Clock::now();
      last = trainer.step(tokens.batch());
      times.push_back(seconds_since(start));
      host.push_back(times.back() - (trainer.waited_seconds() - waited));
      state.SetIterationTime(times.back());
    }
    const double step = median(times), count = static_cast<double>(config.tokens());
    const Plan planned = plan<Whole>(config, 1);
    const double a_token = 6 * static_cast<double>(planned.parameter_count) +
                           6 * static_cast<double>(config.layers * config.embed * config.context);
    set(state, "tokens/s", count / step);
    set(state, "of_peak", a_token * count / step / peak_flops);
    set(state, "of_peak_counted", Gpt::step_flops(config) / step / peak_flops);
    set(state, "step_ms", step * 1e3);
    set(state, "host_ms", median(host) * 1e3);
    set(state, "host_of_step", median(host) / step);
    set(state, "planned_GB", static_cast<double>(planned.device_peak_bytes) / 1e9);
    check_losses(state, first, last);
  });
}

void tokens_per_s(benchmark::State& state) {
  train(state,
        gpt2(static_cast<std::size_t>(state.range(0)), static_cast<std::size_t>(state.range(1))));
}
// As many operations as GPT-2 has, next to nothing in each: the time that the host takes to enqueue
// a step when no full queue holds it up.
void host_alone(benchmark::State& state) {
  GptConfig config = gpt2(50304, 1);
  if (!is_rehearsal()) config.vocabulary = 64, config.context = 64, config.embed = 64;
  if (!is_rehearsal()) config.heads = 1;
  train(state, config);
}

void engine_over_handwritten(benchmark::State& state) {
  guarded(state, [&] {
    const GptConfig config = gpt2(50304, static_cast<std::size_t>(state.range(0)));
    check_fits<Whole>(config);
    OnGpu engine{config};
    HandwrittenOnGpu handwritten{config};
    const Tokens tokens{config, 0};
    std::vector<double> losses, reference_losses;
    const auto turn = [&](auto& trainer, std::vector<double>& seen) {
      return [&] {
        constexpr int steps = 3;
        const auto start = Clock::now();
        for (int i = 0; i < steps; ++i) seen.push_back(trainer.step(tokens.batch()));
        return seconds_since(start) / steps;
      };
    };
    const Turns turns = turns_of(state, turn(engine, losses), turn(handwritten, reference_losses));
    set(state, "ratio", turns.ratio());
    set(state, "ratio_low", turns.ratio(0.25));
    set(state, "ratio_high", turns.ratio(0.75));
    set(state, "step_ms", median(turns.subject) * 1e3);
    set(state, "reference_ms", median(turns.reference) * 1e3);
    check_losses(state, losses.front(), losses.back());
    const auto apart = [&](std::size_t step) {
      return std::abs(losses[step] - reference_losses[step]) / reference_losses[0];
    };
    set(state, "apart", apart(losses.size() - 1));
    // The one begins from parameters in fp32, the other from the same in bf16.
    if (!(apart(0) <= 1e-5) || !(apart(losses.size() - 1) <= 0.05))
      state.SkipWithError("the two do not train alike");
  });
}

#define SHARDEXPR_GPU_STEPS(name, iterations) \
  BENCHMARK(name)                             \
      ->UseManualTime()                       \
      ->Unit(benchmark::kMillisecond)         \
      ->Iterations(is_rehearsal() ? 2 : (iterations))

SHARDEXPR_GPU_STEPS(tokens_per_s, 12)
    ->ArgNames({"vocabulary", "batch"})
    ->Args({50304, 32})
    ->Args({50304, 64})
    ->Args({50257, 64});
SHARDEXPR_GPU_STEPS(host_alone, 40);
SHARDEXPR_GPU_STEPS(engine_over_handwritten, 8)->ArgName("batch")->Arg(32);

// Offload -------------------------------------------------------------------------------------

/// GPT-2 of 1.5 B parameters.
GptConfig gpt2_xl(std::size_t batch) {
  GptConfig config = gpt2(50304, batch);
  if (!is_rehearsal()) config.embed = 1600, config.heads = 25, config.layers = 48;
  return config;
}

using Offloaded =
    Sharded<Gpt, FullShard, OffloadAll, Mixed, ForwardPrefetch<1>, On<Traced<Cuda>>, Over<Solo>>;

/// How much of the time in which parameters go up and gradients come down the GPU also computes.
void offload_all(benchmark::State& state, const GptConfig& config) {
  guarded(state, [&] {
    check_fits<Offloaded>(config);
    Trace trace;
    Traced<Cuda> device{trace, 0};
    Solo solo;
    Offloaded trainer{device, solo, config};
    const Tokens tokens{config, 0};
    const double first = trainer.step(tokens.batch()).loss;
    const TraceMark begin{trace};
    std::vector<double> times;
    double last = 0;
    while (state.KeepRunning()) {
      const auto start = Clock::now();
      last = trainer.step(tokens.batch()).loss;
      times.push_back(seconds_since(start));
      state.SetIterationTime(times.back());
    }
    const auto copies = begin.busy({"up", "down"}), computes = begin.busy({"compute"});
    const Plan planned = plan<Offloaded>(config, 1);
    const double steps = static_cast<double>(times.size()),
                 copied = 1e-9 * static_cast<double>(length(copies));
    set(state, "hidden",
        static_cast<double>(common(copies, computes)) / static_cast<double>(length(copies)));
    set(state, "copy_ms", copied / steps * 1e3);
    set(state, "compute_ms", 1e-6 * static_cast<double>(length(computes)) / steps);
    set(state, "host_update_ms", 1e-6 * static_cast<double>(length(begin.busy({"host"}))) / steps);
    set(state, "step_ms", median(times) * 1e3);
    set(state, "copied_bytes/s",
        static_cast<double>(planned.to_device_bytes + planned.to_host_bytes) * steps / copied);
    set(state, "tokens/s", static_cast<double>(config.tokens()) / median(times));
    check_losses(state, first, last);
  });
}
void offload_all_124m(benchmark::State& state) { offload_all(state, gpt2(50304, 32)); }
void offload_all_1500m(benchmark::State& state) { offload_all(state, gpt2_xl(16)); }
SHARDEXPR_GPU_STEPS(offload_all_124m, 5);
SHARDEXPR_GPU_STEPS(offload_all_1500m, 2);

}  // namespace
}  // namespace shardexpr::benchmarks

int main(int argc, char** argv) {
  if (!shardexpr::benchmarks::describe_gpu()) return 0;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
