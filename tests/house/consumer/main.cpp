// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/shardexpr.hpp>

#include <cstdio>

int main() {
  std::printf("shardexpr %d.%d.%d\n", SHARDEXPR_VERSION_MAJOR, SHARDEXPR_VERSION_MINOR,
              SHARDEXPR_VERSION_PATCH);
}
