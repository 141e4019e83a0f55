// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "toy.hpp"

/// The smallest complete unit: one scalar parameter, its value is the loss.
template <class Unit>
struct OneUnit {
  using Config = toy::Config;
  using Batch = toy::Batch;
  template <class T>
  struct Params {
    T value;
  };
  template <template <class> class Of, class T>
  using Input = sx::Nothing<Of, T>;
  template <template <class> class Of, class T>
  using Output = toy::Loss<Of, T>;

  static constexpr Params<sx::Spec> describe(const Config&) {
    return {{"value", sx::shape(1), sx::ones}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config&) {
    return {};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Unit, D, T>& p) {
    p.context.run(sx::reads(p.w.value), sx::writes(p.out.loss),
                  [=] { p.out.loss[0] = p.w.value[0]; });
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Unit, D, T, G>& p) {
    p.context.run(sx::reads(p.dout.loss), sx::writes(p.dw.value),
                  [=] { p.dw.value[0] += p.dout.loss[0]; });
  }
};

template <class Unit>
struct OneUnitModel {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<Unit>;
};
