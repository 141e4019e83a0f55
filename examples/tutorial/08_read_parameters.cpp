// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 8: look at the parameters, change them, evaluate.
// [program]
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>

#include "perceptron.hpp"

using Trainer = sx::Sharded<perceptron::Model, sx::FullShard>;

/// Points that training does not see.
perceptron::Points held_out(const perceptron::Config& config, std::size_t rank) {
  return {config, 1000000 + rank};
}

int main() {
  const perceptron::Config config;
  const Trainer::Options options{.optimizer = {.learning_rate = 1e-2f}};
  std::size_t elements = 0;
  double trained = 0, silenced = 0;

  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};
    for (std::size_t step = 0; step < 300; ++step) {
      const perceptron::Points points{config, step * comm.size() + comm.rank()};
      (void)trainer.step(points.batch());
    }
    const perceptron::Points others = held_out(config, comm.rank());
    const double before = trainer.evaluate(others.batch());  // the mean over the ranks

    // Every parameter, on every rank, one group after the other: nobody holds the whole.
    trainer.summon([&](const std::string& name, auto value) {
      if (comm.rank() != 0) return;
      double squares = 0;
      for (const float w : value.span()) squares += static_cast<double>(w) * static_cast<double>(w);
      std::printf("%-16s %4zu elements, norm %.3f\n", name.c_str(), value.count(),
                  std::sqrt(squares));
      elements += value.count();
    });
    {
      const auto w = trainer.gather<perceptron::Middle>(1);  // one unit, until the scope is left
      if (comm.rank() == 0) std::printf("middle.1.bias[0] is %.4f\n", w->bias[0]);
    }
    // Rank 0 changes one, and every rank takes it.
    trainer.summon(sx::WriteFrom{0}, [&](const std::string& name, auto value) {
      if (name == "last.weight")
        for (float& w : value.span()) w = 0;
    });
    const double after = trainer.evaluate(others.batch());
    if (comm.rank() == 0) trained = before, silenced = after;
  });

  double squares = 0;  // a model that answers 0 is off by the answers themselves
  for (std::size_t rank = 0; rank < 2; ++rank) {
    const perceptron::Points others = held_out(config, rank);
    for (std::size_t r = 0; r < config.rows; ++r) squares += std::pow(others.batch().y[r], 2);
  }
  const double expected = squares / static_cast<double>(2 * config.rows);
  std::printf("loss on other points %.4f; with last.weight at 0 %.4f\n", trained, silenced);
  const bool all = elements == sx::plan<Trainer>(config, 2).parameter_count;
  return all && trained < 0.1 * expected && std::abs(silenced - expected) < 1e-5 ? 0 : 1;
}
// [program end]
