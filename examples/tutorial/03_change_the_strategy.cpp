// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 3: another strategy is another type, and the same weights.
// [program]
#include <cstddef>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

#include "perceptron.hpp"

namespace ds = sx::deepspeed;
using perceptron::Model;

// FSDP's words, DeepSpeed's and ours name the same types.
using Sharded = sx::Sharded<Model, ds::ZeroStage<3>>;
static_assert(std::is_same_v<Sharded, sx::Sharded<Model, sx::fsdp::FULL_SHARD>>);
static_assert(std::is_same_v<Sharded, sx::Sharded<Model, sx::BackwardPre, sx::FullShard>>);
using Whole = sx::Sharded<Model, sx::fsdp::NO_SHARD>;
static_assert(std::is_same_v<Whole, sx::Sharded<Model, ds::ZeroStage<0>>>);

struct Trained {
  std::vector<float> weights;
  double loss;
  std::size_t resident_bytes, sent_bytes;  // of rank 0
};

template <class Trainer>
Trained train() {
  const perceptron::Config config;
  const typename Trainer::Options options{.optimizer = {.learning_rate = 1e-2f}};
  Trained trained{};
  sx::launch(3, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};
    const perceptron::Points points{config, comm.rank()};
    double loss = 0;
    for (int step = 1; step <= 100; ++step) loss = trainer.step(points.batch()).loss;
    std::vector<float> weights;
    trainer.summon([&](const std::string&, auto value) {  // all parameters, one by one
      weights.insert(weights.end(), value.data, value.data + value.count());
    });
    if (comm.rank() != 0) return;
    trained = {weights, loss, sx::plan<Trainer>(config, comm.size()).device_resident_bytes,
               trainer.traffic().total()};
  });
  return trained;
}

int main() {
  const Trained sharded = train<Sharded>(), whole = train<Whole>();
  std::printf("FullShard  loss %.6f  resident %zu bytes  sent %zu bytes\n", sharded.loss,
              sharded.resident_bytes, sharded.sent_bytes);
  std::printf("NoShard    loss %.6f  resident %zu bytes  sent %zu bytes\n", whole.loss,
              whole.resident_bytes, whole.sent_bytes);
  const bool same = sharded.weights == whole.weights && sharded.loss == whole.loss;
  std::printf("%zu weights: %s\n", whole.weights.size(), same ? "the same" : "DIFFERENT");
  return same && sharded.loss < 0.1 && sharded.resident_bytes < whole.resident_bytes ? 0 : 1;
}
// [program end]
