// SPDX-License-Identifier: Apache-2.0
// An optimizer of one's own. It is a policy like ours: the trainer shards its moment, counts it in
// the plan, schedules and clips for it, and every strategy trains to the same bits.
#include <shardexpr/shardexpr.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace sx = shardexpr;

// [optimizer]
/// v <- d v + (1 - d) g^2, p <- p - lr g / (sqrt(v) + eps).
/// Source: Tieleman & Hinton, Lecture 6.5: RMSProp, COURSERA, 2012.
struct RmsProp {
  using axis = sx::axis::Optimizer;
  static constexpr std::size_t moments = 1;  // buffers as long as the parameters, zero at first
  struct Options {                           // learning_rate is a must
    float learning_rate = 1e-3f, decay = 0.99f, epsilon = 1e-8f;
  };
  static void check(const Options& o) {  // may be left out
    const sx::OptionCheck check{"RmsProp"};
    check.at_least_zero("learning_rate", o.learning_rate);
    check.below_one("decay", o.decay);
    check.above_zero("epsilon", o.epsilon);
  }
  class Update {  // made once a step, called for each element, in fp32 whatever is stored
   public:
    Update(const Options& options, std::size_t /*step, from 1*/) : o_{options} {}
    SHARDEXPR_HOST_DEVICE void operator()(float& p, float g, float* m) const {
      m[0] = sx::multiply_add(o_.decay, m[0], ((1 - o_.decay) * g) * g);
      p = sx::multiply_add(-o_.learning_rate, g / (std::sqrt(m[0]) + o_.epsilon), p);
    }

   private:
    Options o_;
  };
};
// [optimizer end]

/// Two ranks learn their tokens by heart; returns the loss of the last step.
template <class Sharding>
double train(bool prints) {
  using Trainer = sx::Sharded<sx::Gpt, Sharding, RmsProp>;
  const sx::GptConfig config{.vocabulary = 64, .context = 16, .embed = 32, .layers = 1, .batch = 4};
  typename Trainer::Options options;
  options.optimizer = {.learning_rate = 2e-3f, .decay = 0.95f};
  options.schedule = sx::LearningRateSchedule::warmup(10);
  double last = 0;
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};
    std::mt19937 random{static_cast<unsigned>(comm.rank())};
    std::vector<std::int32_t> tokens(config.tokens()), targets(config.tokens());
    for (auto& token : tokens) token = static_cast<std::int32_t>(random() % config.vocabulary);
    for (auto& token : targets) token = static_cast<std::int32_t>(random() % config.vocabulary);
    for (int step = 1; step <= 80; ++step) {
      const double loss = trainer.step({tokens.data(), targets.data()}).loss;
      if (comm.rank() != 0) continue;
      last = loss;
      if (prints && (step == 1 || step % 20 == 0)) std::printf("step %2d  loss %.4f\n", step, loss);
    }
  });
  return last;
}

int main() {
  sx::nn::use_one_blas_thread();
  const double sharded = train<sx::FullShard>(true), whole = train<sx::NoShard>(false);
  std::printf("sharded %.9f, whole %.9f: %s\n", sharded, whole,
              sharded == whole ? "the same" : "DIFFERENT");
  return sharded == whole && sharded < 2 ? 0 : 1;  // ln 64 = 4.16 at first
}
