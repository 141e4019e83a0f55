// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/io/swap_file.hpp>
#include <shardexpr/shardexpr.hpp>

#include <cstdio>

#ifdef WITH_MPI
#include <shardexpr/comm/mpi.hpp>
#endif
#ifdef WITH_CONFIG
#include "FromFile.hpp"
using Trainer = FromFile::Trainer<shardexpr::Gpt>;
#else
using Trainer = shardexpr::Sharded<shardexpr::Gpt, shardexpr::ShardGradOp>;
#endif
// What the strategy holds is told without a trainer, which takes far longer to compile.
static_assert(shardexpr::plan<Trainer>({}, 2).device_peak_bytes > 0);

int main() {
  // Of no bytes, it makes no file; it is here to be linked.
  const shardexpr::SwapFile<> file{{}, 0, 0};
  file.check();
#ifdef WITH_MPI
  try {
    const shardexpr::Mpi comm{MPI_COMM_WORLD};
    return 1;
  } catch (const shardexpr::ConfigError&) {  // nobody initialized MPI
  }
#endif
  std::printf("shardexpr %d.%d.%d\n", SHARDEXPR_VERSION_MAJOR, SHARDEXPR_VERSION_MINOR,
              SHARDEXPR_VERSION_PATCH);
#ifdef WITH_CONFIG
  std::printf("%s\n", FromFile::policies);
#endif
}
