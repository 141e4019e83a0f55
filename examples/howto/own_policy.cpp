// SPDX-License-Identifier: Apache-2.0
// docs/howto/own_policy.md: a sharding that the library does not have.
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

#include "../tutorial/perceptron.hpp"

// [policy]
/// Parameters and gradients whole on every rank; moments in groups of S neighbours, 1/S on each.
template <std::size_t S>
struct HybridShardOptimizer {
  using axis = sx::axis::Sharding;
  static constexpr bool parameters = false, gradients = false, optimizer = true;
  static constexpr std::size_t group = S;  // how many ranks share a copy; left out: all
};
using Trainer = sx::Sharded<perceptron::Model, HybridShardOptimizer<2>>;
// [policy end]

/// What rank 0 has after some steps of four ranks.
template <class T>
std::vector<float> train() {
  const perceptron::Config config;
  std::vector<float> weights;
  sx::launch(4, [&](sx::Threads& comm) {
    sx::Cpu device;
    T trainer{device, comm, config};
    const perceptron::Points points{config, comm.rank()};
    for (int step = 1; step <= 10; ++step) (void)trainer.step(points.batch());
    trainer.summon([&](const std::string&, auto value) {
      if (comm.rank() == 0) weights.insert(weights.end(), value.data, value.data + value.count());
    });
  });
  return weights;
}

int main() {
  const perceptron::Config config;
  // [plan]
  using Nearest = sx::Sharded<perceptron::Model, sx::HybridShardGradOp<2>>;  // one of ours
  const sx::Plan ours = sx::plan<Trainer>(config, 4), theirs = sx::plan<Nearest>(config, 4);
  const bool as_meant = ours.parameters_bytes == theirs.parameters_bytes &&
                        ours.gradients_bytes == 2 * theirs.gradients_bytes &&
                        ours.optimizer_bytes == theirs.optimizer_bytes;
  // [plan end]
  // Sums are formed in two stages, in a group and over the groups, as by every hybrid.
  const bool same = train<Trainer>() == train<Nearest>();
  std::printf("gradients of %zu bytes, moments of %zu; weights as under HybridShardGradOp<2>: %s\n",
              ours.gradients_bytes, ours.optimizer_bytes, same ? "yes" : "NO");
  return as_meant && same ? 0 : 1;
}
