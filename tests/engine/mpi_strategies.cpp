// SPDX-License-Identifier: Apache-2.0
// A program for mpirun: strategies over processes leave the weights, losses and norms that they
// leave over threads, to the bit, wherever the processes' memory is shared, and hold and send what
// the plan says.
#include <shardexpr/comm/mpi.hpp>

#include <chrono>
#include <cstddef>
#include <vector>

#include "../comm/watchdog.hpp"
#include "../support/check_plan.hpp"
#include "../support/mpi_session.hpp"
#include "../support/train.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {

namespace {

template <class... Ps>
using Toy = sx::Sharded<toy::Autoencoder, Ps...>;

constexpr std::size_t steps = 5;

std::size_t world() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return static_cast<std::size_t>(size);
}

template <class Trainer>
Outcome train_over_mpi(std::size_t node_ranks, sx::Execution execution, bool& is_first) {
  const toy::Config config;
  sx::Mpi comm{MPI_COMM_WORLD, {.node_ranks = node_ranks}};
  sx::Cpu device{execution};
  Trainer trainer{device, comm, config};
  Outcome outcome;
  std::vector<float> x(config.rows * config.inputs);
  for (std::size_t s = 0; s < steps; ++s) {
    toy::fill(x, s, comm.rank());
    const sx::StepResult result = trainer.step({x.data()});
    outcome.losses.push_back(result.loss);
    outcome.norms.push_back(result.gradient_norm);
  }
  // Of machines with as many ranks each, every rank's account is the plan's.
  if (node_ranks == 0 || comm.size() % node_ranks == 0)
    check_plan(sx::plan<Trainer>(config, comm.size(), 1, node_ranks), device.account(),
               trainer.traffic(), steps);
  trainer.summon([&](const std::string&, auto value) {
    outcome.weights.insert(outcome.weights.end(), value.data, value.data + value.count());
  });
  is_first = comm.rank() == 0;
  return outcome;
}

template <class... Ps>
void check_equals_threads() {
  using OverMpi = Toy<Ps..., sx::Over<sx::Mpi>>;
  bool is_first = false;
  Outcome over_threads;
  for (const std::size_t node_ranks : {0, 1, 2}) {
    CAPTURE(node_ranks);
    const auto execution = node_ranks != 1 && streams_may_have_threads()
                               ? sx::Execution::asynchronous
                               : sx::Execution::immediate;
    const Outcome over_mpi = train_over_mpi<OverMpi>(node_ranks, execution, is_first);
    if (!is_first) continue;
    if (over_threads.losses.empty()) over_threads = train_toy<Toy<Ps...>>(world(), steps);
    CHECK(over_mpi == over_threads);
  }
}

}  // namespace

REGISTER_LISTENER("mpi", 1, MpiSession);

TEST_CASE_TEMPLATE("each sharding", Sharding, sx::NoShard, sx::ShardOptimizer, sx::ShardGradOp,
                   sx::FullShard) {
  Watchdog watchdog{"shardings", std::chrono::seconds{300}};
  check_equals_threads<Sharding>();
}

TEST_CASE("prefetched, clipped, in 16 bits, offloaded") {
  Watchdog watchdog{"mixed", std::chrono::seconds{300}};
  check_equals_threads<sx::FullShard, sx::BackwardPre, sx::ForwardPrefetch<1>, sx::ClipNorm,
                       sx::OffloadAll, sx::MixedPrecision<sx::bf16, sx::bf16>>();
}

TEST_CASE("codes in place of values") {
  Watchdog watchdog{"quantized", std::chrono::seconds{300}};
  check_equals_threads<sx::FullShard, sx::QuantizedWeights, sx::QuantizedGradients>();
}

TEST_CASE("groups of ranks, whose communicators are split off") {
  Watchdog watchdog{"groups", std::chrono::seconds{300}};
  if (world() != 4) return;
  check_equals_threads<sx::HybridShard<2>, sx::BackwardPre>();
  check_equals_threads<sx::FullShard, sx::ReshardTo<2>>();
}

}  // namespace shardexpr::testing
