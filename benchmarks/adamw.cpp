// SPDX-License-Identifier: Apache-2.0
// Optimizer updates beside the memory's own speed.
//
// Bytes are those of `apply_update`: p, g and each moment read, p, each moment and the copy
// written. Of a triad's 12 bytes 16 move, since a line is read before it is written; an update has
// read every line that it writes. `Streams` is AdamW without its root and division: what is left to
// gain.
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/fma.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/optim/adamw.hpp>
#include <shardexpr/optim/sgd.hpp>

#include <array>
#include <cstddef>
#include <type_traits>

#include "turns.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

constexpr std::size_t parameters = std::size_t{16} << 20;  // 64 MiB an array, over all threads

/// The streams of AdamW with next to no arithmetic.
struct Streams {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 2;
  struct Options {
    float learning_rate = 0;
  };
  struct Update {
    Update(const Options&, std::size_t) {}
    void operator()(float& p, float g, float* m) const {
      m[0] = multiply_add(0.9f, m[0], g);
      m[1] = multiply_add(0.9f, m[1], g);
      p = multiply_add(0.5f, p, g);
    }
  };
};

/// What one thread updates: fp32 parameters and moments, a gradient, and where it is not fp32 a
/// copy of the parameters.
template <class Policy, class Gradient, class Compute>
class Part {
  static constexpr bool copies = !std::is_same_v<Compute, float>;

 public:
  static constexpr std::size_t bytes_per_element =
      (2 + 2 * Policy::moments) * sizeof(float) + sizeof(Gradient) + (copies ? sizeof(Compute) : 0);

  explicit Part(std::size_t count)
      : p_{device_.allocate<float>(count, Purpose::parameters)},
        g_{device_.allocate<Gradient>(count, Purpose::gradients)},
        copy_{device_.allocate<Compute>(copies ? count : 0, Purpose::parameters)},
        control_{device_.allocate<UpdateControl>(1, Purpose::other)} {
    control_.data()[0] = {};
    for (auto& m : m_) m = device_.allocate<float>(count, Purpose::optimizer);
    for (std::size_t i = 0; i < count; ++i) {  // nothing that could become subnormal
      p_.data()[i] = 1;
      g_.data()[i] = Gradient(0.5f + static_cast<float>(i % 7));
    }
  }

  Context<Cpu> context() { return {device_, stream_}; }

  void pass() {
    std::array<float*, Policy::moments> moments{};
    for (std::size_t k = 0; k < moments.size(); ++k) moments[k] = m_[k].data();
    const typename Policy::Update update{typename Policy::Options{}, ++step_};
    apply_update(context(), update, NearestRounding{}, control_.data(),
                 UpdateOperands<float, Gradient, float, Compute, Policy::moments>{
                     p_.span(), g_.span(), moments, copy_.data()});
  }

 private:
  Cpu device_;
  Cpu::Stream stream_;
  Cpu::Buffer<float> p_;
  Cpu::Buffer<Gradient> g_;
  Cpu::Buffer<Compute> copy_;
  Cpu::Buffer<UpdateControl> control_;
  std::array<Cpu::Buffer<float>, Policy::moments> m_;
  std::size_t step_ = 0;
};

template <class Policy, class Gradient, class Compute>
void update(benchmark::State& state) {
  using Measured = Part<Policy, Gradient, Compute>;
  against_triad<Measured>(state, parameters, Measured::bytes_per_element);
}

#define SHARDEXPR_UPDATE(policy, gradient, compute)     \
  BENCHMARK_TEMPLATE(update, policy, gradient, compute) \
      ->ArgName("threads")                              \
      ->Arg(1)                                          \
      ->Arg(2)                                          \
      ->UseManualTime()                                 \
      ->Iterations(60)                                  \
      ->Unit(benchmark::kMillisecond)

SHARDEXPR_UPDATE(AdamW, fp32, fp32);
SHARDEXPR_UPDATE(AdamW, fp32, bf16);
SHARDEXPR_UPDATE(AdamW, bf16, bf16);
SHARDEXPR_UPDATE(AdamW, fp32, fp16);
SHARDEXPR_UPDATE(AdamW, fp16, fp16);
SHARDEXPR_UPDATE(Streams, fp32, fp32);
SHARDEXPR_UPDATE(Sgd, fp32, fp32);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
