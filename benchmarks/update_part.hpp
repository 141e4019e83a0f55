// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/optim/update.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <type_traits>

namespace shardexpr::benchmarks {

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

  std::span<const float> parameters() const { return p_.span(); }
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

}  // namespace shardexpr::benchmarks
