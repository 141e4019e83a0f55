// SPDX-License-Identifier: Apache-2.0
// What quantizing does to a step: which weights units compute with, how far off gradients may be,
// and what that makes of a training. That strategies agree to the bit is in legal/quantized.cpp,
// NaNs and loss scales in precision_test.cpp.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/core/quantized_block.hpp>
#include <shardexpr/device/checked.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "../support/check_plan.hpp"
#include "../support/frozen_toy.hpp"
#include "../support/observed.hpp"
#include "../support/train.hpp"
#include "../support/unshared.hpp"
#include <doctest/doctest.h>

namespace {

template <class... Ps>
using Toy = sx::Sharded<toy::Autoencoder, Ps...>;
using Batch = std::array<float, 20>;
using Values = std::vector<std::vector<float>>;  // of each parameter, in order

Batch batch_of(std::size_t step, std::size_t rank) {
  Batch x;
  toy::fill(x, step, rank);
  return x;
}

template <class Trainer>
Values weights_of(Trainer& trainer) {
  Values all;
  trainer.summon([&](const std::string&, auto value) {
    all.emplace_back(value.data, value.data + value.count());
  });
  return all;
}
template <class Trainer>
void set_weights(Trainer& trainer, const Values& values) {
  std::size_t k = 0;
  trainer.summon(sx::WriteFrom{0}, [&](const std::string&, auto value) {
    using T = typename Trainer::Storage;
    std::transform(values[k].begin(), values[k].end(), value.data,
                   [](float x) { return static_cast<T>(x); });
    ++k;
  });
}

/// A parameter as it comes out of a gather, by hand: blocks of 64 from its own begin, the last
/// filled with zeros, of values in the compute dtype and back to it.
template <class T, std::size_t bits>
std::vector<float> rounded(const std::vector<float>& values) {
  std::vector<float> to(values.size());
  for (std::size_t at = 0; at < values.size(); at += sx::block_elements) {
    T block[sx::block_elements] = {};
    const std::size_t n = std::min(values.size() - at, sx::block_elements);
    for (std::size_t i = 0; i < n; ++i) block[i] = static_cast<T>(values[at + i]);
    sx::QuantizedBlock<bits> codes;
    sx::quantize<bits>(block, codes);
    sx::for_each_value(codes, [&](std::size_t i, float x) {
      if (i < n) to[at + i] = static_cast<float>(static_cast<T>(x));
    });
  }
  return to;
}

// Weights -----------------------------------------------------------------------------------------

template <class M, class... Ps>
struct Case {
  using Model = M;
  static constexpr std::size_t persist_below =
      sx::StrategyOf<sx::FullShard, Ps...>::persistence::persist_below;
  using Plain = sx::Sharded<M, Ps...>;
  using Quantized = sx::Sharded<M, sx::QuantizedWeights, Ps...>;
};

TEST_CASE_TEMPLATE("units compute with the rounded weights, and exact ones are updated", C,
                   Case<toy::Autoencoder>, Case<toy::Autoencoder, sx::Sgd, sx::WrapBySize<60>>,
                   Case<toy::Autoencoder, sx::MixedPrecision<sx::bf16, sx::fp32>>,
                   Case<toy::Autoencoder, sx::PersistBelow<8>>, Case<frozen_toy::Model>) {
  using Compute = typename C::Quantized::Compute;
  // The quantized trainer's loss and norm are those of a plain one that was given rounded weights.
  // One config's parameters are longer than a block.
  for (const std::size_t width : {7, 37})
    for (std::size_t world = 1; world <= 4; ++world) {
      CAPTURE(width);
      CAPTURE(world);
      sx::launch(world, [&](sx::Threads& comm) {
        const toy::Config config{.width = width};
        sx::Cpu device, other;
        typename C::Quantized quantized{device, comm, config};
        typename C::Plain plain{other, comm, config};
        const Values initial = weights_of(plain);
        CHECK(weights_of(quantized) == initial);
        std::size_t changed = 0;
        for (std::size_t s = 0; s < 10; ++s) {
          Values weights = weights_of(quantized);
          for (std::vector<float>& values : weights) {
            const std::vector<float> exact = values;
            if (values.size() >= C::persist_below) values = rounded<Compute, 8>(values);
            changed += values != exact;
          }
          set_weights(plain, weights);
          const Batch x = batch_of(s, comm.rank());
          const sx::StepResult want = plain.step({x.data()}), got = quantized.step({x.data()});
          CHECK(got.loss == want.loss);
          CHECK(got.gradient_norm == want.gradient_norm);
        }
        CHECK(changed > 10);
        CHECK(weights_of(quantized) != initial);
      });
    }
}

TEST_CASE("a guard shows what units compute with, summon what is kept") {
  sx::launch(3, [](sx::Threads& comm) {
    sx::Cpu device;
    Toy<sx::QuantizedWeights> trainer{device, comm, toy::Config{}};
    const Values weights = weights_of(trainer);
    const auto guard = trainer.gather<toy::Encoder>();
    const std::vector<float> seen(guard->weight.data, guard->weight.data + guard->weight.count());
    CHECK(seen == rounded<float, 8>(weights[0]));
    CHECK(seen != weights[0]);
  });
}

// Gradients ---------------------------------------------------------------------------------------

/// Every rank's gradients, from one step of Sgd at a rate of 1 by that rank alone.
std::vector<Values> gradients_of_ranks(std::size_t world, const Values& weights) {
  std::vector<Values> all;
  for (std::size_t rank = 0; rank < world; ++rank) {
    sx::Cpu device;
    sx::Solo comm;
    using Trainer = Toy<sx::NoShard, sx::Sgd, sx::Over<sx::Solo>>;
    typename Trainer::Options options;
    options.optimizer.learning_rate = 1;
    Trainer trainer{device, comm, toy::Config{}, options};
    set_weights(trainer, weights);
    const Batch x = batch_of(0, rank);
    (void)trainer.step({x.data()});
    Values moved = weights_of(trainer);
    for (std::size_t k = 0; k < moved.size(); ++k)
      for (std::size_t i = 0; i < moved[k].size(); ++i) moved[k][i] = weights[k][i] - moved[k][i];
    all.push_back(moved);
  }
  return all;
}
double largest_in_block(const std::vector<float>& values, std::size_t i) {
  const std::size_t begin = i / sx::block_elements * sx::block_elements;
  const std::size_t end = std::min(begin + sx::block_elements, values.size());
  double most = 0;
  for (std::size_t k = begin; k < end; ++k)
    most = std::max(most, std::abs(static_cast<double>(values[k])));
  return most;
}

TEST_CASE("a reduced gradient is off by the mean of its blocks' a/14 at most") {
  for (std::size_t world = 1; world <= 4; ++world) {
    CAPTURE(world);
    Values before, after;
    sx::launch(world, [&](sx::Threads& comm) {
      sx::Cpu device;
      using Trainer = Toy<sx::QuantizedGradients, sx::Sgd>;
      typename Trainer::Options options;
      options.optimizer.learning_rate = 1;
      Trainer trainer{device, comm, toy::Config{}, options};
      const Values first = weights_of(trainer);
      const Batch x = batch_of(0, comm.rank());
      (void)trainer.step({x.data()});
      const Values last = weights_of(trainer);
      if (comm.rank() == 0) before = first, after = last;
    });
    const std::vector<Values> ranks = gradients_of_ranks(world, before);
    double worst = 0;
    for (std::size_t k = 0; k < before.size(); ++k)
      for (std::size_t i = 0; i < before[k].size(); ++i) {
        double mean = 0, bound = 0;
        for (const Values& rank : ranks) {
          mean += static_cast<double>(rank[k][i]) / static_cast<double>(world);
          bound += largest_in_block(rank[k], i) / 14 * (1 + 0x1p-15) / static_cast<double>(world);
        }
        // Each gradient was found as a difference of weights, rounded once to fp32, here and there;
        // W + 1 roundings of the mean.
        const double w = std::abs(static_cast<double>(before[k][i])) + std::abs(mean) + bound;
        bound += static_cast<double>(world + 3) * 0x1p-24 * 2 * w;
        const double got = static_cast<double>(before[k][i]) - static_cast<double>(after[k][i]);
        worst = std::max(worst, std::abs(got - mean) / bound);
      }
    CHECK(worst <= 1);
    CHECK(worst > 0.5);  // four bits are four bits
  }
}

// Training ----------------------------------------------------------------------------------------

double norm_of(const Values& values) {
  double squares = 0;
  for (const std::vector<float>& parameter : values)
    for (const float x : parameter) squares += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(squares);
}
Values combined(const Values& a, float factor, const Values& b) {
  Values sum = a;
  for (std::size_t k = 0; k < sum.size(); ++k)
    for (std::size_t i = 0; i < sum[k].size(); ++i) sum[k][i] += factor * b[k][i];
  return sum;
}
Values mean_gradient(std::size_t world, const Values& weights) {
  const std::vector<Values> ranks = gradients_of_ranks(world, weights);
  Values mean = ranks[0];
  for (std::size_t r = 1; r < world; ++r) mean = combined(mean, 1, ranks[r]);
  return combined(mean, 1 / static_cast<float>(world) - 1, mean);
}
/// The largest curvature of the loss, by power iteration on differences of gradients.
double curvature(std::size_t world, const Values& weights) {
  constexpr float h = 0x1p-7f;
  Values v = mean_gradient(world, weights);
  double largest = 0;
  for (int i = 0; i < 10; ++i) {
    v = combined(v, static_cast<float>(1 / norm_of(v)) - 1, v);
    v = combined(mean_gradient(world, combined(weights, h, v)), -1,
                 mean_gradient(world, combined(weights, -h, v)));
    largest = norm_of(v) / (2 * static_cast<double>(h));
  }
  return largest;
}
/// How far gathers round weights, and how far at most reductions round the mean gradient.
double weights_moved(const Values& weights) {
  Values moved = weights;
  for (std::size_t k = 0; k < weights.size(); ++k) moved[k] = rounded<float, 8>(weights[k]);
  return norm_of(combined(moved, -1, weights));
}
double gradient_moved(const std::vector<Values>& ranks) {
  double squares = 0;
  for (std::size_t k = 0; k < ranks[0].size(); ++k)
    for (std::size_t i = 0; i < ranks[0][k].size(); ++i) {
      double bound = 0;
      for (const Values& rank : ranks) bound += largest_in_block(rank[k], i) / 14;
      bound /= static_cast<double>(ranks.size());
      squares += bound * bound;
    }
  return std::sqrt(squares);
}

struct Course {
  std::vector<double> losses, norms;
  std::vector<Values> weights;  // before each step
};
constexpr float rate = 0.02f;
/// Steps of Sgd on one batch.
template <class... Ps>
Course course(std::size_t world) {
  Course course;
  sx::launch(world, [&](sx::Threads& comm) {
    sx::Cpu device;
    using Trainer = Toy<sx::Sgd, Ps...>;
    typename Trainer::Options options;
    options.optimizer.learning_rate = rate;
    Trainer trainer{device, comm, toy::Config{}, options};
    const Batch x = batch_of(0, comm.rank());
    for (std::size_t s = 0; s < 8; ++s) {
      Values weights = weights_of(trainer);
      const sx::StepResult result = trainer.step({x.data()});
      if (comm.rank() != 0) continue;
      course.weights.push_back(std::move(weights));
      course.losses.push_back(result.loss);
      course.norms.push_back(result.gradient_norm);
    }
  });
  return course;
}

TEST_CASE_TEMPLATE("losses stay within what the rounding allows of those in full precision", S,
                   sx::StrategyOf<sx::QuantizedWeights>, sx::StrategyOf<sx::QuantizedGradients>,
                   sx::StrategyOf<sx::QuantizedWeights, sx::QuantizedGradients>) {
  // With L the loss, M its largest curvature, d how far weights are rounded and r how far gradients
  // are: in a step of Sgd the distance e to the weights of full precision becomes at most
  // (1 + rate M) e + rate (M d + r), and losses differ by at most |grad L| (e + d) + M/2 (e + d)^2.
  // d is known, r the norm of each element's bound, at the weights that were reached. M is twice
  // that of the start, since it changes on the way; fp32 adds the last 1e-6.
  constexpr bool weights = S::weight_compression::bits != 0,
                 gradients = S::gradient_compression::bits != 0;
  for (std::size_t world = 1; world <= 4; ++world) {
    CAPTURE(world);
    const Course exact = course<>(world);
    const Course near =
        course<typename S::weight_compression, typename S::gradient_compression>(world);
    const double m = 2 * curvature(world, exact.weights[0]);
    double e = 0, allowed = 0;
    for (std::size_t s = 0; s < exact.losses.size(); ++s) {
      CAPTURE(s);
      const double d = weights ? weights_moved(near.weights[s]) : 0;
      allowed = exact.norms[s] * (e + d) + m / 2 * (e + d) * (e + d) + 1e-6;
      CHECK(std::abs(near.losses[s] - exact.losses[s]) <= allowed);
      const double r = gradients ? gradient_moved(gradients_of_ranks(world, near.weights[s])) : 0;
      e = (1 + static_cast<double>(rate) * m) * e + static_cast<double>(rate) * (m * d + r);
    }
    // The bound says something: for gradients, that training gains. Weights are rounded in every
    // step, as far as 20 steps move them: that the loss is off by less than a third of itself.
    CHECK(allowed <
          (weights ? exact.losses.front() / 3 : exact.losses.front() - exact.losses.back()));
    CHECK(near.losses.back() < near.losses.front());
    CHECK(near.losses != exact.losses);
  }
}

template <class Trainer, class Comm = sx::Threads>
Outcome run(std::size_t world, std::size_t steps = 10, const toy::Config& config = {}) {
  Outcome outcome;
  sx::launch(world, [&](sx::Threads& threads) {
    typename Trainer::Device device;
    Comm comm{std::move(threads)};
    Trainer trainer{device, comm, config};
    for (std::size_t s = 0; s < steps; ++s) {
      const Batch x = batch_of(s, comm.rank());
      const sx::StepResult result = trainer.step({x.data()});
      if (comm.rank() != 0) continue;
      outcome.losses.push_back(result.loss);
      outcome.norms.push_back(result.gradient_norm);
    }
    check_plan(sx::plan<Trainer>(config, world), device.account(), trainer.traffic(), steps);
    for (const std::vector<float>& values : weights_of(trainer))
      if (comm.rank() == 0)
        outcome.weights.insert(outcome.weights.end(), values.begin(), values.end());
  });
  return outcome;
}

/// Trains over `Threads` twice, over ranks that share no memory, and over those again on a device
/// that finds races; plans are compared with each run.
template <class... Ps>
void check_everywhere(std::size_t world) {
  CAPTURE(world);
  const Outcome threads = run<Toy<Ps...>>(world);
  CHECK(run<Toy<Ps...>>(world) == threads);
  CHECK(run<Toy<Ps..., sx::Over<Unshared>>, Unshared>(world) == threads);
  CHECK(run<Toy<Ps..., sx::Over<Unshared>, sx::On<sx::Checked<sx::Cpu>>>, Unshared>(world) ==
        threads);
}
TEST_CASE("the same bits again, and where ranks share no memory") {
  for (std::size_t world = 1; world <= 4; ++world)
    check_everywhere<sx::QuantizedWeights, sx::QuantizedGradients>(world);
  check_everywhere<sx::QuantizedWeights, sx::ReshardTo<2>, sx::PersistBelow<8>>(4);
  check_everywhere<sx::QuantizedGradients, sx::ShardOptimizer,
                   sx::MixedPrecision<sx::bf16, sx::bf16>>(3);
  check_everywhere<sx::QuantizedWeights, sx::QuantizedGradients, sx::HybridShard<2>>(4);
}

TEST_CASE("weights travel by gathers of bytes, gradients by an all-to-all") {
  const auto calls_of = []<class... Ps>(std::type_identity<sx::Strategy<Ps...>>) {
    std::vector<std::string> calls;
    sx::launch(2, [&](sx::Threads& threads) {
      const bool records = threads.rank() == 0;
      Observed comm{std::move(threads), [&](const std::string& call) {
                      if (records) calls.push_back(call);
                    }};
      sx::Cpu device;
      sx::sharded<toy::Autoencoder, sx::Strategy<Ps...>> trainer{device, comm, toy::Config{}};
      if (records) calls.clear();
      const Batch x = batch_of(0, comm.rank());
      (void)trainer.step({x.data()});
    });
    return calls;
  };
  const auto count = [](const std::vector<std::string>& all, const char* name) {
    return std::count(all.begin(), all.end(), name);
  };
  using Plain = sx::StrategyOf<sx::Over<Observed>>;
  using Both = sx::StrategyOf<sx::QuantizedWeights, sx::QuantizedGradients, sx::Over<Observed>>;
  const auto plain = calls_of(std::type_identity<Plain>{}),
             both = calls_of(std::type_identity<Both>{});
  CHECK(count(plain, "gather") ==
        10);  // five units, the last once, the first once more for its tie
  CHECK(count(plain, "reduce_scatter") == 5);
  CHECK(count(both, "gather") == 10);
  CHECK(count(both, "barrier") == 10);  // where ranks share what they gather into
  CHECK(count(both, "reduce_scatter") == 0);
  CHECK(count(both, "all_to_all") == 5);
  CHECK(plain.size() == 16);  // and the summary
  CHECK(both.size() == 26);
}

TEST_CASE("where every parameter persists nothing is gathered, and that is said") {
  using Trainer = Toy<sx::QuantizedWeights, sx::PersistBelow<1000>>;
  CHECK_THROWS_WITH_AS((void)sx::plan<Trainer>({}, 2),
                       "QuantizedWeights: every parameter persists, so that nothing is gathered: "
                       "leave it out, or give PersistBelow less",
                       sx::ConfigError);
}

}  // namespace
