// SPDX-License-Identifier: Apache-2.0
// expect-error: SX307
// why: The fifth dtype of a precision is that of the units' buffers. A model without any would
// why: accept it and do nothing. FSDP's buffer_dtype is such a setting.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Buffers = sx::bf16;
#else
using Buffers = sx::fp32;
#endif
using Precision = sx::Precision<sx::fp32, sx::bf16, sx::fp32, sx::fp32, Buffers>;
using Trainer = sx::Sharded<toy::Autoencoder, Precision>;

int main() {
  sx::Cpu device;
  sx::launch(1, [&](sx::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
