// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/io/swap_file.hpp>
#include <shardexpr/shardexpr.hpp>

#include <cstdio>

int main() {
  // Of no bytes, it makes no file; it is here to be linked.
  const shardexpr::SwapFile<> file{{}, 0, 0};
  file.check();
  std::printf("shardexpr %d.%d.%d\n", SHARDEXPR_VERSION_MAJOR, SHARDEXPR_VERSION_MINOR,
              SHARDEXPR_VERSION_PATCH);
}
