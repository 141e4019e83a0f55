// SPDX-License-Identifier: Apache-2.0
// What docs/gpu.md and docs/cluster.md show, over the emulated runtime.
// [include]
#include <shardexpr/cuda.cuh>  // compiled by nvcc

namespace sx = shardexpr;
using Trainer =
    sx::Sharded<sx::Gpt, sx::FullShard, sx::MixedPrecision<sx::bf16, sx::fp32>, sx::On<sx::Cuda>>;
// [include end]

#include <shardexpr/comm/nccl.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "../comm/free_port.hpp"
#include <doctest/doctest.h>

TEST_CASE("two ranks on one GPU") {
  const sx::GptConfig config{
      .vocabulary = 16, .context = 4, .embed = 16, .heads = 1, .layers = 1, .batch = 1};
  double loss = 0;
  // [launch]
  sx::launch(2, [&](sx::Threads& comm) {  // ranks are threads
    sx::Cuda device{0};                   // both on the first GPU; or one each: comm.rank()
    Trainer trainer{device, comm, config};
    const std::vector<std::int32_t> tokens(config.tokens(), 3);
    const double mine = trainer.step({tokens.data(), tokens.data()}).loss;
    if (comm.rank() == 0) loss = mine;
  });
  // [launch end]
  CHECK(loss == doctest::Approx(std::log(16.0)).epsilon(0.1));
}

TEST_CASE("a process is a rank") {
  const std::string port = std::to_string(shardexpr::testing::free_port());
  setenv("RANK", "0", 1);
  setenv("WORLD_SIZE", "1", 1);
  setenv("LOCAL_RANK", "0", 1);
  setenv("MASTER_ADDR", "127.0.0.1", 1);
  setenv("MASTER_PORT", port.c_str(), 1);
  // [launched]
  const sx::Launched launched = sx::launched_by_environment();
  sx::Nccl comm{static_cast<int>(launched.local_rank), launched};
  // [launched end]
  CHECK(comm.size() == 1);
}
