// SPDX-License-Identifier: Apache-2.0
// expect-error: SX206
// why: The tie would otherwise be found missing only when the trainer is made. Names are compared
// why: as `describe` writes them, without the unit's prefix.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Decoder : toy::Decoder {
  static constexpr Params<sx::Spec> describe(const toy::Config& c) {
#ifdef MUST_FAIL
    return {{"bias", sx::shape(c.inputs), sx::zeros}, sx::tied<toy::Encoder>("wieght")};
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
