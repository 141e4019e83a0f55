// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/checked.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/engine/trainer_name.hpp>

#include <charconv>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include "../../support/check_plan.hpp"
#include "../../support/scratch.hpp"
#include "../../support/train.hpp"
#include "strategies.hpp"
#include <doctest/doctest.h>

// What is asked of each legal strategy. All of it runs over Checked<Cpu>, so that a strategy is
// compiled once and no access is left unproven.
namespace legal {

/// A CPU that writes down what its streams are told to be doing, when it is enqueued.
class LabelledCpu : public sx::Cpu {
 public:
  using sx::Cpu::Cpu;
  void annotate(Stream&, const sx::Label& label) {
    if (log == nullptr) return;
    log->push_back(std::string{label.what} +
                   (label.unit == sx::Label::no_unit ? "" : " " + std::to_string(label.unit)));
  }
  static inline thread_local std::vector<std::string>* log = nullptr;  // of a rank's own thread
};

/// What a log says of the schedule. Offloading says more, and some words once a flat or place.
inline std::vector<std::string> schedule_words(const std::vector<std::string>& log) {
  std::vector<std::string> words;
  for (const std::string& line : log) {
    bool is_transfer = false;
    for (const char* word : {"upload", "download", "keep gradients", "fetch gradients", "store",
                             "squares", "read", "write"})
      is_transfer = is_transfer || line.starts_with(word);
    if (!is_transfer && (words.empty() || words.back() != line)) words.push_back(line);
  }
  return words;
}
using CheckedCpu = sx::Checked<LabelledCpu>;

/// The same words from the schedule alone.
struct Recorder {
  std::vector<std::string> log;
  void note(const char* what, std::size_t at) { log.push_back(what + std::to_string(at)); }
  void gather(std::size_t g) { note("gather ", g); }
  void regather(std::size_t g) { note("regather ", g); }
  void release(std::size_t g) { note("release ", g); }
  void keep(std::size_t g) { note("keep ", g); }
  void open_gradients(std::size_t g) { note("open ", g); }
  void reduce(std::size_t g) { note("reduce ", g); }
  void replicate(std::size_t g) { note("replicate ", g); }
  void close_gradients(std::size_t) {}  // no operation: memory is given back
  void update(std::size_t g) { note("update ", g); }
  void publish(std::size_t g) { note("publish ", g); }
  template <std::size_t S>
  void forward(std::size_t u) {
    note("forward ", u);
  }
  template <std::size_t S>
  void rebuild(std::size_t u) {
    note("rebuild ", u);
  }
  template <std::size_t S>
  void backward(std::size_t u) {
    note("backward ", u);
  }
};
template <class S>
std::vector<std::string> written_schedule(const toy::Config& config, std::size_t world,
                                          std::size_t micro_batches) {
  const sx::Layout<toy::Autoencoder> layout{config, sx::mesh_shape<S>(world).shards,
                                            sx::detail::grouping_of<S, toy::Autoencoder>()};
  sx::Schedule<S, toy::Autoencoder> schedule{layout};
  Recorder recorder;
  for (std::size_t m = 1; m <= micro_batches; ++m) {
    schedule.forward(recorder);
    schedule.backward(recorder, m == micro_batches);
  }
  recorder.log.insert(recorder.log.end(), {"norm", "summary"});
  schedule.update(recorder);
  return recorder.log;
}

template <class S, class D>
struct on_device;
template <class... P, class D>
struct on_device<sx::Strategy<P...>, D>
    : std::type_identity<
          sx::Strategy<std::conditional_t<sx::OnAxis<P, sx::axis::Device>, sx::On<D>, P>...>> {};
template <class S, class D = CheckedCpu>
using Trainer = sx::sharded<toy::Autoencoder, typename on_device<S, D>::type>;

/// One run of a strategy: who, how often, and how the device behaves.
struct Job {
  std::size_t world = 1, steps = 20, micro_batches = 1;
  sx::Execution execution = sx::Execution::immediate;
  std::chrono::microseconds longest_delay{0};
  std::optional<std::size_t> dropped_wait = {};  // of rank 0
  std::vector<std::string>* labels = nullptr;    // what rank 0 did, without `summon`
};

inline constexpr toy::Config config{.depth = 4};

/// Trains, and compares the plan with what was allocated and sent. `waits`, if given, learns how
/// many event waits rank 0 made.
template <class T>
Outcome train(const Job& job, std::size_t* waits = nullptr) {
  Outcome outcome;
  const sx::Plan plan = sx::plan<T>(config, job.world, job.micro_batches);
  sx::launch(job.world, [&](sx::Threads& comm) {
    const auto body = [&](auto& device) {
      typename T::Options options;
      options.micro_batches = job.micro_batches;
      std::optional<Scratch> scratch;
      if constexpr (requires { options.nvme.directory; })
        options.nvme.directory = scratch.emplace(Scratch::in_memory()).path();
      T trainer{device, comm, config, options};
      std::vector<std::vector<float>> x(job.micro_batches, std::vector<float>(20));
      std::vector<toy::Batch> batches;
      for (const auto& values : x) batches.push_back({values.data()});
      for (std::size_t s = 0; s < job.steps; ++s) {
        for (std::size_t m = 0; m < x.size(); ++m)
          toy::fill(x[m], s * job.micro_batches + m, comm.rank());
        const sx::StepResult result = trainer.step(batches);
        if (comm.rank() == 0) {
          outcome.losses.push_back(result.loss);
          outcome.norms.push_back(result.gradient_norm);
        }
      }
      check_plan(plan, device.account(), trainer.traffic(), job.steps);
      check_places(plan, device, trainer, job.steps);
      if constexpr (requires { device.wait_count(); })
        if (waits != nullptr && comm.rank() == 0) *waits = device.wait_count();
      LabelledCpu::log = nullptr;
      trainer.summon([&](const std::string&, auto value) {
        if (comm.rank() == 0)
          outcome.weights.insert(outcome.weights.end(), value.data, value.data + value.count());
      });
    };
    if constexpr (std::is_same_v<typename T::Device, CheckedCpu>) {
      LabelledCpu::log = comm.rank() == 0 ? job.labels : nullptr;
      CheckedCpu device{sx::CheckOptions{comm.rank() + 1, job.longest_delay}, job.execution};
      if (job.dropped_wait && comm.rank() == 0) device.drop_wait(*job.dropped_wait);
      body(device);
      LabelledCpu::log = nullptr;
    } else {
      sx::Cpu device{job.execution};
      body(device);
    }
  });
  return outcome;
}

/// The plainest strategy of a kind, to which the others are compared: by what changes arithmetic,
/// which is accumulation, precision, clipping, loss scale, the shard group where the copies sum in
/// two stages, and quantizing. What persists is not gathered, and so not rounded, either.
template <class S>
struct reference {
  static constexpr std::size_t group = sx::detail::group_of<typename S::sharding>;
  static constexpr bool gathers = S::weight_compression::bits != 0;
  static constexpr bool scatters = S::gradient_compression::bits != 0;
  template <class OneCopy, class Copies>
  using by_copies = std::conditional_t<group == 0, OneCopy, Copies>;
  static constexpr std::size_t shards = group == 0 ? 2 : group;
  using Sharding =
      std::conditional_t<gathers, by_copies<sx::FullShard, sx::HybridShard<shards>>,
                         by_copies<std::conditional_t<scatters, sx::ShardOptimizer, sx::NoShard>,
                                   sx::HybridShardGradOp<shards>>>;
  using Persistence = std::conditional_t<gathers, typename S::persistence, sx::PersistNone>;
  using Wrap = std::conditional_t<gathers, sx::WrapWhole, sx::WrapEach<>>;
  using type = sx::StrategyOf<Sharding, Persistence, Wrap, typename S::accumulation,
                              typename S::precision, typename S::clipping, typename S::loss_scale,
                              typename S::weight_compression, typename S::gradient_compression>;
};
template <class S>
const Outcome& reference_outcome(std::size_t world, std::size_t steps, std::size_t micro_batches) {
  struct Known {
    std::size_t world, steps, micro_batches;
    Outcome outcome;
  };
  static std::vector<Known> known;
  for (const Known& k : known)
    if (k.world == world && k.steps == steps && k.micro_batches == micro_batches) return k.outcome;
  known.push_back({world, steps, micro_batches,
                   train<Trainer<S, sx::Cpu>>(
                       {.world = world, .steps = steps, .micro_batches = micro_batches})});
  CHECK(known.back().outcome.losses.back() < known.back().outcome.losses.front());
  return known.back().outcome;
}

/// Two outcomes that differ in rounding alone. Of a gradient that is off by a factor, AdamW's
/// weights would tell little; norms tell.
inline void check_close(const Outcome& a, const Outcome& b) {
  REQUIRE(a.weights.size() == b.weights.size());
  for (std::size_t i = 0; i < a.weights.size(); ++i)
    CHECK(std::abs(a.weights[i] - b.weights[i]) < 1e-4f);
  for (std::size_t s = 0; s < a.losses.size(); ++s) {
    CHECK(a.losses[s] == doctest::Approx(b.losses[s]).epsilon(1e-5));
    CHECK(a.norms[s] == doctest::Approx(b.norms[s]).epsilon(1e-4));
  }
}

template <class S>
bool has_mesh(std::size_t world) {
  try {
    (void)sx::mesh_shape<S>(world);
    return true;
  } catch (const sx::ConfigError&) {
    return false;
  }
}

#if defined(__clang__)
inline constexpr std::size_t default_random_schedules = 40;  // sanitizers and second compilers
#else
inline constexpr std::size_t default_random_schedules = 200;
#endif

/// How many random schedules of each strategy: $SHARDEXPR_RANDOM_SCHEDULES, for a longer look.
inline std::size_t random_schedules() {
  const char* text = std::getenv("SHARDEXPR_RANDOM_SCHEDULES");
  if (text == nullptr) return default_random_schedules;
  std::size_t count = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), count);
  if (error != std::errc{} || *end != '\0' || count < 2)
    throw std::runtime_error{"SHARDEXPR_RANDOM_SCHEDULES is '" + std::string{text} +
                             "'; give a count of at least 2"};
  return count;
}

template <class S>
void check_strategy(std::initializer_list<std::size_t> worlds,
                    std::size_t schedules = random_schedules()) {
  using T = Trainer<S>;
  using Reference = typename reference<S>::type;
  const std::string name = sx::trainer_name<T>();
  CAPTURE(name);

  // 1. The same bits, and the plan to the byte.
  std::size_t smallest = 0;
  for (const std::size_t world : worlds) {
    if (!has_mesh<S>(world)) continue;
    if (smallest == 0 && world > 1) smallest = world;
    CAPTURE(world);
    for (const std::size_t micro_batches : {1, 2}) {
      CAPTURE(micro_batches);
      const Outcome& want = reference_outcome<Reference>(world, 20, micro_batches);
      CHECK(train<T>({.world = world, .micro_batches = micro_batches}) == want);
    }
  }
  REQUIRE(smallest != 0);

  // 2. The engine does what the schedule says, call by call.
  std::vector<std::string> seen;
  (void)train<T>({.world = smallest, .steps = 1, .micro_batches = 2, .labels = &seen});
  if constexpr (sx::detail::is_offloaded<S>) seen = schedule_words(seen);
  CHECK(seen == written_schedule<S>(config, smallest, 2));

  // 3. The same bits over random schedules, and no report.
  using namespace std::chrono_literals;
  std::size_t waits = 0;
  for (const std::size_t micro_batches : {1, 2}) {
    const std::size_t steps = schedules / 2;
    const Outcome& want = reference_outcome<Reference>(smallest, steps, micro_batches);
    CHECK(train<T>({.world = smallest,
                    .steps = steps,
                    .micro_batches = micro_batches,
                    .execution = sx::Execution::asynchronous,
                    .longest_delay = 20us}) == want);
  }

  // 4. Each event wait is needed: without it, a report.
  const Job steps{.world = smallest, .steps = 2, .micro_batches = 2};
  (void)train<T>(steps, &waits);
  CHECK(waits > 0);
  for (std::size_t n = 0; n < waits; ++n) {
    CAPTURE(n);
    Job job = steps;
    job.dropped_wait = n;
    std::string report;
    try {
      (void)train<T>(job);
    } catch (const sx::RankError& error) {
      report = error.what();
    }
    CHECK(report.find("race") != std::string::npos);
  }
}

}  // namespace legal
