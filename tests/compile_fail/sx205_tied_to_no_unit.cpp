// SPDX-License-Identifier: Apache-2.0
// expect-error: SX205
// why: A tie names the unit that owns the parameter. A unit that is absent has no such parameter;
// why: one that is repeated has many.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Lost {};  // a unit that the model does not hold

struct Decoder : toy::Decoder {
  static constexpr Params<sx::Spec> describe(const toy::Config& c) {
#ifdef MUST_FAIL
    return {{"bias", sx::shape(c.inputs), sx::zeros}, sx::tied<Lost>("weight")};
#else
    return {{"bias", sx::shape(c.inputs), sx::zeros}, sx::tied<toy::Encoder>("weight")};
#endif
  }
  template <class D, class T>
  static void forward(const sx::Forward<Decoder, D, T>&) {}
  template <class D, class T, class G>
  static void backward(const sx::Backward<Decoder, D, T, G>&) {}
};
struct Model {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<toy::Encoder, Decoder>;
};
using Trainer = shardexpr::Sharded<Model>;

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
